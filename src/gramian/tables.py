"""Tables in plain text."""

from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells so that columns align, and return the lines; every row has the same number of cells.

    Examples:
        >>> aligned([("name", "l"), ("w", "12")])
        ['name  l', 'w     12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
