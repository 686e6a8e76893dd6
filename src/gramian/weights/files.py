"""Tensors in files, read one at a time: safetensors, alone or sharded by an index, NumPy archives, PyTorch files.

Nothing in a file is executed: PyTorch files are read by `weights_only=True` alone, NumPy archives without pickles.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gramian.errors import WeightsError

__all__ = ["Entry", "Weights", "open_weights", "tensor_bytes"]


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, not read yet."""

    name: str
    shape: tuple[int, ...]
    file: Path


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, or of a sharded set of files.

    Attributes:
        path: What was opened.
        kind: 'safetensors', 'sharded', 'npz' or 'pytorch'.
        entries: The tensors in the order of the file, by name.
        files: The files that hold tensors.
    """

    path: Path
    kind: str
    entries: Mapping[str, Entry]
    files: tuple[Path, ...]
    _read: Callable[[Entry], Tensor]

    def read(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            WeightsError: If it is damaged.
        """
        entry = self.entries[name]
        try:
            return self._read(entry)
        except _DAMAGE as error:
            raise WeightsError(f"{name} in {entry.file} cannot be read: {_said(error)}") from error


_DAMAGE = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    EOFError,
    TypeError,
    zipfile.BadZipFile,
    MemoryError,
)


def open_weights(path: Path) -> Weights:
    """Open a file of weights and list its tensors, without reading them.

    Args:
        path: `.safetensors`; `.safetensors.index.json`, or a folder that holds one; `.npz`; `.pt`, `.pth` or `.bin`.

    Returns:
        Its tensors. A PyTorch file is read whole, mapped from the disk.

    Raises:
        WeightsError: If there is no such file, its kind is unknown, or it is damaged.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "weights.npz"
        >>> np.savez(path, first=np.eye(3), second=np.zeros(2))
        >>> weights = open_weights(path)
        >>> [(entry.name, entry.shape) for entry in weights.entries.values()], weights.read("first").dtype
        ([('first', (3, 3)), ('second', (2,))], torch.float64)
    """
    if path.is_dir():
        found = sorted(path.glob("*.safetensors.index.json")) or sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise WeightsError(
                f"a folder must hold one index or one file of safetensors; got {len(found)} in {path}; try one file"
            )
        path = found[0]
    if not path.is_file():
        raise WeightsError(f"weights must be an existing file; got {path}, which does not exist")
    kinds = {".safetensors": _safetensors, ".json": _sharded, ".npz": _archive}
    kinds |= dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _pytorch)
    opened = kinds.get(path.suffix)
    if opened is None:
        raise WeightsError(f"the suffix of a file of weights must be one of {', '.join(kinds)}; got {path.name}")
    try:
        return opened(path)
    except WeightsError:
        raise
    except Exception as error:  # readers of damaged files raise whatever they meet
        raise WeightsError(f"{path} cannot be read: {_said(error)}") from error


def tensor_bytes(tensor: Tensor) -> bytes:
    """Give the bytes of a tensor as files hold them: in the order of its axes, the least byte first."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _said(error: BaseException) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + first[0][:200] if first else ''}"


def _safetensors(path: Path) -> Weights:
    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.offset_keys()}
    entries = {name: Entry(name, shape, path) for name, shape in shapes.items()}
    return Weights(path, "safetensors", entries, (path,), _from_safetensors)


def _from_safetensors(entry: Entry) -> Tensor:
    with safe_open(entry.file, framework="pt") as file:
        return file.get_tensor(entry.name)


def _sharded(path: Path) -> Weights:
    index = json.loads(path.read_text(encoding="utf-8"))
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(each, str) for each in placed.values()):
        raise WeightsError(f"{path} must be an index of sharded safetensors, with a weight_map of names to files")
    entries: dict[str, Entry] = {}
    files: dict[str, Weights] = {}
    for name, file in placed.items():
        shard = path.parent / file
        if shard.parent != path.parent or not shard.is_file():
            raise WeightsError(f"{path} names {file!r}, which must be a file beside it; got none")
        if file not in files:
            files[file] = _safetensors(shard)
        if name not in files[file].entries:
            raise WeightsError(f"{path} places {name!r} in {file!r}, which does not hold it")
        entries[name] = files[file].entries[name]
    return Weights(path, "sharded", entries, tuple(path.parent / file for file in files), _from_safetensors)


def _archive(path: Path) -> Weights:
    entries: dict[str, Entry] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(file)
            if dtype.hasobject:
                raise WeightsError(f"{member} in {path} must be an array of numbers; got {dtype}")
            name = member.removesuffix(".npy")
            entries[name] = Entry(name, tuple(shape), path)
    return Weights(path, "npz", entries, (path,), _from_archive)


def _from_archive(entry: Entry) -> Tensor:
    with np.load(entry.file, allow_pickle=False) as archive:
        return torch.from_numpy(np.ascontiguousarray(archive[entry.name]))


def _pytorch(path: Path) -> Weights:
    loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    tensors = {name: each for name, each in _flat(loaded) if isinstance(each, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} must hold named tensors; got {type(loaded).__name__} without any")
    entries = {name: Entry(name, tuple(each.shape), path) for name, each in tensors.items()}
    return Weights(path, "pytorch", entries, (path,), lambda entry: tensors[entry.name])


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(prefix, value)]
    return [each for key, inner in value.items() for each in _flat(inner, f"{prefix}.{key}" if prefix else str(key))]
