"""Entry-wise work on the matrix of a group in scratch memory: the value, and X to the factor of the product with P.

It is done on and above the diagonal; the other entries are copies, so that the factor is exactly symmetric.
"""

from collections.abc import Callable
from typing import cast

from gramian.kernels.cpu.lanes.code import Vector
from gramian.kernels.cpu.lanes.functions import EntryFunction
from gramian.kernels.cpu.outer.plan import Tiles
from gramian.kernels.cpu.outer.products import Products

__all__ = ["Entries"]

_Update = Callable[[Vector, bool], Vector]


class Entries(Products):
    """Writes the loops over the entries of a matrix."""

    def __init__(self, plan: Tiles) -> None:
        super().__init__(plan)
        self.function = cast("EntryFunction", plan.function)  # the modes that read it have one

    def read_numbers(self) -> None:
        """Read the numbers of the penalty; the first one is 2β, or τ."""
        count = 1 + self.function.count if self.plan.reads_function else 0
        self.numbers = [self.load_scalar(self.code.address("%numbers", i * self.size)) for i in range(count)]

    def subtract_identity(self) -> None:
        """Subtract 1 from the entries on the diagonal."""
        code = self.code

        def entry(j: str) -> None:
            column = code.integer("sdiv", j, self.plan.lanes)
            lane = code.integer("sub", j, code.integer("mul", column, self.plan.lanes))
            place = code.address(self.place(j, column), code.integer("mul", lane, self.size))
            x = code.emit(f"load {self.plan.scalar}, ptr {place}, align {self.size}")
            x = code.emit(f"fsub {self.plan.scalar} {x}, 1.0")
            code.do(f"store {self.plan.scalar} {x}, ptr {place}, align {self.size}")

        self.each(0, "%n", entry)

    def value(self, x: Vector, on_diagonal: bool) -> Vector:  # noqa: FBT001
        """Return h(x)."""
        return self.function.value(self.code, x, self.numbers[1:], on_diagonal=on_diagonal)

    def subgradient(self, x: Vector, on_diagonal: bool) -> Vector:  # noqa: FBT001
        """Return h'(x)."""
        return self.function.subgradient(self.code, x, self.numbers[1:], on_diagonal=on_diagonal)

    def prox_residual(self, x: Vector, on_diagonal: bool) -> Vector:  # noqa: FBT001
        """Return x − prox_τh(x)."""
        return self.function.prox_residual(self.code, x, self.numbers[0], self.numbers[1:], on_diagonal=on_diagonal)

    def entries(self, terms: list[_Update], update: _Update | None) -> list[Vector]:
        """Sum functions over all entries of the matrix, and replace the entries on and above the diagonal.

        Args:
            terms: Functions of a vector of entries, and whether they are on the diagonal.
            update: The function that replaces them.

        Returns:
            The sums, in all lanes.
        """
        code, lanes = self.code, self.plan.lanes
        zeros = ["zeroinitializer"] * len(terms)
        iota = code.constant([float(lane) for lane in range(lanes)])

        def tile(J: str, K: str, *, diagonal: bool) -> list[Vector]:
            base = self.place(code.integer("mul", J, lanes), K)

            def row(j: str, sums: list[Vector]) -> list[Vector]:
                place = code.address(base, code.integer("mul", j, self.bytes))
                x = self.load(place)
                if not diagonal:
                    if update is not None:
                        self.store(update(x, False), place)
                    return [code.add(total, term(x, False)) for total, term in zip(sums, terms, strict=True)]
                number = code.broadcast(code.emit(f"sitofp i64 {j} to {self.plan.scalar}"))
                here = code.compare("oeq", iota, number)
                if update is not None:
                    self.store(code.select(here, update(x, True), update(x, False)), place)
                both = [code.select(here, term(x, True), term(x, False)) for term in terms]
                return [code.add(total, each) for total, each in zip(sums, both, strict=True)]

            return code.loop(0, lanes, 1, row, zeros)

        def block(J: str, sums: list[Vector]) -> list[Vector]:
            def above(K: str, sums: list[Vector]) -> list[Vector]:
                # Partial sums of a tile, then of a row of tiles: long sums in float32 would lose accuracy.
                return [code.add(a, b) for a, b in zip(sums, tile(J, K, diagonal=False), strict=True)]

            on = tile(J, J, diagonal=True)
            off = code.loop(code.integer("add", J, 1), self.columns, 1, above, zeros)
            twice = [code.add(code.multiply(code.splat(2), x), y) for x, y in zip(off, on, strict=True)]
            return [code.add(a, b) for a, b in zip(sums, twice, strict=True)]

        sums = code.loop(0, self.columns, 1, block, zeros)
        return [code.over_lanes(x, lanes, code.add) for x in sums]
