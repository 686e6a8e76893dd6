r"""Keep groups of neural-network weights orthogonal.

The loss L = β Σ_i Σ_jk |Φ_iᵀΦ_i − I|_jk over groups of weights Φ[l, m, n], its exact derivatives, and update rules
whose result is orthonormal to rounding.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gramian import calculus, foreach, kernels
    from gramian.errors import GramianError
    from gramian.inspection import inspect
    from gramian.layout import Layout
    from gramian.objective import grad_group, grad_slice, grad_vector, loss, residual, value_and_grad
    from gramian.orthogonalize import orthogonalize
    from gramian.penalties import Penalty
    from gramian.rules import step_
    from gramian.training import attach, orthogonalize_

__version__ = "0.1.0"

__all__ = [
    "GramianError",
    "Layout",
    "Penalty",
    "attach",
    "calculus",
    "foreach",
    "grad_group",
    "grad_slice",
    "grad_vector",
    "inspect",
    "kernels",
    "loss",
    "orthogonalize",
    "orthogonalize_",
    "residual",
    "step_",
    "value_and_grad",
]

_HOMES = {
    "GramianError": "errors",
    "Layout": "layout",
    "Penalty": "penalties",
    "attach": "training",
    "grad_group": "objective",
    "grad_slice": "objective",
    "grad_vector": "objective",
    "inspect": "inspection",
    "loss": "objective",
    "orthogonalize": "orthogonalize",
    "orthogonalize_": "training",
    "residual": "objective",
    "step_": "rules",
    "value_and_grad": "objective",
}
"""The module of each name. It is imported on first access, because torch takes seconds and `--version` needs none."""

_MODULES = (
    "calculus",
    "errors",
    "foreach",
    "frozen",
    "kernels",
    "layout",
    "objective",
    "penalties",
    "rules",
    "training",
    "typing",
)
"""Modules that are attributes of `gramian` too, imported on first access."""


class _Face(ModuleType):
    """The package, in which `orthogonalize` stays the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module gramian.orthogonalize sets this attribute, which would replace the function.
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
