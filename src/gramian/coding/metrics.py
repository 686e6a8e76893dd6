"""What a learning run has measured on the way: one row for each report, in a file of JSON lines."""

import json
import math
from pathlib import Path

from gramian.errors import RunError

__all__ = ["MEASURED", "Row", "metrics_text", "read_metrics"]

Row = dict[str, float]
"""A step, and what was measured at it."""

MEASURED = (
    *("step", "seconds", "lr", "lam", "energy", "reconstruction", "sparsity", "orthogonality", "residual"),
    *("active_groups", "snr"),
)
"""The names in a row."""

_LONGEST_ROW = 1 << 16


def metrics_text(rows: list[Row]) -> str:
    """Give the content of a file of metrics."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_metrics(path: Path) -> list[Row]:
    """Read a file of metrics and check every row.

    Raises:
        RunError: If there is no such file; or a row does not hold all of `MEASURED`, and finite numbers alone; or steps
            do not increase.

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
            # Line by line: a file that does not end is refused at its first wrong row, however large it is.
            while line := file.readline(_LONGEST_ROW + 1):
                if line.strip():
                    rows.append(_row(path, len(rows) + 1, line, after=rows[-1]["step"] if rows else -1))
    except FileNotFoundError as error:
        raise RunError(f"there must be metrics at {path}; got no such file") from error
    except OSError as error:
        raise RunError(f"{path} could not be read: {error.strerror or error}") from error
    return rows


def _row(path: Path, number: int, line: bytes, *, after: float) -> Row:
    where = f"row {number} of {path}"
    try:
        row: object = json.loads(line.decode()) if len(line) <= _LONGEST_ROW else None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a number of too many digits, too deep
        raise RunError(f"{where} must be a line of JSON; it cannot be read: {error}; try without it") from error
    if not isinstance(row, dict):
        raise RunError(f"{where} must be a JSON object on one short line; got something else; try without it")
    missing = [name for name in MEASURED if name not in row]
    if missing:
        raise RunError(f"{where} must hold {', '.join(missing)}; got none; try without it")
    for name, value in row.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise RunError(f"{where} must hold finite numbers; got another value of {name!r:.60}; try without it")
    if not isinstance(row["step"], int) or row["step"] <= after:
        raise RunError(f"the step in {where} must be a whole number larger than in the row before; it is not")
    return row


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False
