"""Named errors and warnings, so that a caller can catch those it can handle."""

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
    """Data, such as images or the entries of a tensor, cannot be used."""


class RunError(GramianError):
    """A run folder, or a file in it, cannot be read, written or resumed."""


class WeightsError(GramianError):
    """A file of weights cannot be read or written."""


class AttachmentWarning(UserWarning):
    """An attachment takes over parameters from an earlier one, or no longer updates some of its parameters."""


class MissingExtraError(GramianError, ModuleNotFoundError):
    """A package that belongs to an extra of gramian is not installed."""


class OvercompleteWarning(UserWarning):
    """Groups have more vectors than dimensions (n > l), so none can be orthonormal and min L > 0."""


class NotConvergedWarning(UserWarning):
    """Groups are not orthonormal to the tolerance when `orthogonalize` ends, for example if vectors are dependent."""


@contextmanager
def needs_extra(package: str, extra: str) -> Generator[None]:
    """Turn a failed import in the block into an error that names the extra to install.

    Args:
        package: The package that is imported, such as gramian.coding.
        extra: The extra, such as coding.

    Raises:
        MissingExtraError: If a third-party package is not installed.
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


def printable(name: object, *, most: int | None = None) -> str:
    r"""Escape the characters of a name or a message that cannot be printed.

    Args:
        name: The name or the message.
        most: Number of characters above which the middle is left out; None keeps all.

    Examples:
        >>> printable("caf\udce9\x1b[31m\n [red].png")
        'caf\\udce9\\x1b[31m\\n [red].png'
    """
    text = str(name)
    if most is not None and len(text) > most:
        text = f"{text[: most // 2]}…{text[-(most // 2) :]}"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
