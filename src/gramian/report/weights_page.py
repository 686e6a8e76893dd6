"""How orthogonal the weights of files are, as one page: a table, and for each parameter a histogram and pictures."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from gramian.errors import printable
from gramian.kernels import dense
from gramian.report import curves, pictures
from gramian.report.page import as_data, fill
from gramian.training.inspection import HEADER, Inspection, Row, cells_of
from gramian.typing import Phi

__all__ = ["Portrait", "portrait", "render_weights"]

_SIDE = 256
"""Pixels of a mosaic of Gram matrices."""

_NUMBERS = 1 << 22
"""Entries of Gram matrices that are held at a time."""


@dataclass(frozen=True)
class Portrait:
    """What is drawn of one parameter.

    Attributes:
        lengths: Numbers of |X_jj| between `curves.RESIDUAL_EDGES`.
        angles: Numbers of |X_jk|, j < k, between the same.
        mosaic: Picture of |X| of the groups that are worst.
        shown: How many groups that are.
    """

    lengths: Int64[ndarray, " bins"]
    angles: Int64[ndarray, " bins"]
    mosaic: pictures.Pixels
    shown: int


@torch.no_grad()
def portrait(phi: Phi) -> Portrait:
    """Draw a tensor: how its Gram residuals are spread, and those of the groups that are worst.

    Args:
        phi: Φ[l, m, n].

    Returns:
        What the page needs of it, of a size that does not depend on Φ.
    """
    _, m, n = phi.shape
    few = max(1, _NUMBERS // (n * n))
    edges = curves.RESIDUAL_EDGES
    above = torch.ones(n, n, dtype=torch.bool, device=phi.device).triu(1)
    lengths = angles = np.zeros(len(edges) - 1, dtype=np.int64)
    worst: list[torch.Tensor] = []
    for first in range(0, m, few):
        sizes = dense.residual(phi[:, first : first + few].double()).abs().nan_to_num(torch.inf, torch.inf)
        worst.append(sizes.amax(dim=(1, 2)))
        within = sizes.clamp(edges[0], edges[-1])
        lengths = lengths + np.histogram(within.diagonal(dim1=1, dim2=2).numpy(), edges)[0]
        angles = angles + np.histogram(within[:, above].numpy(), edges)[0]
    shown = min(m, max(1, _SIDE // (n + 1)) ** 2)
    order = torch.cat(worst).argsort(descending=True, stable=True)[:shown]
    return Portrait(lengths, angles, pictures.residual_picture(phi, order, side=_SIDE), shown)


def render_weights(found: Mapping[str, tuple[Inspection, Mapping[str, Portrait]]]) -> str:
    """Draw what was found in files as an HTML page with all pictures inside.

    Args:
        found: For each file what `inspect` found, and the portraits by name.

    Returns:
        The text of the page, UTF-8. The same files give the same text.
    """
    used: set[str] = set()
    sections = "".join(_file(path, inspection, portraits, used) for path, (inspection, portraits) in found.items())
    return fill("weights.html", {"title": _shown(", ".join(found)), "files": sections})


def _file(path: str, found: Inspection, portraits: Mapping[str, Portrait], used: set[str]) -> str:
    anchors = {row.name: _anchor(row.name, used) for row in found.rows}
    head = "".join(f'<th class="{_side(place)}">{html.escape(name)}</th>' for place, name in enumerate(HEADER))
    rows = "".join(f"<tr>{_cells(row, anchors[row.name])}</tr>" for row in found.rows)
    left = "".join(f"<tr><td>{_shown(name)}</td><td>{_shown(why)}</td></tr>" for name, why in found.left.items())
    kept = f"<details><summary>{len(found.left)} left out</summary><table>{left}</table></details>" if left else ""
    drawn = "".join(_parameter(row, portraits[row.name], anchors[row.name]) for row in found.rows)
    return (
        f'<section><h2>{_shown(path)}</h2><div class="card wide"><table><tr>{head}</tr>{rows}</table>{kept}</div>'
        f"{drawn}</section>"
    )


def _shown(text: str) -> str:
    """Give a name as a page shows it: markup as text, and what cannot be printed or encoded as its code."""
    return html.escape(printable(text))


def _anchor(name: str, used: set[str]) -> str:
    """Give a place in the page to link to, its own for each tensor of each file."""
    plain = re.sub(r"[^\w.-]", "_", printable(name)) or "_"
    anchor, number = plain, 1
    while anchor in used:
        number += 1
        anchor = f"{plain}_{number}"
    used.add(anchor)
    return anchor


def _cells(row: Row, anchor: str) -> str:
    cells = [_shown(cell) for cell in cells_of(row)]
    cells[0] = f'<a href="#{anchor}">{cells[0]}</a>'
    return "".join(f'<td class="{_side(place)}">{cell}</td>' for place, cell in enumerate(cells))


def _side(place: int) -> str:
    return "n" if place > 2 else ""


def _parameter(row: Row, drawn: Portrait, anchor: str) -> str:
    _, m, n = row.groups
    name = _shown(row.name)
    groups = "the group" if m == 1 else f"the {drawn.shown} of {m} groups with the largest |X|, the worst first"
    pooled = f"; a pixel shows the largest of some {(n / _SIDE) ** 2:.0f}" if n > _SIDE else ""
    return (
        f'<h3 id="{anchor}">{name}</h3><div class="card row">'
        f"<figure>{curves.residual_histogram(drawn.lengths, drawn.angles)}"
        f"<figcaption>every |X_jk| of {m} group{'s' if m > 1 else ''} of {n}</figcaption></figure>"
        f'<figure class="narrow"><img class="crisp" alt="Gram residuals of {name}" '
        f'src="{as_data(pictures.png(drawn.mosaic))}">'
        f"<figcaption>|X| of {groups}{pooled}</figcaption></figure></div>"
    )
