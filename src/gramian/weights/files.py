"""Tensors in files, read one at a time: safetensors, single or sharded with an index, arrays of NumPy, PyTorch, ONNX.

Nothing in a file is executed: PyTorch files are read with `weights_only=True`, arrays of NumPy without pickles.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gramian.errors import MissingExtraError, WeightsError, printable
from gramian.selection import SkippedParameter
from gramian.weights.archive import open_archive
from gramian.weights.arrays import open_array
from gramian.weights.checkpoint import open_checkpoint
from gramian.weights.entries import Entry, Weights, cause
from gramian.weights.initializers import open_onnx

__all__ = ["SUFFIXES", "UNFINISHED", "open_weights"]

SUFFIXES = {
    "safetensors": (".safetensors",),
    "sharded": (".safetensors.index.json",),
    "npz": (".npz",),
    "npy": (".npy",),
    "pytorch": (".pt", ".pth", ".bin", ".ckpt"),
    "onnx": (".onnx",),
}
"""The suffixes of each kind of file."""

UNFINISHED = ".unfinished"
"""Suffix, after the name of an index, of the notice that stays in the folder while shards are replaced."""

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "C64": torch.complex64,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""The dtypes of torch by their names in safetensors; tensors of other dtypes are not read."""


def open_weights(path: Path, *, unfinished: bool = False) -> Weights:
    """Open a file of weights and list its tensors, without reading them.

    Args:
        path: `.safetensors`; `.safetensors.index.json`, or a folder that holds one; `.npz`; `.npy`, whose array gets
            the name of the file; `.pt`, `.pth`, `.bin` or `.ckpt`; `.onnx`, whose initialisers are read.
        unfinished: Whether to open sharded safetensors although `orthogonalize_file` was interrupted while it replaced
            them, so that some are new and others old.

    Returns:
        Its tensors; and in `skipped` what is not a weight, like the state of an optimiser, and why. A PyTorch file is
        read as a whole, mapped from the disk; the graph of an ONNX file is read as a whole, its external data by
        tensor.

    Raises:
        WeightsError: If there is no such file, its kind is unknown, it is damaged, or it holds no weights.
        MissingExtraError: If it is an ONNX file and the package onnx is not installed.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, first=np.eye(3), second=np.zeros(2))
        >>> weights = open_weights(path)
        >>> [(entry.name, entry.shape) for entry in weights.entries.values()], weights.read("first").dtype
        ([('first', (3, 3)), ('second', (2,))], torch.float64)
    """
    openers = {
        "safetensors": _safetensors, "sharded": _sharded, "npz": open_archive, "npy": open_array,
        "pytorch": open_checkpoint, "onnx": open_onnx,
    }  # fmt: skip
    try:
        path = _in_folder(path, unfinished=unfinished) if path.is_dir() else path
        if not path.is_file():
            what = "which is not a file" if path.exists() else "which does not exist"
            raise WeightsError(f"weights must be an existing file; got {path}, {what}")
        kind = next((kind for kind, suffixes in SUFFIXES.items() if path.name.lower().endswith(suffixes)), None)
        if kind is None:
            known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
            raise WeightsError(f"the suffix of a file of weights must be one of {known}; got {path.name}")
        if kind == "sharded" and not unfinished:
            _check_finished(path.with_name(f"{path.name}{UNFINISHED}"))
        weights = openers[kind](path)
    except (MissingExtraError, WeightsError):
        raise
    except Exception as error:  # readers of damaged files raise errors of many types
        raise WeightsError(f"{path} cannot be read: {cause(error)}") from error
    if not weights.entries:
        reasons = "; ".join(sorted({entry.reason for entry in weights.skipped}))
        raise WeightsError(f"{path} must hold weights; got {reasons or 'no tensor'}")
    return weights


def _check_finished(notice: Path) -> None:
    if notice.exists():
        raise WeightsError(
            f"the shards in {notice.parent} must be of one set; got {notice.name}, which says that replacing them was "
            "interrupted or is in progress; try again later, or the command that it names"
        )


def _in_folder(folder: Path, *, unfinished: bool) -> Path:
    names = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    for notice in (file for file in names if file.name.endswith(UNFINISHED) and not unfinished):
        _check_finished(notice)
    for suffix in (*SUFFIXES["sharded"], *SUFFIXES["safetensors"]):
        if matching := [file for file in names if file.name.endswith(suffix)]:
            if len(matching) > 1:
                break
            return matching[0]
    else:
        matching = []
    raise WeightsError(
        f"a folder must hold one index or one file of safetensors; got {len(matching)} in {folder}; try one file"
    )


def _safetensors(path: Path) -> Weights:
    entries: dict[str, Entry] = {}
    skipped: list[SkippedParameter] = []
    with safe_open(path, framework="pt") as file:
        for name in file.offset_keys():
            header = file.get_slice(name)
            dtype, shape = _DTYPES.get(header.get_dtype()), tuple(header.get_shape())
            if dtype is None:
                skipped.append(SkippedParameter(name, f"of dtype {header.get_dtype()}", shape))
            else:
                entries[name] = Entry(name, shape, path, str(dtype))
    return Weights(path, "safetensors", entries, (path,), _read, tuple(skipped))


def _read(entry: Entry) -> Tensor:
    with safe_open(entry.file, framework="pt") as file:
        return file.get_tensor(entry.name)


def _sharded(path: Path) -> Weights:
    index = json.loads(path.read_text(encoding="utf-8"))
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise WeightsError(f"{path} must be an index of sharded safetensors, with a weight_map of names to files")
    entries: dict[str, Entry] = {}
    skipped: list[SkippedParameter] = []
    files: dict[str, Weights] = {}
    for name, file in weight_map.items():
        shard = path.parent / file
        if shard.parent != path.parent or not shard.is_file() or not file.endswith(SUFFIXES["safetensors"]):
            raise WeightsError(f"{path} names {file!r}, which must be a file beside it; got none of safetensors")
        if file not in files:
            files[file] = _safetensors(shard)
        in_shard = {entry.name: entry for entry in files[file].skipped}
        if name in files[file].entries:
            entries[name] = files[file].entries[name]
        elif name in in_shard:
            skipped.append(in_shard[name])
        else:
            raise WeightsError(f"{path} places {printable(name)!r} in {file!r}, which does not hold it")
    return Weights(path, "sharded", entries, tuple(path.parent / file for file in files), _read, tuple(skipped))
