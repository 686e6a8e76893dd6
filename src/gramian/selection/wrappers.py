"""The parameters of a model by names without the prefixes of the modules that wrap it."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from gramian.torch_internals import WRAPPED_MODULE_ATTRIBUTES

__all__ = ["Place", "parameters_of"]


_HELD_AS = {
    **dict.fromkeys(("DataParallel", "DistributedDataParallel", "DeepSpeedEngine", "AveragedModel"), ("module",)),
    "_FabricModule": ("_forward_module", "_original_module"),
}
"""Classes of wrappers, and the attributes that hold the module; other classes use `module` for something else."""


@dataclass(frozen=True)
class Place:
    """The place of a parameter in a model."""

    name: str
    """Without the prefixes of wrappers."""
    raw: str
    """As in `model.named_parameters()`."""
    module: nn.Module
    """The module whose parameter it is."""
    parameter: Tensor
    modules: tuple[nn.Module, ...] = ()
    """The modules that contain it, from the model to `module`."""

    @property
    def path(self) -> tuple[str, ...]:
        """The names on the way to the module."""
        return tuple(self.raw.split(".")[:-1])

    @property
    def key(self) -> str:
        """The name of the parameter within its module."""
        return self.raw.rpartition(".")[2]


def parameters_of(model: nn.Module) -> dict[str, Place]:
    """Return every parameter of a model by its name without the prefixes of wrappers.

    A tied parameter appears under each of its names, and once if a wrapper holds a module under two. If two parameters
    would get the same name, the second keeps the name that torch uses.

    Examples:
        >>> import torch
        >>> list(parameters_of(torch.nn.DataParallel(torch.nn.Linear(2, 2))))
        ['weight', 'bias']
    """
    places: dict[str, Place] = {}
    for place in _places(model):
        if place.name in places and places[place.name].parameter is place.parameter:
            continue
        places[place.raw if place.name in places else place.name] = place
    return places


def _places(model: nn.Module) -> Iterator[Place]:
    modules: dict[str, nn.Module] = {}
    within: dict[str, tuple[nn.Module, ...]] = {}
    clean: dict[str, str] = {}
    for raw, module in model.named_modules(remove_duplicate=False):
        parent, _, key = raw.rpartition(".")
        above = clean.get(parent, parent) if raw else ""
        clean[raw] = above if not raw or _is_wrapped(modules.get(parent), key) else _joined(above, key)
        modules[raw] = module
        within[raw] = (*(within[parent] if raw else ()), module)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield Place(_joined(clean[raw], name), _joined(raw, name), module, parameter, within[raw])


def _is_wrapped(module: nn.Module | None, key: str) -> bool:
    return key in WRAPPED_MODULE_ATTRIBUTES or any(
        key in _HELD_AS.get(kind.__name__, ()) for kind in type(module).__mro__
    )


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
