"""NumPy archives: arrays are listed by their headers, read one at a time, and rewritten member by member."""

import math
import warnings
import zipfile
from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gramian.errors import WeightsError, printable
from gramian.selection import SkippedParameter
from gramian.weights.entries import Entry, Weights, cause, distinct

__all__ = ["open_archive", "rewrite_archive"]

_BLOCK = 1 << 20
"""Bytes that are copied at a time."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0}
"""Readers of headers by version; later versions are read as 2.0."""


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
                    shape, _, dtype = _header(file)
                    offset = file.tell()
                _check(path, member, shape, dtype, member.file_size - offset)
                arrays.append((member.filename.removesuffix(".npy"), shape, dtype, member))
    entries: dict[str, Entry] = {}
    skipped: list[SkippedParameter] = []
    names = distinct(name for name, *_ in arrays)
    for name, (_, shape, dtype, member) in zip(names, arrays, strict=True):
        torch_dtype = _torch_dtype(dtype)
        if torch_dtype is None:
            skipped.append(SkippedParameter(name, f"of dtype {dtype}", shape))
        else:
            entries[name] = Entry(name, shape, path, str(torch_dtype), member)
    others = [member.filename for member in members if not member.filename.endswith((".npy", "/"))]
    skipped += [SkippedParameter(name, "not an array") for name in others]
    return Weights(path, "npz", entries, (path,), _read, tuple(skipped))


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array: shape, whether the first axis is the fastest, dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers of Python 2
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = _HEADERS.get(version, np.lib.format.read_array_header_2_0)(file)
    return tuple(int(size) for size in shape), bool(fortran), dtype


def _check(path: Path, member: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    name = printable(member.filename)
    if dtype.hasobject:
        raise WeightsError(f"{name} in {path} must be an array of numbers; got {dtype}")
    expected = math.prod(shape) * dtype.itemsize
    if expected != size or any(length < 0 for length in shape):
        raise WeightsError(
            f"{name} in {path} must hold the {expected} bytes of its shape {list(shape)}; got {size}: it is damaged"
        )


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype | None:
    """Return the dtype of torch that corresponds to that of an array; None if there is none."""
    try:
        return None if dtype.shape else torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    except TypeError:
        return None


def _read(entry: Entry) -> Tensor:
    with zipfile.ZipFile(entry.file) as archive, archive.open(entry.place) as file:
        shape, fortran, dtype = _header(file)
        if shape != entry.shape:
            raise WeightsError(f"its shape must still be {list(entry.shape)}; got {list(shape)}")
        content = bytearray(math.prod(shape) * dtype.itemsize)
        position = 0
        while part := file.read(_BLOCK):  # to the end of the member, where its checksum is compared
            content[position : position + len(part)] = part
            position += len(part)
    if position != len(content):
        raise WeightsError(f"it must hold {len(content)} bytes; got {position}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape))


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
                    _write(old, member, file, tensor)


def _copy(old: zipfile.ZipFile, member: zipfile.ZipInfo, file: Any) -> None:
    try:
        source = old.open(member)
    except Exception as error:
        raise _damaged(old, member, error) from error
    with source:
        while True:
            try:
                content = source.read(_BLOCK)
            except Exception as error:
                raise _damaged(old, member, error) from error
            if not content:
                return
            file.write(content)


def _damaged(old: zipfile.ZipFile, member: zipfile.ZipInfo, error: Exception) -> WeightsError:
    return WeightsError(f"{printable(member.filename)} in {old.filename} cannot be read: {cause(error)}")


def _write(old: zipfile.ZipFile, member: zipfile.ZipInfo, file: Any, tensor: Tensor) -> None:
    with old.open(member) as source:
        _, fortran, dtype = _header(source)
    array = np.asarray(tensor.numpy(), dtype, order="F" if fortran else "C")
    np.lib.format.write_array(file, array, allow_pickle=False)
