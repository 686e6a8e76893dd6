"""The matrix calculus of the gradient as code that can be read and checked, in the notation of Magnus and Neudecker."""

from gramian.calculus.by_vector import ByVector, VectorTerm
from gramian.calculus.derivation import derive, steps
from gramian.calculus.formulas import Formulas, formulas, in_decimals
from gramian.calculus.gradients import (
    derivative_by_vector,
    gradient_by_index,
    gradient_by_vec,
    gram_jacobian,
    hessian_vector_product,
    residual,
)
from gramian.calculus.kinks import LeastSubgradient, directional_derivative, min_norm_subgradient
from gramian.calculus.plain import plain_formula, plain_text
from gramian.calculus.setting import Setting
from gramian.calculus.step import CheckedStep, Step
from gramian.calculus.vec import commutation_matrix, unvec, vec

__all__ = [
    "ByVector",
    "CheckedStep",
    "Formulas",
    "LeastSubgradient",
    "Setting",
    "Step",
    "VectorTerm",
    "commutation_matrix",
    "derivative_by_vector",
    "derive",
    "directional_derivative",
    "formulas",
    "gradient_by_index",
    "gradient_by_vec",
    "gram_jacobian",
    "hessian_vector_product",
    "in_decimals",
    "min_norm_subgradient",
    "plain_formula",
    "plain_text",
    "residual",
    "steps",
    "unvec",
    "vec",
]
