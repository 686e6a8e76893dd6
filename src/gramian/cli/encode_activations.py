"""`gramian encode` and `gramian decode` for the activations of a network, in bounded memory."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gramian.activations import decode_activations, encode_activations, open_activations, open_codes
from gramian.activations.codes import Progress as Report
from gramian.activations.codes import check_length
from gramian.activations.settings import check_device
from gramian.coding import BlockFeatures
from gramian.errors import RunError
from gramian.files import check_output

__all__ = ["decode_store", "encode_store"]


def encode_store(
    dictionary: Path,
    store: Path,
    out: Path,
    *,
    layer: str | None = None,
    infer: bool = False,
    device: str = "cpu",
    force: bool,
) -> None:
    """Encode activations into one file of codes.

    Raises:
        RunError: If the dictionary cannot be read, or the file exists already or cannot be written.
        DataError: If the activations cannot be used.
        OptionError: If there is no such layer or device.
    """
    check_device(device)
    features = BlockFeatures.load(dictionary)
    features.module_.to(device)
    activations = open_activations(store, layer=layer)
    check_length(features, activations)
    check_output(out, force=force, suffixes=[".safetensors"], inputs=[dictionary, store])
    with _progress(len(activations)) as progress:
        codes = encode_activations(features, activations, out, infer=infer, progress=progress)
    print(
        f"{out}: {len(codes)} activations, {codes.active:.1f} of {codes.n_groups} groups active, "
        f"{codes.unexplained:.2%} unexplained"
    )


def decode_store(dictionary: Path, codes: list[Path], out: Path, *, force: bool) -> None:
    """Reconstruct activations from a file of codes.

    Raises:
        RunError: If a file cannot be read, exists already or cannot be written, or has codes of another dictionary.
        DataError: If the codes are damaged.
    """
    if len(codes) != 1 or codes[0].is_dir():
        raise RunError(f"there must be one file of codes of activations; got {', '.join(map(str, codes))}")
    features = BlockFeatures.load(dictionary)
    opened = open_codes(codes[0])
    check_output(out, force=force, suffixes=[".npy"], inputs=[dictionary, *codes])
    opened.verify()
    with _progress(len(opened)) as progress:
        decode_activations(features, opened, out, progress=progress)
    print(f"{out}: {len(opened)} activations")


@contextmanager
def _progress(total: int) -> Generator[Report]:
    """Show a progress bar on a terminal."""
    console = Console()
    columns = (TextColumn("activations"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=total)
    if not bar.disable:
        bar.start()
    try:
        yield lambda done: bar.update(task, completed=done)
    finally:
        if not bar.disable:
            bar.stop()
