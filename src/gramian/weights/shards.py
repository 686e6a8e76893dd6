"""Safetensors, single or sharded, with the bytes of some tensors replaced and every other byte unchanged.

All shards are written and flushed before the first is renamed into place, and the index is renamed last: in a new
folder no reader finds shards before all exist, because readers follow the index. While shards are renamed, a notice in
the folder marks the set as unfinished.
"""

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from gramian.errors import WeightsError, printable
from gramian.files import atomic_path, check_folder, check_output, lock_folder, sweep_temporaries
from gramian.weights.entries import Weights
from gramian.weights.files import SUFFIXES, UNFINISHED

__all__ = ["check_shards", "copy_with", "rewrite_shards", "same_file"]

_FILES = tuple(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

_NOTICE = (
    "The shards of {} are being replaced by gramian orthogonalize. If no such command runs, it was interrupted:\n"
    "some shards are new, others old, each of them complete. The same command with --force finishes it and removes\n"
    "this file.\n"
)


def same_file(first: Path, second: Path) -> bool:
    """Return whether two paths have the same name in the same folder, also through links to the folder."""
    return first.name == second.name and os.path.realpath(first.parent) == os.path.realpath(second.parent)


def check_shards(weights: Weights, target: Path, names: Iterable[str], *, force: bool) -> None:
    """Check, before any work, every file that will be written into a folder.

    Args:
        weights: The opened file.
        target: The folder.
        names: Which tensors are replaced.
        force: Whether existing files may be replaced.

    Raises:
        WeightsError: If `target` cannot be a folder, or one of the files may not be written.
    """
    check_folder(target, error=WeightsError)
    if not target.exists():
        if target.name.endswith(_FILES):
            raise WeightsError(f"the output of sharded safetensors must be a folder; got {target}, a file by its name")
        return
    places = _places_of(weights, target, names)
    for place in places.values():
        # With force a file may replace itself; under another name it is an input that would be lost.
        inputs = [file for file in (weights.path, *weights.files) if not same_file(file, place)]
        check_output(place, force=force, inputs=inputs, error=WeightsError)
    if len({os.path.realpath(place) for place in places.values()}) < len(places):
        raise WeightsError(f"every shard must be a separate file in {target}; got links to the same file")


def _places_of(weights: Weights, target: Path, names: Iterable[str]) -> dict[Path, Path]:
    """Return the target of each file, in the order of renaming; in the folder of the source only files that change."""
    changed = {weights.entries[name].file for name in names}
    files = [*weights.files, weights.path]
    if target.is_dir() and target.samefile(weights.path.parent):
        files = [file for file in weights.files if file in changed]
    return {file: target / file.name for file in files}


def rewrite_shards(
    weights: Weights, target: Path, names: list[str], compute: Callable[[str], Tensor],
    progress: Callable[[Iterable[str]], Iterable[str]],
) -> None:  # fmt: skip
    """Write the shards and their index into a folder, with some of the tensors replaced.

    Args:
        weights: The opened file.
        target: The folder; it is created if it does not exist.
        names: Which tensors are replaced.
        compute: Computes the new tensor for a name.
        progress: Wraps the names, to show progress.

    Raises:
        WeightsError: If something cannot be written. Each file is then either completely old or completely new.
    """
    created = not target.exists()
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise WeightsError(f"the folder {target} could not be created: {error.strerror or error}") from error
    try:
        with lock_folder(target, error=WeightsError):
            sweep_temporaries(target)
            _write(weights, target, names, compute, progress)
    except BaseException:
        if created:
            with contextlib.suppress(OSError):
                target.rmdir()  # only if it is empty
        raise


def _write(
    weights: Weights, target: Path, names: list[str], compute: Callable[[str], Tensor],
    progress: Callable[[Iterable[str]], Iterable[str]],
) -> None:  # fmt: skip
    places = _places_of(weights, target, names)
    notice = target / f"{weights.path.name}{UNFINISHED}"
    before = {place: _identity(place) for place in places.values()}
    try:
        with contextlib.ExitStack() as put_in_place:
            # Contexts exit in reverse order: the index is entered first, so it is renamed last.
            temporaries = {
                file: put_in_place.enter_context(atomic_path(place, error=WeightsError))
                for file, place in reversed(places.items())
            }
            for file, temporary in temporaries.items():
                shutil.copyfile(file, temporary)
            for name in progress(names):
                _overwrite(temporaries[weights.entries[name].file], name, compute(name))
            if len(places) > 1:
                for temporary in temporaries.values():
                    with temporary.open("rb+") as file:
                        os.fsync(file.fileno())
                with atomic_path(notice, error=WeightsError) as text:
                    text.write_text(_NOTICE.format(weights.path.name), encoding="utf-8")
        notice.unlink(missing_ok=True)
    except BaseException as error:
        if all(_identity(place) == identity for place, identity in before.items()):
            with contextlib.suppress(OSError):
                notice.unlink(missing_ok=True)  # nothing was replaced
        if isinstance(error, OSError):
            raise WeightsError(f"{target} could not be written: {error.strerror or error}") from error
        raise


def _identity(place: Path) -> tuple[int, int] | None:
    """Identify a file, to recognise that another one has replaced it."""
    try:
        status = place.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def copy_with(source: Path, target: Path, names: Iterable[str], compute: Callable[[str], Tensor]) -> None:
    """Copy a file of safetensors with some of its tensors replaced.

    Args:
        source: The file.
        target: The copy.
        names: Which tensors are replaced.
        compute: Computes the new tensor for a name.

    Raises:
        OSError: If it cannot be written.
    """
    shutil.copyfile(source, target)
    for name in names:
        _overwrite(target, name, compute(name))


def _overwrite(path: Path, name: str, tensor: Tensor) -> None:
    with path.open("rb+") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        begin, end = json.loads(file.read(length))[name]["data_offsets"]
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        if len(content) != end - begin:
            raise WeightsError(f"{printable(name)} must keep its {end - begin} bytes; got {len(content)}")
        file.seek(8 + length + begin)
        file.write(content)
