"""NumPy archives: arrays are listed by their headers, read one at a time, and rewritten member by member."""

import warnings
import zipfile
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from gramian.errors import WeightsError, printable
from gramian.selection import SkippedParameter
from gramian.weights.arrays import BLOCK, check_header, read_entries, read_header, torch_dtype, write_array
from gramian.weights.entries import Entry, Weights, cause, distinct

__all__ = ["open_archive", "rewrite_archive"]


def open_archive(path: Path) -> Weights:
    """List the arrays of a NumPy archive.

    Raises:
        WeightsError: If an array holds Python objects, or its length is not that of its header.
    """
    arrays: list[tuple[str, tuple[int, ...], Any, zipfile.ZipInfo]] = []
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if member.filename.endswith(".npy"):
                with archive.open(member) as file:
                    shape, _, dtype = read_header(file)
                    offset = file.tell()
                where = f"{printable(member.filename)} in {path}"
                check_header(where, shape, dtype, member.file_size - offset)
                arrays.append((member.filename.removesuffix(".npy"), shape, dtype, member))
    entries: dict[str, Entry] = {}
    skipped: list[SkippedParameter] = []
    names = distinct(name for name, *_ in arrays)
    for name, (_, shape, dtype, member) in zip(names, arrays, strict=True):
        known = torch_dtype(dtype)
        if known is None:
            skipped.append(SkippedParameter(name, f"of dtype {dtype}", shape))
        else:
            entries[name] = Entry(name, shape, path, str(known), member)
    others = [member.filename for member in members if not member.filename.endswith((".npy", "/"))]
    skipped += [SkippedParameter(name, "not an array") for name in others]
    return Weights(path, "npz", entries, (path,), _read, tuple(skipped))


def _read(entry: Entry) -> Tensor:
    with zipfile.ZipFile(entry.file) as archive, archive.open(entry.place) as file:
        return read_entries(file, entry.shape)


def rewrite_archive(weights: Weights, target: Path, names: Iterable[str], compute: Callable[[str], Tensor]) -> None:
    """Write an archive with some of its arrays replaced, and every other member unchanged.

    Args:
        weights: The opened archive.
        target: Where to write.
        names: Which arrays are replaced, in the order of the archive.
        compute: Computes the new array for a name.

    Raises:
        WeightsError: If a member is damaged.
    """
    remaining = iter(names)
    name = next(remaining, None)
    with zipfile.ZipFile(weights.path) as old, zipfile.ZipFile(target, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about members of the same name, which are copied
        new.comment = old.comment
        for member in old.infolist():
            tensor = None
            if name is not None and weights.entries[name].place.header_offset == member.header_offset:
                tensor, name = compute(name), next(remaining, None)
            # A copy, because writing changes the offset of the member.
            with new.open(copy(member), "w", force_zip64=True) as file:
                if tensor is None:
                    _copy(old, member, file)
                else:
                    with old.open(member) as source:
                        write_array(file, tensor, source)


def _copy(old: zipfile.ZipFile, member: zipfile.ZipInfo, file: Any) -> None:
    try:
        source = old.open(member)
    except Exception as error:
        raise _damaged(old, member, error) from error
    with source:
        while True:
            try:
                content = source.read(BLOCK)
            except Exception as error:
                raise _damaged(old, member, error) from error
            if not content:
                return
            file.write(content)


def _damaged(old: zipfile.ZipFile, member: zipfile.ZipInfo, error: Exception) -> WeightsError:
    return WeightsError(f"{printable(member.filename)} in {old.filename} cannot be read: {cause(error)}")
