"""The plan of a function of the lanes kernel: what it computes, and how many groups it processes at once."""

from dataclasses import dataclass
from typing import Literal

from gramian.kernels.cpu.llvm.functions import EntryFunction

__all__ = ["Order", "Plan"]

Order = Literal["rows", "columns", "stack"]

_SUMS = 8
"""Number of sums that are held in registers."""

_COLUMNS = 256
"""Numbers of a row that are processed before the next row tile: several cache lines."""


@dataclass(frozen=True)
class Plan:
    """The operation of a function, and the sizes, dtype and memory order of its tensor."""

    n: int
    dtype: str
    """The type in memory: 'float', 'double', 'bfloat' or 'half'. Arithmetic is in float, or in double."""
    mode: str
    """'step' writes P(I − S), 'change' −PS, 'gradient' 2βPG, 'residual' X, 'multiply' PM and 'multiply_add' P + PM."""
    function: EntryFunction | None
    vector_bytes: int
    dense: bool
    """Whether the groups are adjacent and all those of a block exist; unless n is a power of two, the next one too."""
    order: Order = "rows"
    """What is adjacent: the numbers of a row of a group, those of a vector, or all those of a group, row by row."""

    @property
    def scalar(self) -> str:
        """The type in arithmetic."""
        return "double" if self.dtype == "double" else "float"

    @property
    def width(self) -> int:
        """Lanes of a group: n, or the next power of two."""
        return 1 << (self.n - 1).bit_length()

    @property
    def lanes(self) -> int:
        """Lanes of a vector."""
        return max(self.width, self.vector_bytes // (8 if self.scalar == "double" else 4))

    @property
    def vectors(self) -> int:
        """Vectors that are processed at once."""
        return max(1, _SUMS // self.width)

    @property
    def parts(self) -> list[range]:
        """The d of the sums X_d that are formed in one pass over the rows: as many as there are registers for."""
        registers = self.vectors * max(1, self.lanes * (8 if self.scalar == "double" else 4) // self.vector_bytes)
        size = max(1, _SUMS // registers)
        return [range(first, min(first + size, self.width)) for first in range(0, self.width, size)]

    @property
    def groups(self) -> int:
        """Groups of a block."""
        return self.vectors * self.lanes // self.width

    @property
    def blocks(self) -> int:
        """Blocks that are processed together, row tile by row tile."""
        return max(1, _COLUMNS // (self.groups * self.n))
