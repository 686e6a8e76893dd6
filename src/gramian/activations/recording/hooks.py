"""Record the outputs of modules by forward hooks, which are always removed."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from gramian.errors import DataError, OptionError

__all__ = ["evaluating", "first_tensor", "matching_modules", "recorded_outputs"]

_SHOWN = 8
"""Number of names that a message lists."""


def matching_modules(model: nn.Module, layer: str | Sequence[str]) -> dict[str, nn.Module]:
    """Select modules of a network by globs of their names.

    Args:
        model: The network.
        layer: A glob such as `encoder.layer.*.output`, or several. `*` also matches dots; the network itself has no
            name, and is never selected.

    Returns:
        The modules by name, in the order of the network.

    Raises:
        OptionError: If a glob matches no module.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> list(matching_modules(model, "*"))
        ['0', '1']
    """
    modules = {name: module for name, module in model.named_modules() if name}
    globs = [layer] if isinstance(layer, str) else list(layer)
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in modules):
            names = ", ".join(map(repr, list(modules)[:_SHOWN]))
            raise OptionError(
                f"layer must match a module of {type(model).__name__}; got {glob!r}, which matches none of the "
                f"{len(modules)}: {names}{', …' if len(modules) > _SHOWN else ''}"
            )
    if not globs:
        raise OptionError("layer must be a glob of module names, or several; got none; try layer='*'")
    return {name: module for name, module in modules.items() if any(fnmatchcase(name, glob) for glob in globs)}


@contextlib.contextmanager
def recorded_outputs(modules: Mapping[str, nn.Module]) -> Generator[dict[str, list[Tensor]]]:
    """Record the outputs of modules in the block; the hooks are removed at its end, also after an exception.

    Args:
        modules: The modules by name.

    Yields:
        The outputs of each module by its name, one for each call, which the caller empties after each batch. From a
        tuple or a mapping, the first tensor is recorded.
    """
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}
    handles: list[Any] = []
    try:
        for name, module in modules.items():

            def record(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                outputs[name].append(first_tensor(output, name=name, module=module).detach())

            handles.append(module.register_forward_hook(record))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any, *, name: str, module: nn.Module) -> Tensor:
    """Return a tensor, or the first one of a tuple, a list or a mapping.

    Raises:
        DataError: If there is none.
    """
    values = list(output.values()) if isinstance(output, Mapping) else output
    values = values if isinstance(values, tuple | list) else [values]
    for value in values:
        if isinstance(value, Tensor):
            return value
    raise DataError(
        f"the module {name!r} must return a tensor, or a tuple or mapping with one; got {type(output).__name__} from "
        f"{type(module).__name__}; try a module inside it"
    )


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Put all modules into evaluation mode without gradients in the block, then restore the mode of each."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
