"""The matrix calculus of the gradient, in code to read and to check, with the terms of Magnus and Neudecker."""

from gramian.calculus.derivation import STEPS, CheckedStep, Step, derive
from gramian.calculus.gradients import (
    derivative_by_vector,
    gradient_by_index,
    gradient_by_vec,
    gram_jacobian,
    hessian_vector_product,
    residual,
)
from gramian.calculus.kinks import LeastSubgradient, directional_derivative, min_norm_subgradient
from gramian.calculus.setting import Setting
from gramian.calculus.vec import commutation_matrix, unvec, vec

__all__ = [
    "STEPS",
    "CheckedStep",
    "LeastSubgradient",
    "Setting",
    "Step",
    "commutation_matrix",
    "derivative_by_vector",
    "derive",
    "directional_derivative",
    "gradient_by_index",
    "gradient_by_vec",
    "gram_jacobian",
    "hessian_vector_product",
    "min_norm_subgradient",
    "residual",
    "unvec",
    "vec",
]
