"""Options, statistics over seeds and tables of the comparisons; tables are written into docs/measured."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from gramian import __version__
from gramian.files import replace_file

__all__ = ["FOLDER", "options", "spread", "write_table"]

FOLDER = Path(__file__).parents[1] / "docs" / "measured"


def options(
    description: str | None,
    paths: Sequence[str] = (),
    choices: Mapping[str, Sequence[str]] | None = None,
    **defaults: int,
) -> argparse.Namespace:
    """Parse the command line: --seeds, the options of the comparison, other files it writes, its parts, and --out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"seeds": 5, **defaults}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    for name in paths:
        parser.add_argument(f"--{name}", type=Path)
    for name, values in (choices or {}).items():
        parser.add_argument(f"--{name}", choices=values, help="default: all")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the table")
    return parser.parse_args()


def spread(values: Sequence[float], form: str) -> str:
    """Return mean ± standard deviation."""
    center = format(mean(values), form)
    return f"{center} ± {format(stdev(values), form)}" if len(values) > 1 else center


def write_table(
    name: str, folder: Path, header: Sequence[str], rows: Iterable[Sequence[str]], note: str, *, part: str = ""
) -> None:
    """Print a Markdown table with a note below it, and write both into a file; `part` names one of several."""
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
    text = (
        f"{lines}\n\n{note}\n\nMeasured by `python examples/{name}.py` with gramian {__version__} and torch "
        f"{torch.__version__}.\n"
    )
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (f"{name}_{part}.md" if part else f"{name}.md")
    replace_file(path, text.encode())
    print(f"written to {path}")
