"""The inference methods that have a name."""

from gramian.coding.fista import fista
from gramian.coding.inference import InferenceMethod
from gramian.coding.lca import lca
from gramian.errors import OptionError

__all__ = ["METHODS", "as_method"]

METHODS: dict[str, InferenceMethod] = {"fista": fista, "lca": lca}
"""The inference methods that have a name."""


def as_method(infer: str | InferenceMethod) -> InferenceMethod:
    """Turn a name or an `InferenceMethod` into a method.

    Raises:
        OptionError: If there is no method of that name.
    """
    if callable(infer):
        return infer
    if infer not in METHODS:
        raise OptionError(f"infer must be one of {', '.join(map(repr, METHODS))} or a function; got {infer!r}")
    return METHODS[infer]
