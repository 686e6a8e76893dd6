"""The figure of all groups: each group is a row of atoms with its number."""

import math
from dataclasses import dataclass

from torch import Tensor

from gramian.images.evaluation.record import LearningRecord
from gramian.report import pictures
from gramian.report.page import as_data

__all__ = ["MOST_DRAWN", "groups_figure"]

MOST_DRAWN = 512
"""Largest number of groups in the figure; the most used ones are drawn."""


@dataclass(frozen=True)
class _Letters:
    """The size of the numbers, in pixels of atoms."""

    height: float
    room: int


def groups_figure(record: LearningRecord, order: Tensor) -> str:
    """Draw the most used groups, most used first, each with its number.

    Args:
        record: Measurements of the run.
        order: All groups, most used first.
    """
    most_used = order[:MOST_DRAWN]
    _, m, n = record.phi.shape
    letters = _letters(record.patch, digits=len(str(m - 1)))
    grid = pictures.AtomGrid.near_square(len(most_used), n, side=record.patch, margin=letters.room)
    phi = record.phi[:, most_used]
    pixels = pictures.atoms_picture(phi, columns=grid.columns, channels=record.channels, margin=letters.room)
    numbers: list[str] = []
    for place, group in enumerate(most_used.tolist()):
        top, left = grid.corner(place)
        numbers.append(f'<text x="{left - 1}" y="{top + record.patch / 2:g}">{group}</text>')
    width, height = grid.width, grid.height
    return (
        f'<svg class="atoms" viewBox="0 0 {width} {height}" role="img" aria-label="{len(most_used)} groups of {n} '
        f'atoms, sorted by use, each with its number"><image width="{width}" height="{height}" '
        f'href="{as_data(pictures.png(pixels))}"/><g font-size="{letters.height:g}">{"".join(numbers)}</g></svg>'
    )


def _letters(side: int, *, digits: int) -> _Letters:
    height = min(max(2.5, 0.75 * side), 8.0)
    return _Letters(height, math.ceil(0.62 * height * digits) + 2)
