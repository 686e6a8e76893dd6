"""Find the optimiser whose step changes the weights inside the wrappers of Accelerate, Lightning and others."""

from typing import Any

from torch.optim import Optimizer

from gramian.errors import OptionError
from gramian.torch_internals import has_step_hooks, local_step_hooks

__all__ = ["unwrap_optimizer"]

_DEEPEST = 8
"""Wrappers that are looked through."""


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """Return the optimiser whose step changes the weights: wrappers hold it as `.optimizer`.

    A wrapper with separate step hooks, and thus a different step, counts as the optimiser.

    Raises:
        OptionError: If it is not an optimiser and wraps none, or has no step hooks.
    """
    current = optimizer
    for _ in range(_DEEPEST):
        inner = getattr(current, "optimizer", None)
        if not all(hasattr(candidate, "param_groups") and hasattr(candidate, "step") for candidate in (current, inner)):
            break
        hooks = local_step_hooks(current)
        if isinstance(current, Optimizer) and hooks is not None and hooks is not local_step_hooks(inner):
            break
        current = inner
    if not isinstance(current, Optimizer):
        raise OptionError(
            f"optimizer must be a torch.optim.Optimizer; got {type(optimizer).__name__}, which is not an optimizer and "
            "has none as .optimizer; try the optimizer whose step() changes the weights"
        )
    if not has_step_hooks(current):
        raise OptionError(
            f"optimizer must have the step hooks of torch.optim.Optimizer; got {type(current).__name__}, whose "
            "__init__ does not call that of Optimizer; try gramian.step_ after each of its steps"
        )
    return current
