"""ONNX files: the initialisers of the graph, with their entries in the file or in files of external data."""

import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gramian.errors import WeightsError, needs_extra, printable
from gramian.selection import SkippedParameter
from gramian.weights.entries import Entry, Weights, distinct

__all__ = ["open_onnx"]

_DTYPES = {
    "FLOAT": torch.float32, "DOUBLE": torch.float64, "FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16,
    "INT8": torch.int8, "INT16": torch.int16, "INT32": torch.int32, "INT64": torch.int64, "UINT8": torch.uint8,
    "UINT16": torch.uint16, "UINT32": torch.uint32, "UINT64": torch.uint64, "BOOL": torch.bool,
    "FLOAT8E4M3FN": torch.float8_e4m3fn, "FLOAT8E5M2": torch.float8_e5m2,
}  # fmt: skip
"""The dtypes of torch by their names in ONNX; initialisers of other dtypes are not read."""

_FIELDS = {
    "FLOAT": ("float_data", "<f4"), "DOUBLE": ("double_data", "<f8"), "INT64": ("int64_data", "<i8"),
    "UINT32": ("uint64_data", "<u4"), "UINT64": ("uint64_data", "<u8"),
}  # fmt: skip
"""Fields of entries that are not raw bytes, and their dtypes; other dtypes are bits in `int32_data`."""


def open_onnx(path: Path) -> Weights:
    """List the initialisers of an ONNX graph; those of nested graphs are not listed.

    The graph is in memory as a whole, with the initialisers that it contains, at most 2 GB; external data is read by
    tensor. Nothing is computed from the graph.

    Raises:
        MissingExtraError: If the package onnx is not installed.
        WeightsError: If external data is not in the folder of the file.
    """
    with needs_extra("a file of ONNX", "onnx"):
        import onnx

    model: Any = onnx.load_model(str(path), load_external_data=False)
    kinds: dict[int, str] = {number: name for name, number in onnx.TensorProto.DataType.items()}
    entries: dict[str, Entry] = {}
    skipped: list[SkippedParameter] = []
    tensors = list(model.graph.initializer)
    for name, tensor in zip(distinct(_text(tensor.name) for tensor in tensors), tensors, strict=True):
        kind, shape = kinds.get(tensor.data_type, str(tensor.data_type)), tuple(tensor.dims)
        if kind not in _DTYPES:
            skipped.append(SkippedParameter(name, f"of dtype {kind.lower()}", shape))
            continue
        if min(shape, default=0) < 0:
            raise WeightsError(f"{printable(name)} in {path} must have a shape; got {list(shape)}: it is damaged")
        external = tensor.data_location == onnx.TensorProto.EXTERNAL
        file = _beside(path, tensor) if external else path
        entries[name] = Entry(name, shape, file, str(_DTYPES[kind]), (kind, tensor, external))
    skipped += [
        SkippedParameter(_text(tensor.values.name), "sparse", tuple(tensor.dims))
        for tensor in model.graph.sparse_initializer
    ]
    files = dict.fromkeys([path, *(entry.file for entry in entries.values())])
    return Weights(path, "onnx", entries, tuple(files), _read, tuple(skipped))


def _beside(path: Path, tensor: Any) -> Path:
    """Return the file of external data, which is in the folder of the ONNX file or below it; it may be a link."""
    location = _external(tensor).get("location", "")
    parts = PurePosixPath(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts or "\0" in location:
        raise WeightsError(
            f"{path} places {printable(_text(tensor.name))!r} in {location!r}, which must be a file in its folder"
        )
    return path.parent.joinpath(*parts)


def _external(tensor: Any) -> dict[str, str]:
    return {_text(entry.key): _text(entry.value) for entry in tensor.external_data}


def _text(text: str | bytes) -> str:
    """Return a string of the file, which is bytes if it is not UTF-8."""
    return text if isinstance(text, str) else text.decode(errors="backslashreplace")


def _read(entry: Entry) -> Tensor:
    kind, tensor, external = entry.place
    dtype = _DTYPES[kind]
    expected = math.prod(entry.shape) * dtype.itemsize
    if external:
        content = _from_file(entry.file, _external(tensor), expected)
    elif tensor.HasField("raw_data"):
        content = bytearray(tensor.raw_data)
    else:
        name, stored = _FIELDS.get(kind, ("int32_data", f"<u{dtype.itemsize}"))
        numbers = np.asarray(getattr(tensor, name), np.int32 if name == "int32_data" else None)
        content = bytearray(numbers.astype(stored).tobytes())
    if len(content) != expected:
        raise WeightsError(f"it must hold the {expected} bytes of its shape {list(entry.shape)}; got {len(content)}")
    entries = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return entries.reshape(entry.shape)


def _from_file(file: Path, place: dict[str, str], expected: int) -> bytearray:
    offset, length = int(place.get("offset") or 0), int(place.get("length") or expected)
    if not file.is_file():
        raise WeightsError(f"its external data must be in {file.name}; got no such file")
    with file.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        if length != expected or not 0 <= offset <= size - length:
            raise WeightsError(
                f"its external data must be {expected} bytes within the {size} of {file.name}; got {length} at {offset}"
            )
        content = bytearray(length)
        source.seek(offset)
        return content[: source.readinto(content)]
