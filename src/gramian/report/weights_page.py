"""The page of `gramian inspect --html`: a table for each file, and a histogram and a picture for each parameter."""

import html
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from gramian.errors import printable
from gramian.inspection import Change, Comparison, Inspection, Row
from gramian.inspection.table import COLUMNS
from gramian.report import curves, pictures
from gramian.report.page import as_data, fill
from gramian.report.portraits import Portrait
from gramian.selection import SkippedParameter

__all__ = ["render_weights"]

_NAMED = 5
"""Groups that a caption names."""


def render_weights(
    files: Mapping[str, tuple[Inspection, Mapping[str, Portrait]]], comparison: Comparison | None = None
) -> str:
    """Render the inspections of files as one HTML page with all pictures inside.

    Args:
        files: For each file its inspection, and the portraits by name.
        comparison: The last file beside the first one, for a table at the top.

    Returns:
        The page as text. The same files give the same text.
    """
    used: set[str] = set()
    sections = "".join(_file(path, inspection, portraits, used) for path, (inspection, portraits) in files.items())
    if comparison is not None:
        sections = _beside(comparison) + sections
    return fill("gramian.report", "weights.html", {"title": _escaped(", ".join(files)), "files": sections})


def _beside(comparison: Comparison) -> str:
    unmatched = _reasons(comparison.unmatched, "in one file only, or of another shape")
    return (
        f'<section><h2>Before → after</h2><div class="card wide">{_table(comparison.rows)}{unmatched}</div></section>'
    )


def _file(path: str, inspection: Inspection, portraits: Mapping[str, Portrait], used: set[str]) -> str:
    anchors = {row.name: _anchor(row.name, used) for row in inspection.rows}
    drawn = "".join(_parameter(row, portraits[row.name], anchors[row.name]) for row in inspection.rows)
    return (
        f'<section><h2>{_escaped(path)}</h2><div class="card wide">{_table(inspection.rows, anchors)}'
        f"{_reasons(inspection.skipped, 'skipped')}</div>{drawn}</section>"
    )


def _table(rows: Sequence[Row | Change], anchors: Mapping[str, str] | None = None) -> str:
    head = "".join(f'<th class="{_side(place)}">{html.escape(name)}</th>' for place, name in enumerate(COLUMNS))
    lines = "".join(f"<tr>{_cells(row, anchors)}</tr>" for row in rows)
    return f'<table class="weights"><tr>{head}</tr>{lines}</table>'


def _reasons(parameters: Sequence[SkippedParameter], what: str) -> str:
    lines = "".join(
        f"<tr><td>{_escaped(parameter.name)}</td><td>{_escaped(parameter.reason)}</td></tr>" for parameter in parameters
    )
    if not lines:
        return ""
    return f"<details><summary>{len(parameters)} {what}</summary><table>{lines}</table></details>"


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


def _cells(row: Row | Change, anchors: Mapping[str, str] | None) -> str:
    cells = [_escaped(cell).replace(" → ", "<br>→ ") for cell in row.cells()]
    cells[0] = _escaped(row.name).replace(".", ".<wbr>")
    if anchors is not None:
        cells[0] = f'<a href="#{anchors[row.name]}">{cells[0]}</a>'
    return "".join(f'<td class="{_side(place)}">{cell}</td>' for place, cell in enumerate(cells))


def _side(place: int) -> str:
    return "n" if place > 2 else ""


def _parameter(row: Row, drawn: Portrait, anchor: str) -> str:
    _, m, n = row.groups
    name = _escaped(row.name)
    return (
        f'<h3 id="{anchor}">{name}</h3><div class="card row">'
        f"<figure>{curves.residual_histogram(drawn.lengths, drawn.angles)}"
        f"<figcaption>every |X_jk| of {m} group{'s' if m > 1 else ''} of {n}</figcaption></figure>"
        f'<figure class="narrow">{_picture(row, drawn, name)}{_scale(drawn.limits)}'
        f"<figcaption>{_caption(row, drawn)}</figcaption></figure></div>"
    )


def _picture(row: Row, drawn: Portrait, name: str) -> str:
    data, mosaic = as_data(pictures.png(drawn.picture)), drawn.mosaic
    if not mosaic.margin:
        return f'<img class="crisp" alt="Gram residuals of {name}" src="{data}">'
    numbers: list[str] = []
    for place, group in enumerate(drawn.groups):
        top, left = mosaic.corner(place)
        numbers.append(f'<text x="{left}" y="{top - 0.25 * mosaic.margin:g}">{_number(row, group)}</text>')
    width, height = mosaic.width, mosaic.height
    return (
        f'<svg class="blocks" viewBox="0 0 {width} {height}" role="img" aria-label="Gram residuals of {name}, each '
        f'group with its number"><image width="{width}" height="{height}" href="{data}"/>'
        f'<g font-size="{0.75 * mosaic.margin:g}">{"".join(numbers)}</g></svg>'
    )


def _axes_of_groups(row: Row) -> dict[str, int]:
    """Return the axes of the layout that number the groups, such as heads, with their sizes."""
    sizes = row.layout.axis_sizes(row.shape)
    return {name: sizes[name] for name in row.layout.sides()[1][1] if sizes[name] > 1}


def _number(row: Row, group: int) -> str:
    """Return the number of a group; of several axes the numbers of each."""
    return "·".join(str(int(index)) for index in np.unravel_index(group, tuple(_axes_of_groups(row).values())))


def _caption(row: Row, drawn: Portrait) -> str:
    _, m, n = row.groups
    if m == 1:
        groups = "the group"
    else:
        axes = "·".join(map(html.escape, _axes_of_groups(row)))
        if drawn.mosaic.margin:
            groups = f"the {m} groups, with their numbers along {axes}"
        else:
            worst = ", ".join(_number(row, group) for group in drawn.groups[:_NAMED])
            some = (
                f"the {m} groups"
                if len(drawn.groups) == m
                else f"the {len(drawn.groups)} of {m} groups with the largest |X|"
            )
            groups = f"{some}, the worst first: {axes} = {worst}, …"
    pooled = f"; a pixel shows the largest of about {(n / drawn.mosaic.side) ** 2:.0f}" if n > drawn.mosaic.side else ""
    return f"|X| of {groups}{pooled}"


def _scale(limits: tuple[float, float]) -> str:
    """Draw the colours and the values that they stand for."""
    low, high = limits
    middle = math.sqrt(low) * math.sqrt(high)
    return (
        f'<div class="scale"></div><div class="ends"><span>{low:.2g} and below</span><span>{middle:.2g}</span>'
        f"<span>{high:.2g}</span></div>"
    )
