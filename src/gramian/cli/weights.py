"""The commands for weights in files."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from gramian.errors import OptionError
from gramian.files import replace_file
from gramian.layout import Layout
from gramian.report import Portrait, portrait, render_weights
from gramian.training.inspection import HEADER, Inspection, cells_of, inspect_each
from gramian.training.policy import propose_by_shape
from gramian.training.selection import Layouts
from gramian.typing import Phi
from gramian.weights import open_weights, orthogonalize_file

__all__ = ["inspect_files", "rewrite"]

_WIDE = 100
"""Columns of a terminal that the layouts are shown on."""


def inspect_files(
    files: list[Path], select: list[str], layouts: list[str], *, as_json: bool, page: Path | None = None
) -> None:
    """Show how orthogonal the tensors of files are."""
    drawn: dict[str, dict[str, Portrait]] = {str(path): {} for path in files}
    found: dict[str, Inspection] = {}
    for path in files:
        portraits = drawn[str(path)]
        look = None if page is None else lambda name, phi, into=portraits: into.update({name: portrait(phi)})
        found[str(path)] = _inspect(path, select, layouts, look)
    if page is not None:
        replace_file(page, render_weights({path: (each, drawn[path]) for path, each in found.items()}).encode())
    if as_json:
        print(json.dumps({path: each.as_dict() for path, each in found.items()}, indent=1))
        return
    console = Console()
    for path, each in found.items():
        table = Table(title=path, title_justify="left", box=None, header_style="bold")
        shown = [place for place, name in enumerate(HEADER) if name != "layout" or console.width >= _WIDE]
        for name in (HEADER[place] for place in shown):
            if name == "parameter":
                table.add_column(name, overflow="fold")
            elif name in ("layout", "l × m × n"):
                table.add_column(name, no_wrap=True)
            else:
                table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
        for cells in map(cells_of, each.rows):
            table.add_row(*(cells[place] for place in shown))
        console.print(table)
        if each.left:
            console.print(f"left out: {_summed(each.left)}\n", style="dim", highlight=False)
    if page is not None:
        console.print(f"histograms and Gram pictures are in {page}", highlight=False)


def rewrite(
    source: Path, target: Path, select: list[str], layouts: list[str], *, rule: str, penalty: str, max_steps: int,
    force: bool,
) -> None:  # fmt: skip
    """Make the tensors of a file orthonormal."""
    console = Console()
    done, left = orthogonalize_file(
        source, target, select=select or None, layouts=_layouts(layouts), rule=rule, penalty=penalty,
        max_steps=max_steps, force=force, progress=_progress("orthogonalizing"),
    )  # fmt: skip
    table = Table(box=None, header_style="bold")
    table.add_column("parameter", overflow="fold")
    for column in ("l × m × n", "steps", "max |X| left", "moved by"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in done:
        sizes = " × ".join(map(str, each.shape))
        left_over = f"{each.residual:.1e}" + ("" if each.converged else " (not to rounding)")
        table.add_row(each.name, sizes, str(each.steps), left_over, f"{each.distance:.3g}")
    console.print(table)
    if left:
        console.print(f"kept as they are: {_summed(left)}", style="dim", highlight=False)
    console.print(f"written to {target}", highlight=False)


def _inspect(path: Path, select: list[str], layouts: list[str], look: Callable[[str, Phi], None] | None) -> Inspection:
    weights = open_weights(path)
    shapes = {name: entry.shape for name, entry in weights.entries.items()}
    proposals = {name: propose_by_shape(name, shape) for name, shape in shapes.items()}
    return inspect_each(
        shapes, weights.read, proposals, select or None, _layouts(layouts), progress=_progress(path.name), look=look
    )


def _progress(what: str) -> Callable[[Iterable[str]], Iterable[str]]:
    errors = Console(stderr=True)
    return lambda names: track(list(names), what, console=errors, transient=True, disable=not errors.is_terminal)


def _layouts(texts: list[str]) -> Layouts | None:
    """Read GLOB=PATTERN, or PATTERN for all, each with sizes after a semicolon: '*.q.weight=(h d) i -> i h d; h=8'."""
    found: dict[str | re.Pattern[str], Layout | str] = {}
    for text in texts:
        pattern, _, sizes = text.partition(";")
        glob, equals, pattern = pattern.partition("=") if "=" in pattern else ("*", "=", pattern)
        numbers: dict[str, int] = {}
        for size in filter(None, (each.strip() for each in sizes.split(","))):
            name, _, number = (each.strip() for each in size.partition("="))
            if not number.isdigit():
                raise OptionError(f"sizes of a layout must be like 'h=8, d=64'; got {size!r} in --layout {text!r}")
            numbers[name] = int(number)
        if not equals or "->" not in pattern:
            raise OptionError(f"--layout must be GLOB=PATTERN, like '*.weight=o i -> i () o'; got {text!r}")
        found[glob.strip()] = Layout(pattern.strip(), **numbers)
    return found or None


def _summed(left: dict[str, str]) -> str:
    """Count the tensors that are left out for the same reason."""
    counts: dict[str, int] = {}
    for reason in left.values():
        counts[reason] = counts.get(reason, 0) + 1
    return "; ".join(f"{count} {reason}" for reason, count in counts.items())
