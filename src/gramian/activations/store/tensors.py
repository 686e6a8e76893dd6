"""Files of tensors in the safetensors format: written with the same bytes every time, and read memory-mapped."""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from gramian.coding.files.checksum import CHECKSUM, add_checksum
from gramian.errors import DataError, RunError, printable
from gramian.files import atomic_path

__all__ = [
    "Header",
    "StoredTensor",
    "checksum_of",
    "map_tensor",
    "read_header",
    "require_checksum",
    "write_rows",
    "write_tensors",
]

_DTYPES: Mapping[str, tuple[torch.dtype, str]] = {
    "F64": (torch.float64, "<f8"),
    "I64": (torch.int64, "<i8"),
    "F32": (torch.float32, "<f4"),
    "I32": (torch.int32, "<i4"),
    "BF16": (torch.bfloat16, "<i2"),
    "F16": (torch.float16, "<f2"),
    "U8": (torch.uint8, "|u1"),
}
"""The dtypes that are read and written, widest first: of torch, and of the NumPy array that holds the same bits."""

_LONGEST_HEADER = 100_000_000
"""Largest number of bytes of a header, as the safetensors format says."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        path: The file.
        name: Its name.
        dtype: Its dtype.
        shape: Its shape.
        offset: Its first byte in the file.
    """

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """The header of a file: the tensors that can be read, by name, and the metadata."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write tensors and metadata atomically, with a checksum; equal content gives equal bytes.

    The safetensors library orders metadata at random, so two files of the same content may differ.

    Args:
        path: The file; an existing one is replaced.
        tensors: Contiguous tensors on the CPU.
        metadata: Texts by name.

    Returns:
        The checksum.

    Raises:
        RunError: If the file cannot be written.
    """
    metadata = add_checksum(tensors, metadata)
    order = _order(tensors)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_header(tensors, order, metadata))
        for name in order:
            if tensors[name].numel():
                file.write(_bytes(tensors[name]))
    return metadata[CHECKSUM]


def write_rows(path: Path, parts: Iterable[Mapping[str, Tensor]], metadata: Callable[[], Mapping[str, str]]) -> None:
    """Write tensors whose rows arrive in parts, atomically and with a checksum, in the memory of one part.

    The rows are first written to temporary files without a name in the same folder, because the header comes before
    them and holds their number.

    Args:
        path: The file; an existing one is replaced.
        parts: At least one part: the next rows of each tensor by name, contiguous and on the CPU.
        metadata: Returns texts by name; called after the last part.

    Raises:
        RunError: If the file cannot be written.
    """
    with atomic_path(path) as temporary, ExitStack() as stack:
        spools: dict[str, Any] = {}
        rows: dict[str, int] = {}
        like: dict[str, Tensor] = {}
        for part in parts:
            for name, tensor in part.items():
                if name not in spools:
                    spools[name] = stack.enter_context(tempfile.TemporaryFile(dir=temporary.parent))
                    rows[name], like[name] = 0, tensor[:0].clone()
                if tensor.numel():
                    spools[name].write(_bytes(tensor))
                rows[name] += len(tensor)
        tensors = {name: _spooled(spool, rows[name], like[name]) for name, spool in spools.items()}
        order = _order(tensors)
        with temporary.open("wb") as file:
            file.write(_header(tensors, order, add_checksum(tensors, metadata())))
            for name in order:
                spools[name].seek(0)
                shutil.copyfileobj(spools[name], file, 1 << 20)


def _spooled(spool: Any, rows: int, like: Tensor) -> Tensor:
    """Map the rows in a temporary file as a tensor."""
    spool.flush()
    shape = (rows, *like.shape[1:])
    if not math.prod(shape):
        return like.new_empty(shape)
    flat = torch.from_numpy(np.memmap(spool, np.uint8, mode="r+"))
    return flat.view(like.dtype).view(shape)


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names in the order of the file, which keeps every tensor aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _header(tensors: Mapping[str, Tensor], order: list[str], metadata: Mapping[str, str]) -> bytes:
    names = {torch_dtype: name for name, (torch_dtype, _) in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_header(path: Path) -> Header:
    """Read the header of a file, and check that the file has all bytes that the header declares.

    Tensors of dtypes that are not real numbers of 8 to 64 bits are left out.

    Raises:
        DataError: If there is no such file, or it is not a complete file of this format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise ValueError("a file that ends in its header")
            header: object = json.loads(file.read(length).decode())
        if not isinstance(header, dict):
            raise TypeError("a header that is not a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise TypeError("metadata that is not text")
        tensors = {name: _stored(path, name, entry, 8 + length, size) for name, entry in header.items()}
    except FileNotFoundError as error:
        raise DataError(f"there must be a file at {printable(path)}; got none") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)[:200]
        raise DataError(f"{printable(path)} must be a whole file of safetensors; got {reason}") from error
    return Header({name: tensor for name, tensor in tensors.items() if tensor is not None}, metadata)


def _stored(path: Path, name: str, entry: Any, begin: int, size: int) -> StoredTensor | None:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError(f"sizes of {name!r} that are not whole numbers")
    if begin + end > size:
        raise ValueError(f"{size} bytes, and {begin + end} or more that its header declares")
    if entry["dtype"] not in _DTYPES:
        return None
    dtype = _DTYPES[entry["dtype"]][0]
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{end - start} bytes for {name!r} of shape {shape}")
    return StoredTensor(path, name, dtype, tuple(shape), begin + start)


def map_tensor(tensor: StoredTensor, *, mode: Literal["r", "c"] = "r") -> ndarray:
    """Map a tensor of a file into memory, read-only or with 'c' copied on write; bfloat16 as int16 of the same bits.

    Raises:
        DataError: If the file cannot be mapped, for example because it is now shorter.
    """
    dtype = next(numpy_dtype for torch_dtype, numpy_dtype in _DTYPES.values() if torch_dtype == tensor.dtype)
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, dtype)
    try:
        return np.memmap(tensor.path, dtype, mode=mode, offset=tensor.offset, shape=tensor.shape)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)[:200]
        raise DataError(f"{printable(tensor.path)} must be a whole file of safetensors; got {reason}") from error


def checksum_of(header: Header) -> str:
    """Compute the checksum of the content of a file; all of it is read, and nothing is kept in memory.

    Cost:
        About 0.35 s per gigabyte.
    """
    tensors: dict[str, Tensor] = {}
    for name, stored in header.tensors.items():
        tensors[name] = torch.from_numpy(map_tensor(stored, mode="c")).view(stored.dtype)
    metadata = {name: value for name, value in header.metadata.items() if name != CHECKSUM}
    return add_checksum(tensors, metadata)[CHECKSUM]


def require_checksum(path: Path, header: Header) -> None:
    """Check the content of a file against its checksum.

    Raises:
        RunError: If they do not match.
    """
    if header.metadata.get(CHECKSUM) != checksum_of(header):
        raise RunError(f"{printable(path)} must match its checksum; got a file that was changed or damaged")
