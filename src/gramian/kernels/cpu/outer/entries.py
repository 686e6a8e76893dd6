"""Entry-wise work on the matrix of a group in scratch memory: the value, and X to the factor of the product with P.

It is done on and above the diagonal; the other entries are copies, so that the factor is exactly symmetric.
"""

from collections.abc import Callable
from typing import cast

from gramian.kernels.cpu.llvm.code import Vector
from gramian.kernels.cpu.llvm.functions import EntryFunction
from gramian.kernels.cpu.outer.plan import Tiles
from gramian.kernels.cpu.outer.products import Products
from gramian.kernels.norms import NEAR

__all__ = ["Entries", "Function"]

Function = Callable[[Vector, bool], Vector]
"""A function of a vector of entries, and whether they are on the diagonal."""


class Entries(Products):
    """Writes the loops over the entries of a matrix."""

    def __init__(self, plan: Tiles) -> None:
        super().__init__(plan)
        self.function = cast("EntryFunction", plan.function)  # the modes that read it have one

    def read_numbers(self) -> None:
        """Read the numbers of the penalty; the first one is 2β, or τ."""
        count = 1 + self.function.count if self.plan.reads_function else 0
        self.numbers = [self.load_scalar(self.code.address("%numbers", i * self.size)) for i in range(count)]

    def shift_diagonal(self, J: str, number: float) -> None:
        """Add a number to the entries of tile J, J on the diagonal."""
        code, lanes, kind = self.code, self.plan.lanes, self.plan.scalar
        first = code.integer("mul", J, lanes)
        place = self.place(first, J)

        def entry(j: str) -> None:
            slot = code.address(place, code.integer("mul", j, self.bytes + self.size))
            x = code.emit(f"load {kind}, ptr {slot}, align {self.size}")
            code.do(f"store {kind} {code.emit(f'fadd {kind} {x}, {number}')}, ptr {slot}, align {self.size}")

        self.each(0, code.least(code.integer("sub", "%n", first), lanes), entry)

    def value(self, x: Vector, on_diagonal: bool) -> Vector:  # noqa: FBT001
        """Return h(x)."""
        return self.function.value(self.code, x, self.numbers[1:], on_diagonal=on_diagonal)

    def square(self, x: Vector, on_diagonal: bool) -> Vector:  # noqa: ARG002, FBT001
        """Return x²."""
        return self.code.multiply(x, x)

    def subgradient(self, x: Vector, on_diagonal: bool) -> Vector:  # noqa: FBT001
        """Return h'(x)."""
        return self.function.subgradient(self.code, x, self.numbers[1:], on_diagonal=on_diagonal)

    def prox_residual(self, tau: Vector) -> Function:
        """Return x − prox_τh(x), a function of x."""

        def residual(x: Vector, on_diagonal: bool) -> Vector:  # noqa: FBT001
            return self.function.prox_residual(self.code, x, tau, self.numbers[1:], on_diagonal=on_diagonal)

        return residual

    def gradient_scale(self, value: Vector) -> Vector:
        """Return 2β, or NaN where the value is not finite: then all of the gradient of the group is NaN."""
        code = self.code
        return code.multiply(self.numbers[0], code.add(code.splat(1), code.multiply(code.splat(0), value)))

    def is_near(self, square: Vector) -> str:
        """Tell by ‖X‖²_F whether a group is near the manifold, where w = 1."""
        code = self.code
        return self.holds("ole", code.root(square), code.splat(NEAR))

    def holds(self, relation: str, a: Vector, b: Vector) -> str:
        """Compare two numbers, which all lanes hold."""
        bits = self.code.compare(relation, a, b)
        return self.code.emit(f"extractelement <{self.plan.lanes} x i1> {bits}, i32 0")

    def store_value(self, value: Vector, place: str) -> None:
        """Store μ(X), which all lanes hold."""
        number = self.code.emit(f"extractelement {self.code.vector} {value}, i32 0")
        self.code.do(f"store {self.plan.scalar} {number}, ptr {place}, align {self.size}")

    def store_flag(self, flag: str, place: str) -> None:
        """Store a bit as a byte."""
        self.code.do(f"store i8 {self.code.emit(f'zext i1 {flag} to i8')}, ptr {place}")

    def entries(self, J: str, terms: list[Function], update: Function | None) -> list[Vector]:
        """Sum functions over the tiles J, K of X, K ≥ J, those with K > J twice; and replace their entries.

        Args:
            J: The row of tiles.
            terms: Functions of a vector of entries, and whether they are on the diagonal.
            update: The function that replaces them.

        Returns:
            The sums of each lane.
        """
        code = self.code
        zeros = ["zeroinitializer"] * len(terms)

        def above(K: str, sums: list[Vector]) -> list[Vector]:
            # Partial sums of a tile, then of a row of tiles: long sums in float32 would lose accuracy.
            return [code.add(a, b) for a, b in zip(sums, self._tile(J, K, terms, update), strict=True)]

        on = self._diagonal_tile(J, terms, update)
        off = code.loop(code.integer("add", J, 1), self.columns, 1, above, zeros)
        return [code.add(code.multiply(code.splat(2), x), y) for x, y in zip(off, on, strict=True)]

    def _tile(self, J: str, K: str, terms: list[Function], update: Function | None) -> list[Vector]:
        code = self.code

        def row(place: str, sums: list[Vector]) -> list[Vector]:
            x = self.load(place)
            if update is not None:
                self.store(update(x, False), place)
            return [code.add(total, term(x, False)) for total, term in zip(sums, terms, strict=True)]

        return self._rows(J, K, len(terms), lambda place, _, sums: row(place, sums))

    def _diagonal_tile(self, J: str, terms: list[Function], update: Function | None) -> list[Vector]:
        code = self.code
        lanes = code.constant([float(lane) for lane in range(self.plan.lanes)])

        def row(place: str, j: str, sums: list[Vector]) -> list[Vector]:
            x = self.load(place)
            number = code.broadcast(code.emit(f"sitofp i64 {j} to {self.plan.scalar}"))
            here = code.compare("oeq", lanes, number)
            if update is not None:
                self.store(code.select(here, update(x, True), update(x, False)), place)
            both = [code.select(here, term(x, True), term(x, False)) for term in terms]
            return [code.add(total, each) for total, each in zip(sums, both, strict=True)]

        return self._rows(J, J, len(terms), row)

    def _rows(self, J: str, K: str, count: int, body: Callable[[str, str, list[Vector]], list[Vector]]) -> list[Vector]:
        """Run a body for each row of a tile, with its place, its index and sums that are passed on."""
        code, lanes = self.code, self.plan.lanes
        base = self.place(code.integer("mul", J, lanes), K)

        def turn(j: str, sums: list[Vector]) -> list[Vector]:
            return body(code.address(base, code.integer("mul", j, self.bytes)), j, sums)

        return code.loop(0, lanes, 1, turn, ["zeroinitializer"] * count)
