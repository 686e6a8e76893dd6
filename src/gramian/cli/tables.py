"""Tables of results: fitted to the width of a terminal; one line for each row in a pipe or a file."""

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gramian.errors import printable
from gramian.tables import aligned

__all__ = ["print_line", "print_lines", "print_table"]

_NAME = 16
"""Width below which a name is printed above its numbers instead of beside them."""

_TEXTUAL = ("layout", "l × m × n")
"""Columns of text; their titles are not broken into lines."""


def print_line(console: Console, text: str, *, style: str | None = None) -> None:
    """Print a line of text, which wraps in a terminal only."""
    console.print(Text(text), style=style, soft_wrap=not console.is_terminal)


def print_lines(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Print each row as one line of any length, with the cells in columns."""
    for line in aligned(rows):
        console.print(Text(line), soft_wrap=True)


def print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], *, optional: Sequence[str] = ()
) -> None:
    """Print a table whose first column has names.

    In a pipe or a file, a row is a line of any length. In a terminal, optional columns are left out until the names fit
    beside the others. A long name is broken into lines; with little room for it, it is printed above its numbers. No
    number is truncated.

    Args:
        console: Where to print.
        header: Titles of the columns.
        rows: The cells of each row.
        optional: Titles of columns that may be left out, the first one first.
    """
    rows = [(printable(name), *cells) for name, *cells in rows]
    if not console.is_terminal:
        print_lines(console, [header, *rows])
        return
    # Titles of numbers are broken into short lines.
    titles = [name if name in _TEXTUAL else name.replace(" ", "\n") for name in header]
    widths = [
        max(len(part) for part in (*title.split("\n"), *(row[place] for row in rows)))
        for place, title in enumerate(titles)
    ]
    columns = list(range(len(header)))
    room = console.width - sum(width + 2 for width in widths[1:])
    for title in optional:
        if room >= widths[0]:
            break
        columns = [place for place in columns if header[place] != title]
        room = console.width - sum(widths[place] + 2 for place in columns[1:])
    if room < min(_NAME, widths[0]):
        _print_stacked(console, header, rows)
        return
    table = Table(box=None, header_style="bold")
    for place in columns:
        if place == 0:
            table.add_column(Text(titles[0]), overflow="fold")
        else:
            textual = titles[place] in _TEXTUAL
            table.add_column(Text(titles[place]), justify="left" if textual else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in columns))
    console.print(table)


def _print_stacked(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each name above its numbers; lines break between numbers, never between a number and its title."""
    for name, *cells in rows:
        console.print(Text(name, overflow="fold"))
        numbers = [f"{title} {cell}".replace(" ", "\0") for title, cell in zip(header[1:], cells, strict=True)]
        for line in textwrap.wrap(
            ",  ".join(numbers), console.width - 2, break_long_words=False, break_on_hyphens=False
        ):
            console.print(Text(f"  {line}".replace("\0", " "), overflow="fold"))
