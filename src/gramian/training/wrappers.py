"""What wraps optimisers, modules and tensors: the optimiser within, names without prefixes, the whole of shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gramian.errors import OptionError

__all__ = ["Place", "parameters_of", "unwrap_optimizer", "whole_tensor"]

_HOOKS = "_optimizer_step_post_hooks"

_TRANSPARENT = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes under which torch.compile, FSDP and activation checkpointing hold the module that they wrap."""

_HOLD_A_MODULE = ("DataParallel", "DistributedDataParallel", "DeepSpeedEngine", "AveragedModel")
"""Classes that hold it as `module`, an attribute that other modules have for something of their own."""

_DEEPEST = 8


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in a model."""

    name: str
    """Without the prefixes of wrappers."""
    raw: str
    """As `model.named_parameters()` says it."""
    module: nn.Module
    """The module whose parameter it is."""
    parameter: Tensor

    @property
    def path(self) -> tuple[str, ...]:
        """The names on the way to the module."""
        return tuple(self.raw.split(".")[:-1])

    @property
    def key(self) -> str:
        """The name of the parameter within its module."""
        return self.raw.rpartition(".")[2]


def parameters_of(model: nn.Module) -> dict[str, Place]:
    """Give every parameter of a model by its name without the prefixes of wrappers.

    Tied ones are there under each of their names. Where two would be called alike, the second keeps the name that torch
    gives it.

    Examples:
        >>> import torch
        >>> list(parameters_of(torch.nn.DataParallel(torch.nn.Linear(2, 2))))
        ['weight', 'bias']
    """
    found: dict[str, Place] = {}
    for place in _places(model):
        found[place.raw if place.name in found else place.name] = place
    return found


def _places(model: nn.Module) -> Iterator[Place]:
    modules: dict[str, nn.Module] = {}
    clean: dict[str, str] = {}
    for raw, module in model.named_modules(remove_duplicate=False):
        parent, _, key = raw.rpartition(".")
        above = clean.get(parent, parent) if raw else ""
        clean[raw] = above if not raw or _is_wrapped(modules.get(parent), key) else _joined(above, key)
        modules[raw] = module
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield Place(_joined(clean[raw], name), _joined(raw, name), module, parameter)


def _is_wrapped(module: nn.Module | None, key: str) -> bool:
    return key in _TRANSPARENT or (
        key == "module" and any(kind.__name__ in _HOLD_A_MODULE for kind in type(module).__mro__)
    )


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """Give the optimiser whose step changes the weights: what Accelerate, Lightning and others hold as `.optimizer`.

    A wrapper that has step hooks of its own, as one has that steps in a way of its own, is the optimiser itself.

    Raises:
        OptionError: If it is no optimiser, wraps none, or has no step hooks.
    """
    current = optimizer
    for _ in range(_DEEPEST):
        inner = getattr(current, "optimizer", None)
        if not all(hasattr(each, "param_groups") and hasattr(each, "step") for each in (current, inner)):
            break
        hooks = _own_hooks(current)
        if isinstance(current, Optimizer) and hooks is not None and hooks is not _own_hooks(inner):
            break
        current = inner
    if not isinstance(current, Optimizer):
        raise OptionError(
            f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}, which is none and holds none "
            "as .optimizer; try the optimizer whose step() changes the weights"
        )
    if not hasattr(current, _HOOKS):
        raise OptionError(
            f"optimizer must have the step hooks of torch.optim.Optimizer; got {type(current).__name__}, whose "
            "__init__ does not call that of Optimizer; try gramian.step_ after each of its steps"
        )
    return current


def _own_hooks(optimizer: Any) -> object:
    return getattr(optimizer, "__dict__", {}).get(_HOOKS)


def whole_tensor(tensor: Any) -> Tensor:
    """Give a tensor, or a whole copy of one that is spread over processes: all of them must call."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
