"""Draw the rooms of the package and their imports into docs/figures/house.svg: `make house`.

A room is a module or a folder directly in `src/gramian`. Each row of the picture is a room; a dot in a column says that
the room imports the room of that column. `tests/test_house.py` checks that the picture is current.
"""

import ast
import json
import sys
from html import escape
from pathlib import Path

__all__ = ["FIGURE", "FLOORS", "HouseError", "draw", "drawn_imports", "imports"]

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "gramian"
FIGURE = ROOT / "docs" / "figures" / "house.svg"

FLOORS: list[tuple[str, dict[str, str]]] = [
    ("command line", {"cli": "commands, progress, tables"}),
    (
        "applications",
        {
            "activations": "activations of networks, captured and drawn",
            "images": "dictionaries of natural images, end to end",
            "report": "drawing: pictures, curves, the page",
        },
    ),
    (
        "models",
        {
            "distributions": "codes and frames for torch.distributions",
            "coding": "sparse coding: priors, inference, learning",
        },
    ),
    (
        "networks",
        {
            "integrations": "Lightning, Trainer",
            "weights": "files of weights",
            "training": "updates after each optimizer step",
            "inspection": "measures of orthogonality",
            "selection": "which weights of a network",
            "distributed": "shards and process grids",
        },
    ),
    (
        "core",
        {
            "orthogonalize": "minimization to a tolerance",
            "foreach": "many tensors in one call",
            "rules": "update rules and the in-place write",
            "objective": "the loss and its derivatives",
        },
    ),
    (
        "mathematics",
        {
            "kernels": "Gram matrix, residual and gradient, fast",
            "calculus": "matrix calculus and the derivation",
            "penalties": "functions of the Gram residual",
            "frozen": "bases of frozen vectors",
        },
    ),
    (
        "ground",
        {
            "layout": "any parameter as Φ[l, m, n]",
            "tables": "tables in plain text",
            "options": "checks of options",
            "torch_internals": "private parts of torch",
            "picture_files": "pictures from untrusted files",
            "files": "atomic writes",
            "typing": "shapes of tensors",
            "errors": "named errors and warnings",
        },
    ),
]
"""The floors from the top down, and the rooms of each from the top down, with what they hold."""

COLOURS = ("#c2410c", "#a16207", "#4d7c0f", "#0f766e", "#0369a1", "#4338ca", "#475569")
"""One dark colour for each floor."""

ROW, LEFT, TOP = 27, 572, 128
NAME = 164
"""Pixels: the height of a row, where the columns begin, where the rows begin, and where names begin."""

FONT = 'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13" fill="#1f2937"'


class HouseError(ValueError):
    """A module or folder of `src/gramian` has no floor in `FLOORS`."""


def imports(source: Path = SOURCE) -> dict[str, list[str]]:
    """Read which room imports which others, from the top of the house down.

    Raises:
        HouseError: If a room of the folder has no floor in `FLOORS`.
    """
    folder = {path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    order = [room for _, rooms in FLOORS for room in rooms if room in folder]
    if unknown := sorted(folder - {"__init__", *order}):
        raise HouseError(f"each room must have a floor; got {', '.join(unknown)} without one; try FLOORS in {__file__}")
    graph: dict[str, set[str]] = {room: set() for room in order}
    for path in source.rglob("*.py"):
        room = path.relative_to(source).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            targets = {name.split(".")[1] for name in names if name.startswith("gramian.")}
            graph.get(room, set()).update(targets & graph.keys() - {room})
    return {room: sorted(targets, key=order.index) for room, targets in graph.items()}


def drawn_imports(figure: Path = FIGURE) -> dict[str, list[str]]:
    """Read the imports that a picture shows, from the metadata in its file."""
    text = figure.read_text(encoding="utf-8")
    return json.loads(text.partition("<metadata>")[2].partition("</metadata>")[0])


def text(x: float, y: float, words: str, **attributes: str | float) -> str:
    pairs = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:g}" y="{y:g}"{pairs}>{escape(words)}</text>'


def draw(graph: dict[str, list[str]]) -> str:
    """Draw the floors as bands, the rooms as rows and their imports as dots; returns the text of an SVG file."""
    order = list(graph)
    bottom, right = TOP + ROW * len(order), LEFT + ROW * len(order)
    floor = {room: number for number, (_, rooms) in enumerate(FLOORS) for room in rooms}
    middle = {room: ROW * (index + 0.5) for index, room in enumerate(order)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 72} {bottom + 56}" {FONT}>',
        f"<metadata>{json.dumps(graph)}</metadata>",
        "<title>The rooms of gramian and their imports</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        text(16, 34, "The rooms of gramian", font_size=21, font_weight=600),
        text(16, 58, "● : the room of this row imports the room of this column.", fill="#4b5563"),
        text(16, 77, "Imports go down only: no dot is left of the squares.", fill="#4b5563"),
    ]
    for number, (title, rooms) in enumerate(FLOORS):
        rows = [order.index(room) for room in rooms if room in graph]
        if not rows:
            continue
        colour, y, height = COLOURS[number], TOP + ROW * rows[0], ROW * len(rows)
        parts += [
            f'<rect x="16" y="{y + 1}" width="{right - 16}" height="{height - 2}" fill="{colour}" opacity="0.07"/>',
            f'<rect x="16" y="{y + 1}" width="5" height="{height - 2}" rx="2" fill="{colour}"/>',
            text(32, y + height / 2 + 4.5, str(len(FLOORS) - 1 - number), fill=colour),
            text(50, y + height / 2 + 4.5, title, fill=colour, font_weight=600),
        ]
    for room in order:
        colour, y = COLOURS[floor[room]], TOP + middle[room]
        x = LEFT + middle[room]
        what = FLOORS[floor[room]][1][room]
        parts += [
            text(NAME, y + 4.5, room, font_weight=600),
            text(NAME + 112, y + 4.5, what, font_size=12, fill="#4b5563"),
            text(x + 3, TOP - 8, room, fill=colour, transform=f"rotate(-55 {x + 3:g} {TOP - 8})"),
            f'<path d="M{x:g} {TOP} V{bottom}" stroke="#d1d5db" stroke-width="0.6"/>',
            f'<rect x="{x - 5:g}" y="{y - 5:g}" width="10" height="10" rx="2" fill="none" stroke="{colour}"/>',
        ]
    for room, targets in graph.items():
        for target in targets:
            down = middle[target] > middle[room]
            colour = COLOURS[floor[target]] if down else "#dc2626"
            parts.append(
                f'<circle cx="{LEFT + middle[target]:g}" cy="{TOP + middle[room]:g}" r="{5 if down else 7}" '
                f'fill="{colour}"><title>{room} imports {target}</title></circle>'
            )
    parts.append(
        text(
            16,
            bottom + 34,
            "□ : the room itself. The command `make house` draws this picture from the source.",
            fill="#4b5563",
        )
    )
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    try:
        FIGURE.write_text(draw(imports()), encoding="utf-8")
    except HouseError as error:
        sys.exit(str(error))
