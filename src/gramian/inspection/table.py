"""Tables of statistics, of one inspection and of two side by side; the same in Python, in a terminal and on a page."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from gramian.inspection.measures import Statistics
from gramian.layout import Layout
from gramian.selection import SkippedParameter
from gramian.tables import aligned

__all__ = ["COLUMNS", "Change", "Comparison", "Inspection", "Row"]

COLUMNS = (
    "parameter", "layout", "l × m × n", "mean |X|", "max |X|", "norms", "mean |cos|", "max |cos|", "condition",
    "eff. rank",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measured parameter: its name, shape, layout, (l, m, n) and statistics."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    groups: tuple[int, int, int]
    statistics: Statistics

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table, in the order of `COLUMNS`."""
        return (self.name, self.layout.pattern, " × ".join(map(str, self.groups)), *_cells(self.statistics))


@dataclass(frozen=True)
class Change:
    """One parameter in two inspections: its name, shape, layout, (l, m, n), and the statistics of both."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    groups: tuple[int, int, int]
    before: Statistics
    after: Statistics

    @property
    def differences(self) -> dict[str, float]:
        """Each statistic after minus before, by name."""
        old, new = asdict(self.before), asdict(self.after)
        return {name: new[name] - old[name] for name in new}

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table, in the order of `COLUMNS`, each statistic as 'before → after'."""
        pairs = zip(_cells(self.before), _cells(self.after), strict=True)
        sizes = " × ".join(map(str, self.groups))
        return (self.name, self.layout.pattern, sizes, *(f"{old} → {new}" for old, new in pairs))


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two inspections side by side. It prints as a table.

    Attributes:
        rows: The parameters that both inspections measured with the same layout and shape.
        unmatched: The other parameters that one of them measured, each with the reason.
    """

    rows: list[Change]
    unmatched: list[SkippedParameter]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinite numbers and no NaN: they become None."""
        rows = [
            asdict(row, dict_factory=_plain)
            | {"layout": row.layout.pattern, "differences": _plain(row.differences.items())}
            for row in self.rows
        ]
        return {"parameters": rows, "unmatched": {parameter.name: parameter.reason for parameter in self.unmatched}}

    def __repr__(self) -> str:
        table = _printed(self.rows) if self.rows else ["no parameter is in both:"]
        return "\n".join([*table, *(f"{parameter.name}  {parameter.reason}" for parameter in self.unmatched)])


@dataclass(frozen=True, repr=False)
class Inspection:
    """The measured parameters, and the skipped ones with their reasons. It prints as a table."""

    rows: list[Row]
    skipped: list[SkippedParameter]

    def since(self, before: "Inspection") -> Comparison:
        """Compare with an earlier inspection, or with that of another network.

        Args:
            before: The earlier inspection.

        Returns:
            The parameters that both have, side by side; and the others, each with the reason.

        Examples:
            >>> import torch, gramian
            >>> weights = {"w": torch.randn(4, 8)}
            >>> before = gramian.inspect(weights)
            >>> weights["w"] = gramian.orthogonalize(weights["w"], layout="o i -> i () o").phi
            >>> (change,) = gramian.inspect(weights).since(before).rows
            >>> change.name, change.differences["coherence"] < 0
            ('w', True)
        """
        old, new = ({row.name: row for row in inspection.rows} for inspection in (before, self))
        reasons = {
            name: _mismatch(old[name], new[name]) if name in old else _absence(name, "after", before) for name in new
        }
        reasons |= {name: _absence(name, "before", self) for name in old if name not in new}
        rows = [
            Change(name, row.shape, row.layout, row.groups, old[name].statistics, row.statistics)
            for name, row in new.items()
            if reasons[name] is None
        ]
        unmatched = [
            SkippedParameter(name, reason, (new.get(name) or old[name]).shape)
            for name, reason in reasons.items()
            if reason is not None
        ]
        return Comparison(rows, unmatched)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinite numbers and no NaN: they become None."""
        rows = [asdict(row, dict_factory=_plain) | {"layout": row.layout.pattern} for row in self.rows]
        return {"parameters": rows, "skipped": {parameter.name: parameter.reason for parameter in self.skipped}}

    def __repr__(self) -> str:
        if self.rows:
            return "\n".join(_printed(self.rows))
        return "\n".join(
            ["nothing was measured:", *(f"{parameter.name}  {parameter.reason}" for parameter in self.skipped)]
        )


def _mismatch(old: Row, new: Row) -> str | None:
    """Return why the statistics of two parameters of one name cannot be compared; None if they can."""
    if old.shape != new.shape:
        return f"of shape {list(old.shape)} before and {list(new.shape)} after"
    return None if old.layout == new.layout else f"laid out as {str(old.layout)!r} before, {str(new.layout)!r} after"


def _absence(name: str, here: str, elsewhere: Inspection) -> str:
    skipped = next((parameter.reason for parameter in elsewhere.skipped if parameter.name == name), None)
    return f"only {here}" if skipped is None else f"only {here}; the other is skipped: {skipped}"


def _printed(rows: Iterable[Row | Change]) -> list[str]:
    # Layouts as Python code, so that they can be used in `layouts`.
    return aligned([COLUMNS, *((row.name, repr(str(row.layout)), *row.cells()[2:]) for row in rows)])


def _cells(numbers: Statistics) -> tuple[str, ...]:
    """Return the cells of statistics, in the order of `COLUMNS` from 'mean |X|' on."""
    shortest, longest = f"{numbers.smallest_norm:.3g}", f"{numbers.largest_norm:.3g}"
    return (
        f"{numbers.mean:.1e}", f"{numbers.largest:.1e}", shortest if shortest == longest else f"{shortest}–{longest}",
        _cosine(numbers.mean_cosine), _cosine(numbers.coherence), f"{numbers.condition:.3g}",
        f"{numbers.effective_rank:.1f}",
    )  # fmt: skip


def _cosine(value: float) -> str:
    return f"{value:.0e}" if 0 < value < 1e-3 else f"{value:.3f}"


def _plain(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in pairs}
