"""Read samples memory-mapped: of a store, of plain arrays in files, and of arrays in memory."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from gramian.activations.store.manifest import DTYPES, FORMAT, MANIFEST, Manifest, read_manifest
from gramian.activations.store.places import Place, Places, read_places
from gramian.activations.store.statistics import Statistics
from gramian.activations.store.tensors import Header, StoredTensor, map_tensor, read_header, require_checksum
from gramian.activations.store.writer import SAMPLES
from gramian.coding.files.checksum import CHECKSUM
from gramian.errors import DataError, OptionError, printable

__all__ = ["Activations", "Part", "open_activations"]

_MAPPED = 64
"""Number of files that are mapped at the same time; each of them takes a file descriptor."""

_ROWS = 4096
"""Number of samples of a part that is read at once."""


@dataclass(frozen=True)
class Part:
    """A file of samples, or an array in memory.

    Attributes:
        samples: Number of samples.
        dtype: Their dtype.
        open: Returns the array [samples, l]; bfloat16 as int16.
        arrays: Returns the arrays of their places; None without places.
    """

    samples: int
    dtype: torch.dtype
    open: Callable[[], ndarray]
    arrays: Callable[[], Mapping[str, ndarray]] | None = None


class Activations:
    """Samples x[samples, l] in one or several parts, of which only the requested rows are read.

    Args:
        parts: The parts.
        length: Length l of a sample.
        source: What is opened again when a copy is sent to another process: arguments of `open_activations`.
        statistics: Mean and scale of all samples; default computed when asked for.
        manifest: The manifest of the store; None for plain arrays.
        layer: The layer of the store.
        rows: First and last row, for a part of the samples; default all.

    Attributes:
        length: Length l of a sample.
        manifest: The manifest of the store; None for plain arrays.
        layer: The layer of the store; None for plain arrays.

    Examples:
        >>> activations = open_activations(torch.arange(12.0).view(4, 3))
        >>> len(activations), activations[[3, 0]].tolist()
        (4, [[9.0, 10.0, 11.0], [0.0, 1.0, 2.0]])
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        length: int,
        source: tuple[Any, str | None],
        statistics: Statistics | None = None,
        manifest: Manifest | None = None,
        layer: str | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        self.length = length
        self.manifest = manifest
        self.layer = layer
        self._parts = tuple(parts)
        self._ends = np.cumsum([part.samples for part in parts])
        self._first, self._last = rows or (0, int(self._ends[-1]))
        self._statistics = statistics
        self._source = source
        self._mapped: OrderedDict[int, ndarray] = OrderedDict()

    def __len__(self) -> int:
        return self._last - self._first

    def __repr__(self) -> str:
        where = "" if self.layer is None else f" of {self.layer!r}"
        return f"Activations({len(self)} samples{where} of length {self.length}, {len(self._parts)} parts)"

    def __getitem__(self, rows: Sequence[int] | slice | Int[Tensor, " rows"]) -> Float[Tensor, "rows l"]:
        """Read samples.

        Args:
            rows: Their numbers, each at least 0 and less than the number of samples; or a slice.

        Returns:
            A new tensor [rows, l] in float32, in the order of the numbers.

        Raises:
            IndexError: If there is no such sample.
            DataError: If a file is damaged.
        """
        indices = self._indices(rows)
        out = torch.empty(len(indices), self.length)
        for number, selected, local in self._by_part(indices):
            values = torch.from_numpy(self._array(number)[local])
            dtype = self._parts[number].dtype
            out[selected] = (values.view(torch.bfloat16) if dtype == torch.bfloat16 else values).float()
        return out

    def part(self, first: int, last: int) -> "Activations":
        """Return the samples from `first` to before `last`, without reading them.

        Raises:
            OptionError: If there are no such samples.
        """
        if not 0 <= first < last <= len(self):
            raise OptionError(f"a part must lie within the {len(self)} samples; got {first} to {last}")
        rows = (self._first + first, self._first + last)
        whole = last - first == len(self)
        return Activations(
            self._parts, length=self.length, source=self._source, statistics=self._statistics if whole else None,
            manifest=self.manifest, layer=self.layer, rows=rows,
        )  # fmt: skip

    @property
    def statistics(self) -> Statistics:
        """Mean and scale of the samples; of arrays and parts, all samples are read once."""
        if self._statistics is None:
            total = Statistics.empty(self.length)
            for start in range(0, len(self), _ROWS):
                total = total.merge(Statistics.of(self[start : start + _ROWS]))
            if not (bool(total.mean.isfinite().all()) and np.isfinite(total.scale)):
                raise DataError("all samples must be finite; got NaN or infinite numbers; try to leave them out")
            self._statistics = total
        return self._statistics

    def places(self, rows: Sequence[int] | slice | Int[Tensor, " rows"]) -> list[Place]:
        """Return where samples come from; for plain arrays, each row is a document of its own."""
        indices = self._indices(rows)
        places = [Place(int(index), 0) for index in indices]
        for number, selected, local in self._by_part(indices):
            arrays = self._parts[number].arrays
            if arrays is not None:
                found: Places = read_places(arrays(), local)
                for index, place in zip(selected, found.places(), strict=True):
                    places[index] = place
        return places

    def verify(self, progress: Callable[[Sequence[Any]], Sequence[Any]] = lambda shards: shards) -> None:
        """Read all files of a store, and check them against their checksums.

        Args:
            progress: A function that wraps the sequence of shards, to show the progress.

        Raises:
            RunError: If a file was changed or damaged.

        Cost:
            About 0.35 s per gigabyte, and the memory of one shard.
        """
        if self.manifest is not None:
            for shard in progress(self.manifest.shards):
                path = Path(self._source[0]) / shard.file
                require_checksum(path, read_header(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (*self._source, self._first, self._last)

    def _indices(self, rows: Sequence[int] | slice | Tensor) -> ndarray:
        indices = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        if indices.ndim != 1 or (len(indices) and not (indices.min() >= 0 and indices.max() < len(self))):
            raise IndexError(f"rows must be numbers from 0 to {len(self) - 1}; got others, or more than one axis")
        return indices + self._first

    def _by_part(self, indices: ndarray) -> Iterator[tuple[int, ndarray, ndarray]]:
        """Yield each part that holds some of the rows: its number, which rows these are, and their place in it."""
        numbers = np.searchsorted(self._ends, indices, side="right")
        order = np.lexsort((indices, numbers))  # one pass through each file, from its beginning
        for selected in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            if len(selected):
                number = int(numbers[selected[0]])
                yield number, selected, indices[selected] - (self._ends[number] - self._parts[number].samples)

    def _array(self, number: int) -> ndarray:
        array = self._mapped.pop(number, None)
        if array is None:
            array = self._parts[number].open()
        self._mapped[number] = array
        if len(self._mapped) > _MAPPED:
            self._mapped.popitem(last=False)
        return array


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
        OptionError: If there is no such layer, or several and none is named.

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


def _reopened(source: Any, layer: str | None, first: int, last: int) -> Activations:
    return open_activations(source, layer=layer).part(first, last)
