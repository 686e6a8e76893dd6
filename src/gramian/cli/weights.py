"""The commands for weights in files."""

import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from gramian.cli.tables import print_line, print_table
from gramian.errors import OptionError, printable
from gramian.files import check_output, replace_file, sweep_temporaries
from gramian.inspection import Comparison
from gramian.inspection.table import COLUMNS
from gramian.layout import Layout
from gramian.report import Portrait, portrait, render_weights
from gramian.selection import Layouts, Pattern, SkippedParameter
from gramian.weights import inspect_file, orthogonalize_file

__all__ = ["inspect_files", "rewrite"]

_OPTIONAL = ("layout", "condition", "eff. rank")
"""Columns that a narrow terminal leaves out, in this order."""


def inspect_files(
    files: list[Path], select: list[str], exclude: list[str], layouts: list[str], *, before: Path | None = None,
    as_json: bool = False, page: Path | None = None, force: bool = False,
) -> None:  # fmt: skip
    """Show how orthogonal the tensors of files are, or compare one file with its earlier state."""
    if before is not None:
        if len(files) != 1:
            raise OptionError(
                f"--before must be compared with one file; got {len(files)}; try one file after the other"
            )
        files = [before, *files]
    if page is not None:
        check_output(page, force=force, suffixes=(".html",), inputs=_all_files(files))
        sweep_temporaries(page.parent)
    portraits: list[dict[str, Portrait]] = [{} for _ in files]
    inspections = [
        inspect_file(
            path, select=select or None, exclude=exclude or None, layouts=_layouts(layouts),
            progress=_progress(path.name),
            visit=None if page is None else lambda name, phi, drawn=drawn: drawn.update({name: portrait(phi)}),
        )
        for path, drawn in zip(files, portraits, strict=True)
    ]  # fmt: skip
    comparison = None if before is None else inspections[1].since(inspections[0])
    names = [str(path) for path in files]
    if page is not None:
        sections = dict(zip(names, zip(inspections, portraits, strict=True), strict=True))
        replace_file(page, render_weights(sections, comparison).encode())
    if as_json:
        content: dict[str, Any] = {name: each.as_dict() for name, each in zip(names, inspections, strict=True)}
        if comparison is not None:
            content = {"before": names[0], "after": names[1], **comparison.as_dict()}
        print(json.dumps(content, indent=1))
        return
    console = Console(highlight=False, markup=False)
    if comparison is not None:
        _print_comparison(console, names, comparison)
    else:
        for name, inspection in zip(names, inspections, strict=True):
            print_line(console, printable(name), style="italic")
            print_table(console, COLUMNS, [row.cells() for row in inspection.rows], optional=_OPTIONAL)
            if inspection.skipped:
                print_line(console, f"skipped: {_counts(inspection.skipped)}\n", style="dim")
    if page is not None:
        console.print(f"histograms and Gram pictures are in {printable(str(page))}", soft_wrap=True)


def _print_comparison(console: Console, names: list[str], comparison: Comparison) -> None:
    print_line(console, " → ".join(map(printable, names)), style="italic")
    if comparison.rows:
        print_table(console, COLUMNS, [row.cells() for row in comparison.rows], optional=_OPTIONAL)
    for parameter in comparison.unmatched:
        print_line(console, f"{printable(parameter.name)}: {printable(parameter.reason)}", style="dim")


def rewrite(
    source: Path, target: Path, select: list[str], exclude: list[str], layouts: list[str], *, rule: str, penalty: str,
    max_steps: int, force: bool,
) -> None:  # fmt: skip
    """Make the tensors of a file orthonormal; exit with status 1 if one of them did not converge.

    The last state is written in any case, as the user may have limited the number of steps on purpose.
    """
    console, errors = Console(highlight=False, markup=False), Console(stderr=True, highlight=False, markup=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results, skipped = orthogonalize_file(
            source, target, select=select or None, exclude=exclude or None, layouts=_layouts(layouts), rule=rule,
            penalty=penalty, max_steps=max_steps, force=force, progress=_progress("orthogonalizing"),
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
    print_table(console, ["parameter", "l × m × n", "steps", "max |X| left", "moved by"], rows)
    if skipped:
        print_line(console, f"kept as they are: {_counts(skipped)}", style="dim")
    console.print(f"written to {printable(str(target))}", soft_wrap=True)
    for warning in caught:
        errors.print(f"gramian: warning: {printable(str(warning.message))}", soft_wrap=True)
    if not all(result.converged for result in results):
        sys.exit(1)


def _all_files(files: list[Path]) -> list[Path]:
    """Return the files that are read, including those in a folder or beside an index."""
    folders = {path if path.is_dir() else path.parent for path in files if path.is_dir() or path.suffix == ".json"}
    return [*files, *(shard for folder in folders for shard in folder.glob("*.safetensors*"))]


def _progress(what: str) -> Callable[[Iterable[str]], Iterable[str]]:
    errors = Console(stderr=True)
    if not errors.is_terminal:
        return lambda names: names
    description = escape(printable(what))
    return lambda names: track(list(names), description, console=errors, transient=True)


def _layouts(texts: list[str]) -> Layouts | None:
    """Read GLOB=PATTERN, or PATTERN for all, each with sizes after a semicolon: '*.q.weight=(h d) i -> i h d; h=8'."""
    by_glob: dict[Pattern, Layout | str] = {}
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
