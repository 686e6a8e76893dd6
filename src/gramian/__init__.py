r"""Keep groups of neural-network weights orthogonal.

The loss L = β Σ_i Σ_jk |Φ_iᵀΦ_i − I|_jk over groups of weights Φ[l, m, n], its exact derivatives, and update rules
that end exactly orthogonal.
"""

from gramian import calculus, foreach, kernels
from gramian.errors import GramianError
from gramian.layout import Layout
from gramian.objective import grad_group, grad_slice, grad_vector, loss, residual, value_and_grad
from gramian.orthogonalize import orthogonalize
from gramian.penalties import Penalty
from gramian.rules import step_
from gramian.training import attach, inspect

__version__ = "0.1.0.dev0"

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
    "residual",
    "step_",
    "value_and_grad",
]
