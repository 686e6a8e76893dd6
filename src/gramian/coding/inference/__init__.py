"""Inference: codes of minimal energy, with a bound on their distance from the minimum."""

from gramian.coding.inference.base import Inference, InferenceMethod, check_stop, duality_gap
from gramian.coding.inference.coordinate_descent import coordinate_descent
from gramian.coding.inference.fista import fista
from gramian.coding.inference.lca import lca
from gramian.errors import OptionError

__all__ = [
    "METHODS",
    "Inference",
    "InferenceMethod",
    "as_method",
    "check_stop",
    "coordinate_descent",
    "duality_gap",
    "fista",
    "lca",
]

METHODS: dict[str, InferenceMethod] = {
    "fista": fista,
    "lca": lca,
    "coordinate_descent": coordinate_descent,
}
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
