"""Every use of torch that its documentation does not cover; other modules contain none.

All of them work with torch 2.13, with which the package is tested, and have the same names in torch 2.6, the oldest
supported version. Check this module first when a new version of torch breaks something.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.optim import Optimizer

__all__ = [
    "FLAT_PARAMETER_ATTRIBUTE",
    "REBUILDING_MODULES",
    "WRAPPED_MODULE_ATTRIBUTES",
    "has_step_hooks",
    "is_transformed",
    "local_step_hooks",
    "parameter_at",
    "restart_count",
    "step_was_skipped",
    "store_of_this_start",
]

is_transformed: Callable[[Tensor], bool] = is_functorch_wrapped_tensor
"""Tell whether a transform of torch.func (vmap, grad, jvp) wraps a tensor, so that it has no memory to read.

`torch.func` has no public test: the type of such a tensor is `torch.Tensor`. The name is an alias of torch's function
instead of a wrapper, because every call of the package evaluates it several times.
"""

WRAPPED_MODULE_ATTRIBUTES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Attributes in which torch.compile, FSDP and activation checkpointing hold the module that they wrap.

They are part of every parameter name, and torch has no public way to remove them.
"""

FLAT_PARAMETER_ATTRIBUTE = "_fsdp_wrapped_module"
"""The one of these attributes that FSDP1 uses: a parameter below it may be flattened."""

REBUILDING_MODULES = frozenset({"torch", "torch._utils", "torch._tensor", "torch.nn.parameter", "torch.storage"})
"""Modules whose functions the pickles of `torch.save` name to rebuild tensors and parameters.

The documentation does not describe this file format.
"""


def step_was_skipped(optimizer: Optimizer) -> bool:
    """Tell whether a gradient scaler made a fused optimiser skip its last step; this waits for the device.

    A `torch.amp.GradScaler` passes the result of its check for infinite gradients to a fused optimiser as
    `optimizer.found_inf`. The step hooks run in any case, and torch has no public way to tell them about the skip.
    """
    found_inf = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


def has_step_hooks(optimizer: Any) -> bool:
    """Tell whether `register_step_post_hook` works: a subclass may not have called the `__init__` of Optimizer.

    The method exists in any case; without the table it raises an AttributeError.
    """
    return hasattr(optimizer, _STEP_HOOKS)


def local_step_hooks(optimizer: Any) -> object:
    """Return the table of step hooks of an optimiser, or None if the object itself has none.

    Two wrappers that share a table run the same hooks. Torch has a public way to register hooks, but none to compare
    them.
    """
    return getattr(optimizer, "__dict__", {}).get(_STEP_HOOKS)


_STEP_HOOKS = "_optimizer_step_post_hooks"


def parameter_at(model: nn.Module, path: Iterable[str], key: str) -> Tensor | None:
    """Return the parameter `key` of the module at a path, or None if there is no such module or parameter.

    `get_submodule` and `get_parameter` check every name and raise errors; at every step, for every parameter, that
    takes too long. The tables of a module have had these names in all versions of torch.
    """
    module: nn.Module | None = model
    for name in path:
        module = module._modules.get(name)  # pyright: ignore[reportPrivateUsage]
        if module is None:
            return None
    return module._parameters.get(key)  # pyright: ignore[reportPrivateUsage]


def restart_count() -> int:
    """Return how many times torchrun has restarted the processes; torch has an environment variable, no function."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def store_of_this_start(store: Any) -> Any:
    """Return torchrun's store with separate keys for every start of the processes.

    The store outlives a restart; with the same keys, a process may get the address of one that no longer exists.
    `PrefixStore` is documented, but missing from the public names of torch.distributed.
    """
    from torch import distributed

    return distributed.PrefixStore(f"restart {restart_count()}", store)  # pyright: ignore[reportPrivateImportUsage]
