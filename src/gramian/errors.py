"""Errors and warnings with names, so that a caller can catch what it can mend."""

from collections.abc import Generator
from contextlib import contextmanager

__all__ = [
    "AttachmentWarning",
    "DataError",
    "DtypeError",
    "GramianError",
    "LayoutError",
    "MissingExtraError",
    "NotConvergedWarning",
    "OptionError",
    "OvercompleteWarning",
    "RunError",
    "ShapeError",
    "WeightsError",
    "needs_extra",
    "printable",
]


class GramianError(ValueError):
    """Base of every error that gramian raises about its input."""


class ShapeError(GramianError):
    """A tensor has the wrong rank or sizes."""


class DtypeError(GramianError, TypeError):
    """A value is not a tensor, or a tensor is not of a real floating-point dtype."""


class LayoutError(ShapeError):
    """A layout pattern is malformed, or a tensor does not fit it."""


class OptionError(GramianError):
    """An option is out of range, or names something that does not exist."""


class DataError(GramianError):
    """Images or patches cannot be used."""


class RunError(GramianError):
    """A run folder, or a file in it, cannot be read, written or resumed."""


class WeightsError(GramianError):
    """A file of weights cannot be read or written."""


class AttachmentWarning(UserWarning):
    """An attachment takes parameters over from another one, or no longer acts on one of its own."""


class MissingExtraError(GramianError, ModuleNotFoundError):
    """A package is not installed that only an extra of gramian brings."""


class OvercompleteWarning(UserWarning):
    """Groups have more vectors than dimensions (n > l), so none can be orthonormal and min L > 0."""


class NotConvergedWarning(UserWarning):
    """Groups are not orthonormal to the tolerance when `orthogonalize` ends: their vectors are dependent, say."""


@contextmanager
def needs_extra(package: str, extra: str) -> Generator[None]:
    """Tell of an import that fails in the block which extra is to be installed.

    Args:
        package: What is imported, as in gramian.coding.
        extra: The extra, as in coding.

    Raises:
        MissingExtraError: If a package of somebody else's is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if isinstance(error, MissingExtraError) or missing in ("", "gramian"):
            raise
        refusal = MissingExtraError(
            f"{package} needs {missing}, which must be installed; try pip install 'gramian[{extra}]'"
        )
        refusal.name = error.name
        raise refusal from None


def printable(name: object) -> str:
    r"""Give a name, or a message, as text that can be printed and stored: what is not printable in it as an escape.

    Examples:
        >>> printable("caf\udce9\x1b[31m\n [red].png")
        'caf\\udce9\\x1b[31m\\n [red].png'
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(name))
