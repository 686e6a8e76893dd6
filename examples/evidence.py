"""What the comparisons share: options, spread over seeds, and the table that goes into docs/measured."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from gramian import __version__
from gramian.files import replace_file

__all__ = ["FOLDER", "options", "spread", "write_table"]

FOLDER = Path(__file__).parents[1] / "docs" / "measured"


def options(about: str | None, **defaults: int) -> argparse.Namespace:
    """Read the command line: --seeds, what the comparison adds, and --out."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"seeds": 5, **defaults}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the table")
    return parser.parse_args()


def spread(values: Sequence[float], form: str) -> str:
    """Give mean ± standard deviation."""
    middle = format(mean(values), form)
    return f"{middle} ± {format(stdev(values), form)}" if len(values) > 1 else middle


def write_table(name: str, folder: Path, header: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> None:
    """Print a table in Markdown with a note under it, and keep both."""
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
    text = (
        f"{lines}\n\n{note}\n\nMeasured by `python examples/{name}.py` with gramian {__version__} and torch "
        f"{torch.__version__}.\n"
    )
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{name}.md", text.encode())
    print(f"written to {folder / name}.md")
