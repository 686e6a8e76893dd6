"""`gramian compare`: the effect of the penalty and of groups on pictures, and the subspaces of dictionaries."""

from itertools import combinations
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from gramian.cli.tables import print_lines
from gramian.coding import SubspaceMatch, match
from gramian.coding.files import read_groups
from gramian.errors import GramianError, printable
from gramian.files import check_output, replace_file
from gramian.images.evaluation.comparison import Compared, compare
from gramian.images.run import RunSettings

__all__ = ["compare_dictionaries", "compare_subspaces"]

_HEADER = (
    "learned", "time, s", "median |cos|", "collapsed", "effective rank", "SNR, dB", "after least squares",
    "shift by a pixel", "random groups",
)  # fmt: skip

_MATCHED = ("first", "second", "groups", "come back", "overlap", "null", "null, 99 %")


def compare_subspaces(
    paths: list[Path], out: Path, *, tensor: str | None, layout: str | None, seed: int, force: bool
) -> None:
    """Match the subspaces of every two dictionaries, then print and write a table.

    Raises:
        WeightsError: If a dictionary cannot be read.
        ShapeError: If the vectors of two dictionaries differ in length.
        RunError: If the table exists already or cannot be written.
    """
    check_output(out, force=force, suffixes=[".md"], inputs=paths)
    dictionaries = [read_groups(path, tensor=tensor, layout=layout) for path in paths]
    console = Console(highlight=False, markup=False)
    names = [printable(path) for path in paths]
    rows: list[tuple[str, ...]] = []
    result = None
    for i, j in combinations(range(len(paths)), 2):
        try:
            result = match(dictionaries[i], dictionaries[j], seed=seed)
        except GramianError as error:
            raise type(error)(f"{names[i]} and {names[j]}: {error}") from error
        rows.append((names[i], names[j], *_summary(result)))
        console.print(f"{names[i]} and {names[j]}: {result!r}", soft_wrap=True)
    if console.is_terminal:
        table = Table(box=None, header_style="bold")
        for place, title in enumerate(_MATCHED):
            table.add_column(title, justify="left" if place < 2 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        print_lines(console, [_MATCHED, *rows])
    caption = (
        "Groups: live groups of the two. Come back: share of the first's groups whose overlap with their match is "
        "above the 99th percentile of matched random subspaces (1 % by chance). Overlap: mean squared cosine of the "
        "principal angles, mean over pairs, and for random subspaces."
    )
    console.print(caption)
    lines = [f"| {' | '.join(cells)} |" for cells in (_MATCHED, ["---"] * len(_MATCHED), *map(_escaped, rows))]
    text = "\n".join(lines) + f"\n\n{caption}\n"
    if len(rows) == 1 and result is not None:
        console.print(result.table(10))
        text += f"\n```\n{result.table(None)}\n```\n"
    replace_file(out, text.encode())
    print(f"written to {out}")


def _summary(result: SubspaceMatch) -> tuple[str, ...]:
    return (
        ", ".join(map(str, result.live)),
        f"{100 * result.share:.0f} %",
        f"{result.overlap.mean():.3f}",
        f"{result.null_overlap.mean():.3f}",
        f"{result.null_overlap.quantile(0.99):.3f}",
    )


def _escaped(cells: tuple[str, ...]) -> list[str]:
    return [cell.replace("|", r"\|") for cell in cells]


def compare_dictionaries(settings: RunSettings, out: Path, *, force: bool) -> None:
    """Learn several dictionaries, then print and write a table that compares them.

    Raises:
        DataError: If the pictures cannot be used.
        RunError: If the table exists already or cannot be written.
    """
    check_output(out, force=force, suffixes=[".md"], inputs=_inputs(settings))
    console = Console(highlight=False)
    rows: list[tuple[str, ...]] = []
    active = 0
    for compared in compare(settings):
        console.print(
            f"{compared.name}: {compared.seconds:.1f} s, {compared.snr:.2f} dB at {compared.active} coefficients"
        )
        active = compared.active
        rows.append(_row(compared))
    console.print(_transposed(rows))
    threads = torch.get_num_threads()
    caption = (
        f"{settings.groups * settings.size} atoms of {settings.patch} × {settings.patch} pixels, {settings.steps} "
        f"steps of {settings.batch} patches, λ = {settings.lam:g}, β = {settings.beta:g}, seed {settings.seed}. SNR: "
        f"of 2048 whitened held-out patches, at {active} coefficients for all four, as inferred and after least "
        "squares on the same support. Time: wall time of the learning steps only, one dictionary after the other, each "
        f"after a warm-up, on {threads} {'thread' if threads == 1 else 'threads'}. The last two are correlations of "
        "amplitudes under a shift of a pixel, for the learned groups and for random groups of the same atoms. "
        "scikit-learn is its MiniBatchDictionaryLearning, by coordinate descent."
    )
    console.print(caption)
    lines = [f"| {' | '.join(cells)} |" for cells in (_HEADER, ["---"] * len(_HEADER), *rows)]
    text = "\n".join(line.replace("|cos|", r"\|cos\|") for line in lines)
    replace_file(out, f"{text}\n\n{caption}\n".encode())
    print(f"written to {out}")


def _inputs(settings: RunSettings) -> list[Path]:
    return [] if settings.images is None else [Path(settings.images)]


def _transposed(rows: list[tuple[str, ...]]) -> Table:
    """Transpose the table, so that it fits a terminal of 80 characters."""
    table = Table(box=None, header_style="bold")
    table.add_column(_HEADER[0], no_wrap=True)
    for name, *_ in rows:
        table.add_column(name, justify="right", overflow="fold", ratio=1)
    for measure, *values in list(zip(_HEADER, *rows, strict=True))[1:]:
        table.add_row(measure, *values)
    return table


def _row(compared: Compared) -> tuple[str, ...]:
    single = compared.effective_rank <= 1 and compared.cosine == 0
    return (
        compared.name,
        f"{compared.seconds:.1f}",
        "–" if single else f"{compared.cosine:.1e}",
        "–" if single else f"{100 * compared.collapsed:.0f} %",
        f"{compared.effective_rank:.2f}",
        f"{compared.snr:.2f}",
        f"{compared.debiased:.2f}",
        f"{compared.shift:.2f}",
        f"{compared.random:.2f}",
    )
