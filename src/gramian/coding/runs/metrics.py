"""The metrics of a learning run: one row for each report, in a file of JSON lines."""

import json
import math
from pathlib import Path

from gramian.errors import RunError

__all__ = ["MEASURED", "Row", "metrics_text", "read_metrics"]

Row = dict[str, float]
"""A step and the quantities measured at it."""

MEASURED = ("step", "seconds", "lr", "orthogonality", "residual", "active_groups", "snr")
"""The names that the rows of every run have."""

_LONGEST_ROW = 1 << 16


def metrics_text(rows: list[Row]) -> str:
    """Return the content of a file of metrics."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_metrics(path: Path, *, measured: tuple[str, ...] = MEASURED) -> list[Row]:
    """Read a file of metrics and check every row.

    Args:
        path: The file.
        measured: The names that every row must have.

    Raises:
        RunError: If the file does not exist, a row lacks a name, a value is not a finite number, or the steps do not
            increase.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> _ = path.write_text(metrics_text([dict.fromkeys(MEASURED, 1)]))
        >>> read_metrics(path)[0]["snr"]
        1
    """
    rows: list[Row] = []
    try:
        with path.open("rb") as file:
            # Line by line, to stop at the first invalid row of a file of any size.
            while line := file.readline(_LONGEST_ROW + 1):
                if line.strip():
                    after = rows[-1]["step"] if rows else -1
                    rows.append(_row(path, len(rows) + 1, line, after=after, measured=measured))
    except FileNotFoundError as error:
        raise RunError(f"there must be metrics at {path}; got no such file") from error
    except OSError as error:
        raise RunError(f"{path} could not be read: {error.strerror or error}") from error
    return rows


def _row(path: Path, number: int, line: bytes, *, after: float, measured: tuple[str, ...]) -> Row:
    where = f"row {number} of {path}"
    try:
        row: object = json.loads(line.decode()) if len(line) <= _LONGEST_ROW else None
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, not JSON, a number with too many digits, or too deeply nested
        raise RunError(f"{where} must be a line of JSON; it cannot be read: {error}; try to remove this row") from error
    if not isinstance(row, dict):
        raise RunError(f"{where} must be a JSON object on one short line; got something else; try to remove this row")
    missing = [name for name in measured if name not in row]
    if missing:
        raise RunError(f"{where} must hold {', '.join(missing)}; got none; try to remove this row")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise RunError(
                f"{where} must hold finite numbers; got another value of {name!r:.60}; try to remove this row"
            )
    if not isinstance(row["step"], int) or row["step"] <= after:
        raise RunError(f"the step in {where} must be a whole number larger than {after}; got {row['step']!r:.60}")
    return row


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
