"""Inference: codes of minimal energy, with a bound on their distance from the minimum."""

from gramian.coding.inference.automatic import infer
from gramian.coding.inference.base import Inference, InferenceMethod, check_stop, duality_gap
from gramian.coding.inference.coordinate_descent import coordinate_descent
from gramian.coding.inference.fista import fista
from gramian.coding.inference.greedy import block_omp
from gramian.coding.inference.lca import lca
from gramian.coding.inference.support import refit
from gramian.coding.inference.thresholding import block_iht
from gramian.coding.priors import Prior
from gramian.errors import OptionError

__all__ = [
    "METHODS",
    "Inference",
    "InferenceMethod",
    "as_method",
    "block_iht",
    "block_omp",
    "check_method",
    "check_stop",
    "coordinate_descent",
    "duality_gap",
    "fista",
    "lca",
    "refit",
]

METHODS: dict[str, InferenceMethod] = {
    "auto": infer,
    "fista": fista,
    "lca": lca,
    "coordinate_descent": coordinate_descent,
    "block_omp": block_omp,
    "block_iht": block_iht,
}
"""The inference methods by name."""


_MAJORIZING = (fista, lca, coordinate_descent)
_COUNTING = (block_omp, block_iht)


def as_method(infer: str | InferenceMethod) -> InferenceMethod:
    """Look up an inference method by name; return an `InferenceMethod` unchanged.

    Args:
        infer: Name or `InferenceMethod`.

    Returns:
        The method.

    Raises:
        OptionError: If no method has that name.

    Examples:
        >>> from gramian.coding import as_method, fista
        >>> as_method("fista") is fista
        True
    """
    if callable(infer):
        return infer
    if infer not in METHODS:
        raise OptionError(f"infer must be one of {', '.join(map(repr, METHODS))} or a function; got {infer!r}")
    return METHODS[infer]


def check_method(infer: str | InferenceMethod, prior: Prior) -> None:
    """Check that an inference method can minimise the energy with a prior.

    Raises:
        OptionError: If it cannot, or no method has that name.
    """
    method = as_method(infer)
    name = next((name for name, candidate in METHODS.items() if candidate is method), None)
    if (method in _MAJORIZING and not prior.has_majorizer) or (method in _COUNTING and not prior.counts_groups):
        raise OptionError(f"infer must be a method for the prior {prior!r}; got {name!r}; try infer='auto'")
