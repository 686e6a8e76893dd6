"""NumPy arrays: their headers and entries in a file or in a member of an archive, and `.npy` files of one array."""

import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gramian.errors import WeightsError
from gramian.selection import SkippedParameter
from gramian.weights.entries import Entry, Weights

__all__ = [
    "BLOCK",
    "check_header",
    "open_array",
    "read_entries",
    "read_header",
    "rewrite_array",
    "torch_dtype",
    "write_array",
]

BLOCK = 1 << 20
"""Bytes that are read or copied at a time."""

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0}
"""Readers of headers by version; later versions are read as 2.0."""


def open_array(path: Path) -> Weights:
    """Open a `.npy` file; its array has the name of the file, without the suffix.

    Raises:
        WeightsError: If the array holds Python objects, or its length is not that of its header.
    """
    with path.open("rb") as file:
        shape, _, dtype = read_header(file)
        check_header(str(path), shape, dtype, path.stat().st_size - file.tell())
    known = torch_dtype(dtype)
    if known is None:
        return Weights(path, "npy", {}, (path,), _read, (SkippedParameter(path.stem, f"of dtype {dtype}", shape),))
    return Weights(path, "npy", {path.stem: Entry(path.stem, shape, path, str(known))}, (path,), _read)


def _read(entry: Entry) -> Tensor:
    with entry.file.open("rb") as file:
        return read_entries(file, entry.shape)


def rewrite_array(weights: Weights, target: Path, names: Iterable[str], compute: Callable[[str], Tensor]) -> None:
    """Write a `.npy` file with new entries, of the same shape, dtype and order of axes.

    Args:
        weights: The opened file.
        target: Where to write.
        names: The name of the array.
        compute: Computes the new array for a name.
    """
    for name in names:
        tensor = compute(name)
        with weights.path.open("rb") as source, target.open("wb") as file:
            write_array(file, tensor, source)


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array: shape, whether the first axis is the fastest, dtype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers of Python 2
        version = np.lib.format.read_magic(file)
        shape, fortran, dtype = _HEADERS.get(version, np.lib.format.read_array_header_2_0)(file)
    return tuple(int(size) for size in shape), bool(fortran), dtype


def check_header(where: str, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    """Check the header of an array against the number of bytes that follow it; `where` begins the message.

    Raises:
        WeightsError: If the array holds Python objects, or does not have the bytes of its shape.
    """
    if dtype.hasobject:
        raise WeightsError(f"{where} must be an array of numbers; got {dtype}")
    expected = math.prod(shape) * dtype.itemsize
    if expected != size or any(length < 0 for length in shape):
        raise WeightsError(
            f"{where} must hold the {expected} bytes of its shape {list(shape)}; got {size}: it is damaged"
        )


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype | None:
    """Return the dtype of torch that corresponds to that of an array; None if there is none."""
    try:
        return None if dtype.shape else torch.from_numpy(np.empty(0, dtype.newbyteorder("="))).dtype
    except TypeError:
        return None


def read_entries(file: Any, expected: tuple[int, ...]) -> Tensor:
    """Read an array, from its header to the end of the file or member, so that an archive checks its checksum.

    Raises:
        WeightsError: If its shape is not the expected one, or its length is not that of its header.
    """
    shape, fortran, dtype = read_header(file)
    if shape != expected:
        raise WeightsError(f"its shape must still be {list(expected)}; got {list(shape)}")
    content = bytearray(math.prod(shape) * dtype.itemsize)
    position = 0
    while part := file.read(BLOCK):
        content[position : position + len(part)] = part
        position += len(part)
    if position != len(content):
        raise WeightsError(f"it must hold {len(content)} bytes; got {position}")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape))


def write_array(file: Any, tensor: Tensor, old: Any) -> None:
    """Write a tensor as an array with the dtype and the order of axes of an old one, whose header is read."""
    _, fortran, dtype = read_header(old)
    array = np.asarray(tensor.numpy(), dtype, order="F" if fortran else "C")
    np.lib.format.write_array(file, array, allow_pickle=False)
