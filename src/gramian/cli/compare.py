"""`gramian compare`: the effect of the penalty and of groups on the user's pictures."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from gramian.files import check_output, replace_file
from gramian.images.evaluation.comparison import Compared, compare
from gramian.images.run import RunSettings

__all__ = ["compare_dictionaries"]

_HEADER = (
    "learned", "time, s", "median |cos|", "collapsed", "effective rank", "SNR, dB", "after least squares",
    "shift by a pixel", "random groups",
)  # fmt: skip


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
