"""`gramian capture`: run a network over texts or pictures, and store the outputs of its modules."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from gramian.activations import Manifest, capture
from gramian.activations.recording.architectures import load_architecture
from gramian.activations.recording.hooks import matching_modules
from gramian.activations.recording.hugging_face import load_picture_network, load_text_network
from gramian.activations.recording.pictures import PICTURE_SUFFIXES
from gramian.activations.recording.texts import TEXT_SUFFIXES, files_of, read_texts
from gramian.activations.settings import check_device
from gramian.activations.store.manifest import read_manifest
from gramian.activations.store.writer import StoreWriter, check_store
from gramian.errors import DataError, OptionError, printable

__all__ = ["CaptureOptions", "capture_activations"]


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """The options of a capture.

    Attributes:
        layer: Globs of module names.
        arch: `timm:NAME` or `torchvision:NAME` for a file of weights; None for a folder of the transformers library.
        field: Name of the text in JSON lines and Parquet.
        tokens: Largest number of tokens of a text; None for what the network can read, at most 512.
        special: Whether to keep tokens such as [CLS], which represent no text and no patch.
        axes: The axes of outputs; None for the default.
        batch: Number of texts or pictures in a batch.
        dtype: 'float32' or 'bfloat16'.
        max_samples: Largest number of samples; None for all.
        device: Device of the network.
    """

    layer: list[str]
    arch: str | None = None
    field: str = "text"
    tokens: int | None = None
    special: bool = False
    axes: str | None = None
    batch: int = 32
    dtype: str = "float32"
    max_samples: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class _Inputs:
    """A network with its batches."""

    model: nn.Module
    batches: Iterable[Any]
    places: str
    documents: int | None
    size: int
    skipped: list[Path]


def capture_activations(
    model: Path, inputs: Path, out: Path, options: CaptureOptions, *, resume: bool, force: bool
) -> None:
    """Capture the activations of a network in files; Ctrl-C keeps complete shards.

    Raises:
        OptionError: If an option is out of range, or no module matches.
        DataError: If the network or the inputs cannot be read.
        RunError: If the store cannot be written.
        MissingExtraError: If a package is missing.
    """
    before = check_store(out, resume=resume, force=force)
    console = Console(highlight=False, markup=False)
    if before is not None:
        console.print(f"continuing after {_counts(before)}", soft_wrap=True)
    check_device(options.device)
    source = _open(model, inputs, options)
    names = list(matching_modules(source.model, options.layer))
    console.print(f"capturing {', '.join(map(printable, names))}", soft_wrap=True)
    settings = {
        "inputs": printable(inputs.resolve()), "inputs_bytes": source.size, "arch": options.arch,
        "batch": options.batch, "field": options.field, "tokens": options.tokens, "special": options.special,
    }  # fmt: skip
    try:
        with _CaptureProgress(source.documents, options.max_samples) as progress:
            manifest = capture(
                source.model, source.batches, layer=options.layer, store=out, dtype=options.dtype, places=source.places,
                axes=options.axes, max_samples=options.max_samples, device=options.device,
                name=printable(model.resolve()), settings=settings, resume=resume, force=force, progress=progress,
            )  # fmt: skip
    except (KeyboardInterrupt, SystemExit) as stopped:
        _print_rest(console, out)
        sys.exit(stopped.code if isinstance(stopped, SystemExit) else 130)
    if source.skipped:
        names = ", ".join(printable(path.name) for path in source.skipped[:6])
        more = ", …" if len(source.skipped) > 6 else ""
        console.print(f"skipped, not readable: {len(source.skipped)} pictures: {names}{more}", soft_wrap=True)
    for name, layer in manifest.layers.items():
        console.print(f"{printable(name)}: length {layer.length}, scale {layer.scale:.4g}", soft_wrap=True)
    console.print(f"{_counts(manifest)} are in {printable(out)}", soft_wrap=True)


def _open(model: Path, inputs: Path, options: CaptureOptions) -> _Inputs:
    texts, pictures = (_listed(inputs, suffixes) for suffixes in (TEXT_SUFFIXES, PICTURE_SUFFIXES))
    if texts and pictures:
        raise DataError(
            f"inputs must be texts or pictures; got {len(texts)} texts and {len(pictures)} pictures in "
            f"{printable(inputs)}; try a folder of one kind"
        )
    files = texts or pictures or files_of(inputs, TEXT_SUFFIXES + PICTURE_SUFFIXES, kind="texts or pictures")
    size = sum(file.stat().st_size for file in files)
    if not pictures:
        if options.arch is not None:
            raise OptionError(f"--arch is for networks that see pictures; got texts in {printable(inputs)}")
        network = load_text_network(model, device=options.device)
        batches = network.batches(
            read_texts(files, field=options.field), size=options.batch, tokens=options.tokens, special=options.special
        )
        return _Inputs(network.model, batches, "tokens", None, size, [])
    if options.arch is None:
        seeing = load_picture_network(model, device=options.device)
    else:
        seeing = load_architecture(options.arch, model, device=options.device)
    batches = seeing.batches(files, size=options.batch, root=inputs, special=options.special)
    return _Inputs(seeing.model, batches, "patches", len(files), size, seeing.skipped)


def _listed(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        return files_of(path, suffixes, kind="files")
    except DataError:
        return []


def _print_rest(console: Console, out: Path) -> None:
    """Print what is on the disk after an interruption."""
    try:
        manifest = read_manifest(out)
    except DataError:
        console.print("interrupted before the first whole shard; nothing is kept")
        return
    console.print(f"interrupted; {_counts(manifest)} are in {printable(out)}", soft_wrap=True)
    console.print("to continue: the same command with --resume")


def _counts(manifest: Manifest) -> str:
    shards = len(manifest.shards)
    return (
        f"{manifest.samples} samples of {manifest.documents} documents, {manifest.bytes / 1e6:.1f} MB in {shards} "
        f"{'shard' if shards == 1 else 'shards'},"
    ).rstrip(",")


class _CaptureProgress:
    """Show a progress bar on a terminal, and remove it at the end."""

    def __init__(self, documents: int | None, samples: int | None) -> None:
        console = Console(stderr=True)
        self._by_samples = samples is not None
        self._progress = Progress(
            BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=samples if self._by_samples else documents)

    def __enter__(self) -> "_CaptureProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._progress.disable:
            self._progress.stop()

    def __call__(self, writer: StoreWriter) -> None:
        """Update the progress."""
        self._progress.update(
            self._task,
            completed=writer.samples if self._by_samples else writer.documents,
            description=f"{writer.documents} documents, {writer.samples} samples, {len(writer.manifest.shards)} shards",
        )
