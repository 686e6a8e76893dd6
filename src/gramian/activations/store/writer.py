"""Write a store shard by shard, so that an interrupted capture continues after the last whole shard."""

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.activations.store.manifest import (
    DTYPES,
    FORMAT,
    MANIFEST,
    Layer,
    Manifest,
    Shard,
    read_manifest,
    shard_name,
    write_manifest,
)
from gramian.activations.store.places import Places, place_tensors
from gramian.activations.store.statistics import Statistics
from gramian.activations.store.tensors import read_header, write_tensors
from gramian.errors import DataError, RunError, ShapeError, printable
from gramian.files import check_folder, lock_folder, sweep_temporaries

__all__ = ["SAMPLES", "SHARD_BYTES", "StoreWriter", "check_store", "open_writer"]

SAMPLES = "samples"
"""The samples of a layer are stored as `samples.LAYER`."""

SHARD_BYTES = 1 << 26
"""Size of a shard; the memory of a capture is about three times as much."""


class StoreWriter:
    """Collect the samples of whole batches, and write a shard when there are enough.

    A shard holds whole batches, because a capture that continues repeats batches from their beginning. `open_writer`
    opens one.

    Args:
        folder: Folder of the store, locked by the caller.
        manifest: The store so far.
        shard_bytes: Number of bytes at which a shard is written.
        replace_store: Whether to remove the store in the folder before the first shard is written.

    Attributes:
        manifest: What is on the disk.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, *, shard_bytes: int = SHARD_BYTES, replace_store: bool = False
    ) -> None:
        self.manifest = manifest
        self._replace_store = replace_store
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._dtype = DTYPES[manifest.dtype]
        self._samples: dict[str, list[Tensor]] = {}
        self._places: list[Places] = []
        self._batches = self._documents = self._bytes = 0

    @property
    def samples(self) -> int:
        """Number of samples on the disk and in memory."""
        return self.manifest.samples + sum(map(len, self._places))

    @property
    def documents(self) -> int:
        """Number of documents on the disk and in memory."""
        return self.manifest.documents + self._documents

    def add(self, samples: Mapping[str, Float[Tensor, "samples _"]], places: Places, *, documents: int) -> None:
        """Add the samples of one batch.

        Args:
            samples: The samples of each layer, by its name; the same layers for every batch.
            places: Where they come from.
            documents: Number of documents of the batch.

        Raises:
            ShapeError: If layers, lengths or numbers of samples differ from those of earlier batches.
            DataError: If a sample is not finite.
            RunError: If a shard cannot be written.
        """
        self._check(samples, places)
        for name, x in samples.items():
            stored = x.detach().to("cpu", self._dtype).contiguous()
            if not bool(stored.isfinite().all()):
                raise DataError(
                    f"the samples of {name!r} must be finite in {self.manifest.dtype}; got NaN or infinite numbers; "
                    "try another layer or another input"
                )
            self._samples.setdefault(name, []).append(stored)
            self._bytes += stored.numel() * stored.element_size()
        self._places.append(places)
        self._batches += 1
        self._documents += documents
        if self._bytes >= self._shard_bytes:
            self._write_shard()

    def skip_batch(self) -> None:
        """Count a batch without documents, so that a capture that continues counts the same batches."""
        self._batches += 1

    def finish(self) -> Manifest:
        """Write the last shard, and mark the store as complete in the manifest.

        Raises:
            DataError: If there is no sample at all.
            RunError: If a file cannot be written.
        """
        if sum(map(len, self._places)):
            self._write_shard()
        if not self.manifest.shards:
            raise DataError("the inputs must give at least one sample; got none; try other inputs")
        self.manifest = replace(self.manifest, complete=True)
        write_manifest(self._folder, self.manifest)
        return self.manifest

    def _check(self, samples: Mapping[str, Tensor], places: Places) -> None:
        shapes = {name: tuple(x.shape) for name, x in samples.items()}
        if not samples or any(len(shape) != 2 or shape[0] != len(places) for shape in shapes.values()):
            raise ShapeError(
                f"every layer must give {len(places)} samples [samples, l], one for each place; got {shapes}; try one "
                "layer, or layers of equal numbers of positions"
            )
        known = {name: parts[0].shape[1] for name, parts in self._samples.items()} or {
            name: layer.length for name, layer in self.manifest.layers.items()
        }
        lengths = {name: shape[1] for name, shape in shapes.items()}
        if known and known != lengths:
            raise ShapeError(f"every batch must have the layers and lengths of the first, {known}; got {lengths}")

    def _write_shard(self) -> None:
        contents = {name: torch.cat(parts) for name, parts in self._samples.items()}
        places = Places.concatenated(self._places)
        if self._replace_store:  # only now, so that a capture that fails at once leaves the old store
            _remove_store(self._folder)
            self._replace_store = False
        path = self._folder / shard_name(len(self.manifest.shards))
        _check_replaceable(path)
        tensors = {f"{SAMPLES}.{name}": x for name, x in contents.items()} | place_tensors(places)
        checksum = write_tensors(path, tensors, {"format": FORMAT})
        shard = Shard(path.name, len(places), self._batches, self._documents, path.stat().st_size, checksum)
        layers = {name: self._merged(name, x) for name, x in contents.items()}
        manifest = replace(self.manifest, layers=layers, shards=(*self.manifest.shards, shard))
        write_manifest(self._folder, manifest)
        self.manifest = manifest
        self._samples, self._places = {}, []
        self._batches = self._documents = self._bytes = 0

    def _merged(self, name: str, x: Tensor) -> Layer:
        before = self.manifest.layers.get(name)
        statistics = Statistics.of(x)
        if before is not None:
            statistics = before.statistics(self.manifest.samples).merge(statistics)
        return Layer(x.shape[1], tuple(statistics.mean.tolist()), statistics.scale)


def check_store(folder: Path, *, resume: bool, force: bool) -> Manifest | None:
    """Check, before any work, that a store can be written into a folder, and that no file is lost.

    Args:
        folder: A new or an empty folder; with `resume` or `force` also one that holds a store.
        resume: Whether to continue the store.
        force: Whether to replace the store.

    Returns:
        The store to continue; None for a new one.

    Raises:
        RunError: If the folder holds something else, cannot be written, or holds no store to continue.
        DataError: If the store to continue is damaged.
    """
    if resume and force:
        raise RunError("a capture must continue a store or replace it; got --resume and --force; try one of them")
    check_folder(folder)
    try:
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set[str]()
    except OSError as error:
        raise RunError(f"the folder {folder} could not be read: {error.strerror or error}") from error
    if MANIFEST in names:
        manifest = read_manifest(folder)
        if not (resume or force):
            raise RunError(
                f"{folder} must be a new or an empty folder; it already holds a store of {manifest.samples} samples; "
                "try another name, --resume to continue it, or --force to replace it"
            )
        return manifest if resume else None
    if resume:
        raise RunError(f"{folder} must hold a store, to be continued; got no {MANIFEST}; try without --resume")
    others = {name for name in names if not name.startswith(".gramian-")}
    for name in sorted(others):
        if not _is_shard(folder / name):
            raise RunError(f"{folder} must be a new or an empty folder; it already holds {name!r}; try another name")
    return None


@contextlib.contextmanager
def open_writer(
    folder: Path, manifest: Manifest, *, resume: bool = False, force: bool = False, shard_bytes: int = SHARD_BYTES
) -> Generator[StoreWriter]:
    """Create or continue a store, and lock it for this process.

    If the block raises, the shards written so far stay, with their manifest; a new folder without a shard is removed.

    Args:
        folder: Folder of the store.
        manifest: Its description, without layers and shards.
        resume: Whether to continue the store in the folder.
        force: Whether to replace the store in the folder.
        shard_bytes: Number of bytes at which a shard is written.

    Yields:
        The writer.

    Raises:
        RunError: As `check_store`; or if the store to continue was captured with other settings; or if another process
            uses the folder.
    """
    check_store(folder, resume=resume, force=force)
    created = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {folder} could not be created: {error.strerror or error}") from error
    with lock_folder(folder):
        before = check_store(folder, resume=resume, force=force)  # another process may have changed it until the lock
        sweep_temporaries(folder)
        if before is not None:
            _check_settings(folder, before, manifest)
        try:
            yield StoreWriter(folder, before or manifest, shard_bytes=shard_bytes, replace_store=force)
        finally:
            if created and not (folder / MANIFEST).exists():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _check_settings(folder: Path, before: Manifest, manifest: Manifest) -> None:
    old = {"model": before.model, "dtype": before.dtype, "places": before.places, **before.settings}
    new = {"model": manifest.model, "dtype": manifest.dtype, "places": manifest.places, **manifest.settings}
    changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if changed:
        name = changed[0]
        raise RunError(
            f"the store in {folder} must be continued with its settings, {name} {old.get(name)!r:.80}; got "
            f"{new.get(name)!r:.80}; try the command that began it, or --force to replace it"
        )


def _remove_store(folder: Path) -> None:
    """Remove the files of the store in a folder, the manifest first; all other files stay."""
    if not (folder / MANIFEST).exists():
        return
    shards = read_manifest(folder).shards
    try:
        (folder / MANIFEST).unlink()
        for shard in shards:
            (folder / shard.file).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"the store in {folder} could not be replaced: {error.strerror or error}") from error


def _check_replaceable(path: Path) -> None:
    """Check that a file is missing, or is a shard that was written before its manifest could be.

    Raises:
        RunError: If it is something else.
    """
    if path.exists() and not _is_shard(path):
        raise RunError(f"{printable(path)} must be a shard or missing; got another file; try another folder")


def _is_shard(path: Path) -> bool:
    try:
        return read_header(path).metadata.get("format") == FORMAT
    except DataError:
        return False
