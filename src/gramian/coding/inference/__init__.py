"""Inference: codes of minimal energy, with a bound on their distance from the minimum."""

from gramian.coding.inference.base import Inference, InferenceMethod, check_stop, duality_gap
from gramian.coding.inference.fista import fista
from gramian.coding.inference.greedy import block_omp
from gramian.coding.inference.lca import lca
from gramian.coding.inference.support import refit
from gramian.coding.inference.thresholding import block_iht
from gramian.errors import OptionError

__all__ = [
    "METHODS",
    "Inference",
    "InferenceMethod",
    "as_method",
    "block_iht",
    "block_omp",
    "check_stop",
    "duality_gap",
    "fista",
    "lca",
    "refit",
]

METHODS: dict[str, InferenceMethod] = {"fista": fista, "lca": lca, "block_omp": block_omp, "block_iht": block_iht}
"""The inference methods by name."""


def as_method(infer: str | InferenceMethod) -> InferenceMethod:
    """Look up an inference method by name; return an `InferenceMethod` unchanged.

    Raises:
        OptionError: If no method has that name.
    """
    if callable(infer):
        return infer
    if infer not in METHODS:
        raise OptionError(f"infer must be one of {', '.join(map(repr, METHODS))} or a function; got {infer!r}")
    return METHODS[infer]
