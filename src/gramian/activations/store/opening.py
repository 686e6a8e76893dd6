"""Open samples memory-mapped: of a store, of plain arrays in files, and of arrays in memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from gramian.activations.store.manifest import DTYPES, FORMAT, MANIFEST, Manifest, read_manifest
from gramian.activations.store.places import are_places
from gramian.activations.store.reader import Activations, Part
from gramian.activations.store.tensors import Header, StoredTensor, map_tensor, read_header
from gramian.activations.store.writer import SAMPLES
from gramian.coding.files.checksum import CHECKSUM
from gramian.errors import DataError, OptionError, printable

__all__ = ["open_activations", "reopened"]


def open_activations(source: Path | str | ndarray | Tensor | Activations, *, layer: str | None = None) -> Activations:
    """Open samples without reading them.

    Args:
        source: The folder of a store; a file `.npy` with an array [samples, l]; a file `.safetensors` with a tensor
            [samples, l]; or such an array or tensor. Leading axes are flattened: [batch, positions, l] is read as
            [batch·positions, l].
        layer: Which layer of a store, or which tensor of a file; needed only if there are several.

    Returns:
        The samples.

    Raises:
        DataError: If there is nothing of that kind, or a file is truncated, damaged, or of another store.
        OptionError: If there is no such layer, or none is named although there are several.

    Cost:
        Reads the manifest and the header of each file. The numbers themselves are checked by `verify`.

    Examples:
        >>> import tempfile, numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "x.npy"
        >>> np.save(path, np.ones((10, 4), dtype=np.float32))
        >>> open_activations(path)
        Activations(10 samples of length 4, 1 parts)
    """
    if isinstance(source, Activations):
        return source
    if isinstance(source, (ndarray, Tensor)):
        return _of_array(source)
    path = Path(source)
    if path.is_dir():
        return _of_store(path, layer)
    if path.suffix == ".npy":
        return _of_npy(path)
    if path.suffix == ".safetensors":
        return _of_safetensors(path, layer)
    there = "a file of another kind" if path.exists() else "nothing there"
    raise DataError(
        f"activations must be the folder of a store, or a file .npy or .safetensors; got {printable(path)}, {there}"
    )


def _of_store(folder: Path, layer: str | None) -> Activations:
    manifest = read_manifest(folder)
    layer = _selected(layer, list(manifest.layers), f"the store {printable(folder)}", "layer")
    described = manifest.layers[layer]
    parts: list[Part] = []
    for shard in manifest.shards:
        path = folder / shard.file
        header = _shard_header(path, manifest, bytes_=shard.bytes, checksum=shard.checksum)
        stored = header.tensors.get(f"{SAMPLES}.{layer}")
        shape = (shard.samples, described.length)
        if stored is None or stored.shape != shape or stored.dtype != DTYPES[manifest.dtype]:
            raise DataError(f"{printable(path)} must hold {manifest.dtype} samples of {layer!r} of shape {list(shape)}")
        shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
        if not are_places(shapes, shard.samples):
            raise DataError(f"{printable(path)} must hold the places of its {shard.samples} samples; got others")
        parts.append(Part(shard.samples, stored.dtype, lambda stored=stored: map_tensor(stored), _places_of(header)))
    return Activations(
        parts, length=described.length, source=(str(folder.absolute()), layer),
        statistics=described.statistics(manifest.samples), manifest=manifest, layer=layer,
    )  # fmt: skip


def _shard_header(path: Path, manifest: Manifest, *, bytes_: int, checksum: str) -> Header:
    number = f"one of the {len(manifest.shards)} shards of its store"
    if not path.is_file():
        raise DataError(f"{printable(path)} must be {number}; got no such file; try a backup copy, or capture again")
    size = path.stat().st_size
    if size != bytes_:
        raise DataError(
            f"{printable(path)} must be {number}, of {bytes_} bytes; got {size}; try a backup copy, or capture again"
        )
    header = read_header(path)
    if header.metadata.get("format") != FORMAT or header.metadata.get(CHECKSUM) != checksum:
        raise DataError(
            f"{printable(path)} must be {number}, as {MANIFEST} says; got a file of another store; try a backup copy"
        )
    return header


def _places_of(header: Header) -> Callable[[], Mapping[str, ndarray]]:
    tensors = {name: stored for name, stored in header.tensors.items() if not name.startswith(f"{SAMPLES}.")}
    return lambda: {name: map_tensor(stored) for name, stored in tensors.items()}


def _of_npy(path: Path) -> Activations:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, ndarray):
            raise TypeError(type(array).__name__)
    except Exception as error:  # NumPy's reader evaluates the header, and raises errors of any type
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)[:200]
        raise DataError(f"{printable(path)} must be an array that can be read; got {reason}") from error
    return _of_array(array, source=str(path.absolute()), name=printable(path))


def _of_safetensors(path: Path, layer: str | None) -> Activations:
    header = read_header(path)
    usable = [name for name, each in header.tensors.items() if each.dtype.is_floating_point and len(each.shape) >= 2]
    name = _selected(layer, usable, printable(path), "tensor of real numbers [samples, l]")
    stored = header.tensors[name]
    shape = _flattened(stored.shape, name)
    flat = StoredTensor(path, name, stored.dtype, shape, stored.offset)
    part = Part(shape[0], stored.dtype, lambda: map_tensor(flat))
    return Activations([part], length=shape[1], source=(str(path.absolute()), layer), layer=name)


def _of_array(array: ndarray | Tensor, *, source: Any = None, name: str = "the array") -> Activations:
    source = array if source is None else source
    if isinstance(array, Tensor):
        tensor = array.detach().cpu()
        dtype = tensor.dtype
        array = (tensor.contiguous().view(torch.int16) if dtype == torch.bfloat16 else tensor).numpy()
    else:
        dtype = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64}.get(array.dtype.str[1:])
        if dtype is None or not array.dtype.isnative:
            raise DataError(
                f"{name} must hold floating-point numbers of 2, 4 or 8 bytes in the order of this machine; got "
                f"{array.dtype}; try array.astype('float32')"
            )
    if not dtype.is_floating_point:
        raise DataError(f"{name} must hold floating-point numbers; got {dtype}; try x.float()")
    samples, length = _flattened(array.shape, name)
    flat = array.reshape(samples, length)
    return Activations([Part(samples, dtype, lambda: flat)], length=length, source=(source, None))


def _flattened(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    if len(shape) < 2 or not all(shape):
        raise DataError(f"{name} must have the shape [samples, l], both at least 1; got {list(shape)}")
    return int(np.prod(shape[:-1])), shape[-1]


def _selected(name: str | None, known: Sequence[str], where: str, what: str) -> str:
    if name is None and len(known) == 1:
        return known[0]
    if name in known:
        return str(name)
    listed = ", ".join(map(repr, known[:6])) + (", …" if len(known) > 6 else "")
    got = f"none of this name, {name!r}" if name is not None else f"{len(known)}"
    remedy = f"; try layer={known[0]!r}" if known else ""
    raise (OptionError if known else DataError)(
        f"one {what} of {where} must be selected; got {got}: {listed or 'none'}{remedy}"
    )


def reopened(source: Any, layer: str | None, first: int, last: int) -> Activations:
    """Open samples again in another process."""
    return open_activations(source, layer=layer).part(first, last)
