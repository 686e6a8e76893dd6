"""The plan of a function of the outer kernel: what it computes, and the tiles that it holds in registers."""

from dataclasses import dataclass

from gramian.kernels.cpu.llvm.functions import EntryFunction

__all__ = ["Mode", "Tiles"]

Mode = str
"""'step' writes P(I − S) and 'change' −PS for groups whose X is finite; 'gradient' 2βPG, 'value' μ(X), 'residual' X,
'multiply' PM and 'multiply_add' P + PM."""


@dataclass(frozen=True)
class Tiles:
    """The operation of a function, for groups of any size, and its dtype."""

    scalar: str
    """The type of numbers, 'float' or 'double'."""
    mode: Mode
    function: EntryFunction | None
    vector_bytes: int

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return 8 if self.scalar == "double" else 4

    @property
    def lanes(self) -> int:
        """Numbers of a vector."""
        return self.vector_bytes // self.size

    @property
    def gram(self) -> tuple[int, ...]:
        """Rows of a tile of X that is one vector wide, two vectors, and so on; each divides the number of lanes.

        A tile needs about eight sums, so that no multiplication waits for the one before it, and fewer registers than
        the processor has: 32 with AVX-512, otherwise 16.
        """
        rows = (16, 8, 8, 4) if self.vector_bytes >= 64 else (8, 4)
        return tuple(min(each, self.lanes) for each in rows)

    @property
    def product(self) -> tuple[int, ...]:
        """Rows of a tile of P M that is one vector wide, two vectors, and so on."""
        return (16, 8, 8, 6) if self.vector_bytes >= 64 else (8, 6)

    @property
    def reads_function(self) -> bool:
        """Whether the penalty is part of the function."""
        return self.mode in ("step", "change", "gradient", "value")
