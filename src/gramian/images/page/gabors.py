"""The section on Gabor functions of groups: a table with a control, and bars at the positions of the functions."""

import math

import torch
from torch import Tensor

from gramian.images.evaluation.record import LearningRecord
from gramian.report.page import fill

__all__ = ["gabor_section"]

_GROUPS = 16

_MORE = (
    " The phases of one Gabor function span two dimensions only: the atoms of a larger group must differ in something "
    "else as well."
)

_MEASURES = (
    ("distance of the windows, pixels", "position", 1),
    ("angle between the orientations, degrees (unrelated: 45)", "orientation", 0),
    ("ratio of the frequencies, octaves", "frequency", 2),
    ("phase difference from 90°, degrees (unrelated: 45)", "quadrature", 0),
    ("unevenness of a group's phases (0 spread evenly, 1 all equal)", "resultant", 2),
)


def gabor_section(record: LearningRecord, order: Tensor) -> str:
    """Draw how similar the Gabor functions of a group are; return empty text for single atoms.

    Args:
        record: Measurements of the run.
        order: All groups, most used first.
    """
    _, m, n = record.phi.shape
    if n == 1:
        return ""
    agreement = record.agreement
    explained = record.gabor.explained
    missing = int((~(explained[order[:_GROUPS]] > agreement.threshold)).sum())
    fitted = int((~explained.isnan()).any(dim=1).sum())
    return fill(
        "gramian.images.page",
        "gabors.html",
        {
            "fitted": f" of the {fitted} most used groups" if fitted < m else "",
            "explained": f"{100 * float(explained.nanmedian()):.0f}",
            "threshold": f"{100 * agreement.threshold:.0f}",
            "atoms": agreement.atoms,
            "all": fitted * n,
            "pairs": agreement.pairs,
            "rows": "".join(
                f'<tr><td>{text}</td><td class="n">{_number(getattr(agreement.learned, name), digits)}</td>'
                f'<td class="n">{_number(getattr(agreement.random_groups, name), digits)}</td></tr>'
                for text, name, digits in _MEASURES
            ),
            "more": _MORE if n > 2 else "",
            "fields": "".join(_field(record, group) for group in order[:_GROUPS].tolist()),
            "left": f" {missing} of their atoms are not well fitted, and not drawn." if missing else "",
        },
    )


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _field(record: LearningRecord, group: int) -> str:
    side, n = record.patch, record.phi.shape[2]
    fit = record.gabor
    bars: list[str] = []
    for member in range(n):
        if not fit.explained[group, member] > record.agreement.threshold:
            continue
        numbers = (fit.row, fit.column, fit.orientation, fit.frequency, fit.width_across)
        row, column, angle, frequency, reach = torch.stack([values[group, member] for values in numbers]).tolist()
        # Stripes are perpendicular to the wave vector; the 0.5 is there because the centre of pixel k is at k.
        across, down = -reach * math.sin(angle), reach * math.cos(angle)
        ends = (column - across + 0.5, row - down + 0.5, column + across + 0.5, row + down + 0.5)
        x1, y1, x2, y2 = (f"{end:.2f}" for end in ends)
        bars.append(
            f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="hsl({360 * member // n} 60% 52%)" '
            f'stroke-width="{min(0.25 / frequency, side / 8):.2f}"/>'
        )
    return (
        f'<div><svg viewBox="0 0 {side} {side}" role="img" aria-label="Gabor functions of group {group}">'
        f"{''.join(bars)}</svg><span>group {group}</span></div>"
    )
