"""The content of a file of weights: tensors by name, read one at a time, and what is skipped, with the reason."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gramian.errors import WeightsError, printable
from gramian.selection import Proposal, SkippedParameter
from gramian.selection.candidate import Candidate
from gramian.selection.policy import propose_by_shape

__all__ = ["Entry", "Weights", "candidates_of", "cause", "distinct"]


@dataclass(frozen=True)
class Entry:
    """A tensor in a file that has not been read yet."""

    name: str
    shape: tuple[int, ...]
    file: Path
    dtype: str
    """As torch writes it, like 'torch.float32'."""
    place: Any = field(default=None, repr=False)
    """Its place in the file, in the form that the file's reader uses."""


@dataclass(frozen=True, repr=False)
class Weights:
    """The tensors of a file, or of a sharded set of files.

    Attributes:
        path: The file.
        kind: 'safetensors', 'sharded', 'npz', 'npy', 'pytorch' or 'onnx'.
        entries: The tensors in the order of the file, by name.
        files: The files that hold tensors.
        skipped: What is not a weight or cannot be read as one, and why: the state of an optimiser, a sparse tensor.
        content: The whole content of a PyTorch file; None for other files.
    """

    path: Path
    kind: str
    entries: Mapping[str, Entry]
    files: tuple[Path, ...]
    _read: Callable[[Entry], Tensor]
    skipped: tuple[SkippedParameter, ...] = ()
    content: Any = None

    def __repr__(self) -> str:
        return f"Weights({str(self.path)!r}, {self.kind}: {len(self.entries)} tensors, {len(self.skipped)} skipped)"

    def read(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            WeightsError: If it is damaged.
        """
        entry = self.entries[name]
        try:
            return self._read(entry)
        except Exception as error:  # readers of damaged files raise errors of many types
            raise WeightsError(f"{printable(name)} in {entry.file} cannot be read: {cause(error)}") from error


def candidates_of(weights: Weights) -> list[Candidate]:
    """Return every tensor as a candidate of a selection."""
    return [
        Candidate(name, name, entry.shape, _proposal(entry), partial(weights.read, name))
        for name, entry in weights.entries.items()
    ]


def _proposal(entry: Entry) -> Proposal:
    if not entry.shape and "float" not in entry.dtype:
        return Proposal(None, "a counter", chosen=False)
    return propose_by_shape(entry.name, entry.shape)


def distinct(names: Iterable[str]) -> list[str]:
    """Make names distinct: the first of several equal ones keeps its name, the next ones are numbered.

    Examples:
        >>> distinct(["a.b", "c", "a.b", "a.b"])
        ['a.b', 'c', 'a.b (2)', 'a.b (3)']
    """
    given = list(names)
    taken, seen = set(given), Counter[str]()
    result: list[str] = []
    for name in given:
        seen[name] += 1
        new = name
        if seen[name] > 1:
            while (new := f"{name} ({seen[name]})") in taken:
                seen[name] += 1
            taken.add(new)
        result.append(new)
    return result


def cause(error: BaseException) -> str:
    """Return the first line of the message of another library's error, without colour codes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}{': ' + printable(first[0][:200]) if first else ''}"
