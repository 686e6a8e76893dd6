"""What a file of weights holds: tensors by name, read one at a time, and what in it is no weight, with the reason."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gramian.errors import WeightsError, printable
from gramian.training.policy import Proposal, propose_by_shape

__all__ = ["Entry", "Weights", "cause", "distinct", "proposals_of"]


@dataclass(frozen=True)
class Entry:
    """A tensor in a file, not read yet."""

    name: str
    shape: tuple[int, ...]
    file: Path
    dtype: str
    """As torch writes it, like 'torch.float32'; or as the file does, if torch has no such dtype."""
    place: Any = None
    """Where in the file it is, as its reader needs it."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, or of a sharded set of files.

    Attributes:
        path: What was opened.
        kind: 'safetensors', 'sharded', 'npz' or 'pytorch'.
        entries: The tensors in the order of the file, by name.
        files: The files that hold tensors.
        left: What is no weight, or cannot be read as one, by name, and why: the state of an optimiser, a sparse tensor.
    """

    path: Path
    kind: str
    entries: Mapping[str, Entry]
    files: tuple[Path, ...]
    _read: Callable[[Entry], Tensor]
    left: Mapping[str, str] = field(default_factory=dict[str, str])
    content: Any = None
    """Of a PyTorch file, everything that is in it."""

    def read(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            WeightsError: If it is damaged.
        """
        entry = self.entries[name]
        try:
            return self._read(entry)
        except Exception as error:  # readers of damaged files raise whatever they meet
            raise WeightsError(f"{printable(name)} in {entry.file} cannot be read: {cause(error)}") from error


def proposals_of(weights: Weights) -> dict[str, Proposal]:
    """Say of every tensor, by name and shape, how it would be laid out and why."""
    return {name: _proposal(entry) for name, entry in weights.entries.items()}


def _proposal(entry: Entry) -> Proposal:
    if not entry.shape and "float" not in entry.dtype:
        return Proposal(None, "a counter", chosen=False)
    return propose_by_shape(entry.name, entry.shape)


def distinct(names: Iterable[str]) -> list[str]:
    """Tell equal names apart, which files may hold: the first keeps its name, the next ones are numbered.

    Examples:
        >>> distinct(["a.b", "c", "a.b", "a.b"])
        ['a.b', 'c', 'a.b (2)', 'a.b (3)']
    """
    given = list(names)
    taken, seen = set(given), Counter[str]()
    told: list[str] = []
    for name in given:
        seen[name] += 1
        new = name
        if seen[name] > 1:
            while (new := f"{name} ({seen[name]})") in taken:
                seen[name] += 1
            taken.add(new)
        told.append(new)
    return told


def cause(error: BaseException) -> str:
    """Give the first line of an error of a library below, without colours."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}{': ' + printable(first[0][:200]) if first else ''}"
