"""The matrix calculus behind the gradient, as code to read and to check, with the names of Magnus and Neudecker."""

from gramian.calculus.derivation import STEPS, Checked, Setting, Step, derive
from gramian.calculus.gradients import (
    derivative_by_entry,
    derivative_by_vector,
    gradient_by_index,
    gradient_by_trace,
    gradient_by_vec,
    gram_jacobian,
    gram_jacobian_operator,
    hessian_vector_product,
    residual,
)
from gramian.calculus.kinks import LeastSubgradient, directional_derivative, min_norm_subgradient
from gramian.calculus.kronecker import (
    LinearOperator,
    commutation_matrix,
    commutation_operator,
    kronecker,
    kronecker_operator,
    unvec,
    vec,
)

__all__ = [
    "STEPS",
    "Checked",
    "LeastSubgradient",
    "LinearOperator",
    "Setting",
    "Step",
    "commutation_matrix",
    "commutation_operator",
    "derivative_by_entry",
    "derivative_by_vector",
    "derive",
    "directional_derivative",
    "gradient_by_index",
    "gradient_by_trace",
    "gradient_by_vec",
    "gram_jacobian",
    "gram_jacobian_operator",
    "hessian_vector_product",
    "kronecker",
    "kronecker_operator",
    "min_norm_subgradient",
    "residual",
    "unvec",
    "vec",
]
