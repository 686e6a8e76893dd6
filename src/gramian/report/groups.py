"""The figure of all groups: each a row of atoms, with its number."""

import math
from dataclasses import dataclass

from torch import Tensor

from gramian.report import pictures
from gramian.report.page import as_data
from gramian.report.record import LearningRecord

__all__ = ["MOST_DRAWN", "groups_figure"]

MOST_DRAWN = 512
"""How many groups are drawn at most, the most used ones."""


@dataclass(frozen=True)
class _Letters:
    """How large numbers are, in pixels of atoms."""

    height: float
    room: int


def groups_figure(record: LearningRecord, order: Tensor) -> str:
    """Draw the most used groups, most used first, each with the number that other sections name it by.

    Args:
        record: What was measured.
        order: All groups, most used first.
    """
    shown = order[:MOST_DRAWN]
    _, m, n = record.phi.shape
    letters = _letters(record.patch, digits=len(str(m - 1)))
    grid = pictures.AtomGrid.near_square(len(shown), n, side=record.patch, margin=letters.room)
    phi = record.phi[:, shown]
    pixels = pictures.atoms_picture(phi, columns=grid.columns, channels=record.channels, margin=letters.room)
    numbers: list[str] = []
    for place, group in enumerate(shown.tolist()):
        top, left = grid.corner(place)
        numbers.append(f'<text x="{left - 1}" y="{top + record.patch / 2:g}">{group}</text>')
    width, height = grid.width, grid.height
    return (
        f'<svg class="atoms" viewBox="0 0 {width} {height}" role="img" aria-label="{len(shown)} groups of {n} atoms, '
        f'sorted by use, each with its number"><image width="{width}" height="{height}" '
        f'href="{as_data(pictures.png(pixels))}"/><g font-size="{letters.height:g}">{"".join(numbers)}</g></svg>'
    )


def _letters(side: int, *, digits: int) -> _Letters:
    height = min(max(2.5, 0.75 * side), 8.0)
    return _Letters(height, math.ceil(0.62 * height * digits) + 2)
