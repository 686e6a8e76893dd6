"""The commands for weights in files."""

import json
import re
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from rich.text import Text

from gramian.errors import OptionError, printable
from gramian.files import check_output, replace_file, sweep_temporaries
from gramian.inspection import COLUMNS, Inspection
from gramian.layout import Layout
from gramian.report import Portrait, portrait, render_weights
from gramian.selection import Layouts, SkippedParameter
from gramian.weights import inspect_file, orthogonalize_file

__all__ = ["inspect_files", "rewrite"]

_WIDE = 100
"""Width of a terminal from which on layouts are shown."""

_NAME = 16
"""Width that a name needs beside its numbers; with less, it is printed above them."""


def inspect_files(
    files: list[Path], select: list[str], layouts: list[str], *, as_json: bool, page: Path | None = None,
    force: bool = False,
) -> None:  # fmt: skip
    """Show how orthogonal the tensors of files are."""
    if page is not None:
        check_output(page, force=force, suffixes=(".html",), inputs=_all_files(files))
        sweep_temporaries(page.parent)
    portraits: dict[str, dict[str, Portrait]] = {str(path): {} for path in files}
    inspections: dict[str, Inspection] = {}
    for path in files:
        drawn = portraits[str(path)]
        inspections[str(path)] = inspect_file(
            path, select=select or None, layouts=_layouts(layouts), progress=_progress(path.name),
            visit=None if page is None else lambda name, phi, drawn=drawn: drawn.update({name: portrait(phi)}),
        )  # fmt: skip
    if page is not None:
        replace_file(
            page,
            render_weights({path: (inspection, portraits[path]) for path, inspection in inspections.items()}).encode(),
        )
    if as_json:
        print(json.dumps({path: inspection.as_dict() for path, inspection in inspections.items()}, indent=1))
        return
    console = Console(highlight=False, markup=False)
    columns = [place for place, name in enumerate(COLUMNS) if name != "layout" or console.width >= _WIDE]
    for path, inspection in inspections.items():
        rows = [[row.cells()[place] for place in columns] for row in inspection.rows]
        console.print(Text(printable(path), style="italic"))
        _print_table(console, [COLUMNS[place] for place in columns], rows)
        if inspection.skipped:
            console.print(f"skipped: {_counts(inspection.skipped)}\n", style="dim")
    if page is not None:
        console.print(f"histograms and Gram pictures are in {printable(str(page))}", soft_wrap=True)


def rewrite(
    source: Path, target: Path, select: list[str], layouts: list[str], *, rule: str, penalty: str, max_steps: int,
    force: bool,
) -> None:  # fmt: skip
    """Make the tensors of a file orthonormal; exit with status 1 if one of them did not converge.

    The last state is written in any case, as the user may have limited the number of steps on purpose.
    """
    console, errors = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results, skipped = orthogonalize_file(
            source, target, select=select or None, layouts=_layouts(layouts), rule=rule, penalty=penalty,
            max_steps=max_steps, force=force, progress=_progress("orthogonalizing"),
        )  # fmt: skip
    rows = [
        [
            result.name,
            " × ".join(map(str, result.shape)),
            str(result.steps),
            f"{result.residual:.1e}" + ("" if result.converged else " (not to rounding)"),
            f"{result.distance:.3g}",
        ]
        for result in results
    ]
    _print_table(console, ["parameter", "l × m × n", "steps", "max |X| left", "moved by"], rows)
    if skipped:
        console.print(f"kept as they are: {_counts(skipped)}", style="dim")
    console.print(f"written to {printable(str(target))}", soft_wrap=True)
    for warning in caught:
        errors.print(f"gramian: warning: {printable(str(warning.message))}", soft_wrap=True)
    if not all(result.converged for result in results):
        sys.exit(1)


def _all_files(files: list[Path]) -> list[Path]:
    """Return the files that are read, including those in a folder or beside an index."""
    folders = {path if path.is_dir() else path.parent for path in files if path.is_dir() or path.suffix == ".json"}
    return [*files, *(shard for folder in folders for shard in folder.glob("*.safetensors*"))]


def _print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; on a narrow terminal each name above its numbers, so that none is truncated."""
    names = [printable(row[0]) for row in rows]
    # Titles of numbers are broken into short lines; those of layouts and sizes are not.
    titles = [name if name in ("layout", "l × m × n") else name.replace(" ", "\n") for name in header]
    widths = [
        max(len(part) for part in (*title.split("\n"), *(row[place] for row in rows)))
        for place, title in enumerate(titles)
    ][1:]
    room = console.width - sum(width + 2 for width in widths)
    if room < min(_NAME, max(map(len, names), default=0)):
        for name, row in zip(names, rows, strict=True):
            console.print(Text(name, overflow="fold"))
            # Lines break only between numbers, never between a number and its title.
            numbers = (f"{title} {cell}".replace(" ", "\0") for title, cell in zip(header[1:], row[1:], strict=True))
            for line in textwrap.wrap(
                ",  ".join(numbers), console.width - 2, break_long_words=False, break_on_hyphens=False
            ):
                console.print(Text(f"  {line}".replace("\0", " "), overflow="fold"))
        return
    table = Table(box=None, header_style="bold")
    for place, title in enumerate(titles):
        if place == 0:
            table.add_column(Text(title), overflow="fold")
        else:
            textual = title in ("layout", "l × m × n")
            table.add_column(Text(title), justify="left" if textual else "right", no_wrap=True)
    for name, row in zip(names, rows, strict=True):
        table.add_row(Text(name), *map(Text, row[1:]))
    console.print(table)


def _progress(what: str) -> Callable[[Iterable[str]], Iterable[str]]:
    errors = Console(stderr=True)
    if not errors.is_terminal:
        return lambda names: names
    description = escape(printable(what))
    return lambda names: track(list(names), description, console=errors, transient=True)


def _layouts(texts: list[str]) -> Layouts | None:
    """Read GLOB=PATTERN, or PATTERN for all, each with sizes after a semicolon: '*.q.weight=(h d) i -> i h d; h=8'."""
    by_glob: dict[str | re.Pattern[str], Layout | str] = {}
    for text in texts:
        pattern, _, sizes = text.partition(";")
        glob, equals, pattern = pattern.partition("=") if "=" in pattern else ("*", "=", pattern)
        numbers: dict[str, int] = {}
        for size in filter(None, (part.strip() for part in sizes.split(","))):
            name, _, number = (part.strip() for part in size.partition("="))
            if not number.isdigit():
                raise OptionError(f"sizes of a layout must be like 'h=8, d=64'; got {size!r} in --layout {text!r}")
            numbers[name] = int(number)
        if not equals or "->" not in pattern:
            raise OptionError(f"--layout must be GLOB=PATTERN, like '*.weight=o i -> i () o'; got {text!r}")
        by_glob[glob.strip()] = Layout(pattern.strip(), **numbers)
    return by_glob or None


def _counts(skipped: list[SkippedParameter]) -> str:
    """Count the skipped tensors by reason."""
    return "; ".join(
        f"{count} {printable(reason)}" for reason, count in Counter(tensor.reason for tensor in skipped).items()
    )
