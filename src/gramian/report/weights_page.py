"""The page of `gramian inspect --html`: a table for each file, and a histogram and a picture for each parameter."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from gramian.errors import printable
from gramian.inspection import COLUMNS, Inspection, Row
from gramian.kernels import reference
from gramian.report import curves, pictures
from gramian.report.page import as_data, fill
from gramian.typing import Phi

__all__ = ["Portrait", "portrait", "render_weights"]

_SIDE = 256
"""Side of a mosaic of Gram matrices, in pixels."""

_NUMBERS = 1 << 22
"""Entries of Gram matrices that are in memory at a time."""


@dataclass(frozen=True)
class Portrait:
    """The data of the histogram and the picture of one parameter.

    Attributes:
        lengths: Counts of |X_jj| between `curves.RESIDUAL_EDGES`.
        angles: Counts of |X_jk|, j < k, between the same edges.
        mosaic: Picture of |X| of the groups with the largest |X|.
        n_groups: The number of these groups.
    """

    lengths: Int64[ndarray, " bins"]
    angles: Int64[ndarray, " bins"]
    mosaic: pictures.Pixels
    n_groups: int


@torch.no_grad()
def portrait(phi: Phi) -> Portrait:
    """Compute the histogram of the Gram residuals of a tensor, and the picture of its worst groups.

    Args:
        phi: Φ[l, m, n].

    Returns:
        Data of a size that does not depend on Φ.
    """
    _, m, n = phi.shape
    chunk = max(1, _NUMBERS // (n * n))
    edges = curves.RESIDUAL_EDGES
    above = torch.ones(n, n, dtype=torch.bool, device=phi.device).triu(1)
    lengths = angles = np.zeros(len(edges) - 1, dtype=np.int64)
    worst: list[torch.Tensor] = []
    for first in range(0, m, chunk):
        sizes = reference.residual(phi[:, first : first + chunk].double()).abs().nan_to_num(torch.inf, torch.inf)
        worst.append(sizes.amax(dim=(1, 2)))
        within = sizes.clamp(edges[0], edges[-1])
        lengths = lengths + np.histogram(within.diagonal(dim1=1, dim2=2).numpy(), edges)[0]
        angles = angles + np.histogram(within[:, above].numpy(), edges)[0]
    n_groups = min(m, max(1, _SIDE // (n + 1)) ** 2)
    order = torch.cat(worst).argsort(descending=True, stable=True)[:n_groups]
    return Portrait(lengths, angles, pictures.residual_picture(phi, order, side=_SIDE), n_groups)


def render_weights(files: Mapping[str, tuple[Inspection, Mapping[str, Portrait]]]) -> str:
    """Render the inspections of files as one HTML page with all pictures inside.

    Args:
        files: For each file its inspection, and the portraits by name.

    Returns:
        The page as text. The same files give the same text.
    """
    used: set[str] = set()
    sections = "".join(_file(path, inspection, portraits, used) for path, (inspection, portraits) in files.items())
    return fill("gramian.report", "weights.html", {"title": _escaped(", ".join(files)), "files": sections})


def _file(path: str, inspection: Inspection, portraits: Mapping[str, Portrait], used: set[str]) -> str:
    anchors = {row.name: _anchor(row.name, used) for row in inspection.rows}
    head = "".join(f'<th class="{_side(place)}">{html.escape(name)}</th>' for place, name in enumerate(COLUMNS))
    rows = "".join(f"<tr>{_cells(row, anchors[row.name])}</tr>" for row in inspection.rows)
    lines = [
        f"<tr><td>{_escaped(parameter.name)}</td><td>{_escaped(parameter.reason)}</td></tr>"
        for parameter in inspection.skipped
    ]
    skipped = f"<details><summary>{len(lines)} skipped</summary><table>{''.join(lines)}</table></details>"
    drawn = "".join(_parameter(row, portraits[row.name], anchors[row.name]) for row in inspection.rows)
    return (
        f'<section><h2>{_escaped(path)}</h2><div class="card wide"><table><tr>{head}</tr>{rows}</table>'
        f"{skipped if lines else ''}</div>"
        f"{drawn}</section>"
    )


def _escaped(text: str) -> str:
    """Escape a name for HTML; characters that cannot be printed or encoded are shown as their codes."""
    return html.escape(printable(text))


def _anchor(name: str, used: set[str]) -> str:
    """Return a unique anchor in the page."""
    plain = re.sub(r"[^\w.-]", "_", printable(name)) or "_"
    anchor, number = plain, 1
    while anchor in used:
        number += 1
        anchor = f"{plain}_{number}"
    used.add(anchor)
    return anchor


def _cells(row: Row, anchor: str) -> str:
    cells = [_escaped(cell) for cell in row.cells()]
    cells[0] = f'<a href="#{anchor}">{cells[0]}</a>'
    return "".join(f'<td class="{_side(place)}">{cell}</td>' for place, cell in enumerate(cells))


def _side(place: int) -> str:
    return "n" if place > 2 else ""


def _parameter(row: Row, drawn: Portrait, anchor: str) -> str:
    _, m, n = row.groups
    name = _escaped(row.name)
    groups = "the group" if m == 1 else f"the {drawn.n_groups} of {m} groups with the largest |X|, the worst first"
    pooled = f"; a pixel shows the largest of some {(n / _SIDE) ** 2:.0f}" if n > _SIDE else ""
    return (
        f'<h3 id="{anchor}">{name}</h3><div class="card row">'
        f"<figure>{curves.residual_histogram(drawn.lengths, drawn.angles)}"
        f"<figcaption>every |X_jk| of {m} group{'s' if m > 1 else ''} of {n}</figcaption></figure>"
        f'<figure class="narrow"><img class="crisp" alt="Gram residuals of {name}" '
        f'src="{as_data(pictures.png(drawn.mosaic))}">'
        f"<figcaption>|X| of {groups}{pooled}</figcaption></figure></div>"
    )
