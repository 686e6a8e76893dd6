"""Samples in one or several parts; only the requested rows are read."""

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

from gramian.activations.store.manifest import Manifest
from gramian.activations.store.places import Place, read_places
from gramian.activations.store.statistics import Statistics
from gramian.activations.store.tensors import read_header, require_checksum
from gramian.errors import DataError, OptionError

__all__ = ["Activations", "Part"]

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
    """Samples x[samples, l] in one or several parts; only the requested rows are read.

    Args:
        parts: The parts.
        length: Length l of a sample.
        source: Arguments of `open_activations`, with which another process opens a copy.
        statistics: Mean and scale of all samples; by default computed on first use.
        manifest: The manifest of the store; None for plain arrays.
        layer: The layer of the store.
        rows: First and last row, for a part of the samples; by default all.

    Attributes:
        length: Length l of a sample.
        manifest: The manifest of the store; None for plain arrays.
        layer: The layer of the store; None for plain arrays.

    Examples:
        >>> from gramian.activations import open_activations
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
            rows: Their indices, each at least 0 and less than the number of samples; or a slice.

        Returns:
            A new tensor [rows, l] in float32, in the order of the indices.

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
        """Mean and scale of the samples; for arrays and parts, all samples are read once."""
        if self._statistics is None:
            total = Statistics.empty(self.length)
            for start in range(0, len(self), _ROWS):
                total = total.merge(Statistics.of(self[start : start + _ROWS]))
            if not (bool(total.mean.isfinite().all()) and np.isfinite(total.scale)):
                raise DataError("all samples must be finite; got NaN or infinite numbers; try to leave them out")
            self._statistics = total
        return self._statistics

    def places(self, rows: Sequence[int] | slice | Int[Tensor, " rows"]) -> list[Place]:
        """Return where samples come from; for plain arrays, each row is a separate document."""
        indices = self._indices(rows)
        places = [Place(int(index), 0) for index in indices]
        for number, selected, local in self._by_part(indices):
            arrays = self._parts[number].arrays
            if arrays is not None:
                there = read_places(arrays(), local).places()
                for index, place in zip(selected, there, strict=True):
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
        from gramian.activations.store.opening import reopened

        return reopened, (*self._source, self._first, self._last)

    def _indices(self, rows: Sequence[int] | slice | Tensor) -> ndarray:
        indices = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        if indices.ndim != 1 or (len(indices) and not (indices.min() >= 0 and indices.max() < len(self))):
            raise IndexError(f"rows must be numbers from 0 to {len(self) - 1}; got others, or more than one axis")
        return indices + self._first

    def _by_part(self, indices: ndarray) -> Iterator[tuple[int, ndarray, ndarray]]:
        """Yield each part that holds some of the rows: its index, which rows these are, and their places in it."""
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
