"""Measures of orthogonality of the tensors of a file, which are read one at a time."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from gramian.errors import GramianError
from gramian.inspection import Inspection
from gramian.inspection.inspecting import inspect_candidates
from gramian.layout import Layout
from gramian.selection import Layouts, Selector
from gramian.typing import Phi
from gramian.weights.entries import candidates_of
from gramian.weights.files import open_weights

__all__ = ["inspect_file"]


def inspect_file(
    path: Path,
    *,
    select: Selector | None = None,
    exclude: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    visit: Callable[[str, Phi], None] | None = None,
) -> Inspection:
    """Measure how far the tensors of a file are from orthonormal.

    Args:
        path: A file of weights; see `open_weights`.
        select: Which tensors; by default those that `gramian.inspect` measures in a mapping.
        exclude: Which are left out.
        layouts: Layouts by glob or regular expression of names, or one for all.
        progress: Wraps the names of the measured tensors, to show progress.
        visit: Called with the name and Φ of each measured tensor.

    Returns:
        As for `gramian.inspect`.

    Raises:
        WeightsError: If the file cannot be read.
        OptionError, LayoutError: As for `gramian.inspect`, with the path.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, w=np.eye(3, 5), b=np.ones(3))
        >>> inspection = inspect_file(path)
        >>> inspection.rows[0].name, inspection.rows[0].statistics.largest, inspection.skipped[0].reason
        ('w', 0.0, 'of 1 axes')
    """
    weights = open_weights(path)
    try:
        inspection = inspect_candidates(
            candidates_of(weights), select=select, exclude=exclude, layouts=layouts, progress=progress, visit=visit
        )
    except GramianError as error:
        raise type(error)(f"{path}: {error}") from error
    return replace(inspection, skipped=[*inspection.skipped, *weights.skipped])
