"""Groups whose vectors are contiguous in memory: the lanes hold rows, and sums and factors are single numbers.

Every pair of vectors is multiplied row by row, so nothing has to be exchanged between lanes. The sums are written to
the same places in scratch memory as for the other memory orders, so the further code is the same.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement

from gramian.kernels.cpu.lanes.matrices import Matrices
from gramian.kernels.cpu.llvm.code import Vector

__all__ = ["Columns"]

_PAIRS = 12
"""Number of sums that are held in registers; further pairs read the vectors again, from the cache."""


class Columns(Matrices):
    """Writes the instructions of both products of such groups."""

    def gram_of_columns(self, scratch: str, block: str) -> None:
        """Write the Gram matrices of a block to scratch memory, which has been cleared."""
        code, plan = self.code, self.plan
        final = code.integer("sub", "%count", 1)

        def group(i: str, index: str) -> None:
            columns = self._columns("%phi", index if plan.dense else code.least(index, final))
            place = self._place(scratch, i)
            pairs = list(combinations_with_replacement(range(plan.n), 2))
            for first in range(0, len(pairs), _PAIRS):
                self._sums(columns, place, pairs[first : first + _PAIRS])

        self._each_group(block, str(plan.groups), group)

    def multiply_columns(self, scratch: str, block: str) -> None:
        """Multiply the groups of a block by their factors."""
        code, plan = self.code, self.plan
        # The last group stands in for those that do not exist; it must not be stepped twice.
        rest = code.integer("sub", "%count", code.integer("mul", block, plan.groups))

        def group(i: str, index: str) -> None:
            sources = self._columns("%phi", index)
            targets = sources if plan.mode == "step" else self._columns("%out", index)
            place = self._place(scratch, i)
            factors = [
                [
                    code.broadcast(code.emit(f"load {plan.scalar}, ptr {self._entry(place, j, k)}"))
                    for k in range(plan.n)
                ]
                for j in range(plan.n)
            ]

            def products(xs: list[Vector]) -> list[Vector]:
                ys = []
                for x, row in zip(xs, factors, strict=True):
                    y = code.multiply(xs[0], row[0])
                    for other, factor in zip(xs[1:], row[1:], strict=True):
                        y = code.add(code.multiply(other, factor), y)
                    ys.append(code.add(x, y) if plan.mode in ("step", "multiply_add") else y)
                return ys

            def rows(r: str, _: list[Vector], *, single: bool) -> list[Vector]:
                ys = products([self._load_rows(column, r, single=single) for column in sources])
                for column, y in zip(targets, ys, strict=True):
                    self._store_rows(column, r, y, single=single)
                return []

            whole = self._whole()
            code.loop(0, whole, plan.lanes, lambda r, none: rows(r, none, single=False))
            code.loop(whole, "%length", 1, lambda r, none: rows(r, none, single=True))

        self._each_group(block, code.least(rest, plan.groups), group)

    def _sums(self, columns: list[str], place: str, pairs: list[tuple[int, int]]) -> None:
        code, plan = self.code, self.plan
        used = sorted({j for pair in pairs for j in pair})

        def rows(r: str, sums: list[Vector], *, single: bool) -> list[Vector]:
            xs = {j: self._load_rows(columns[j], r, single=single) for j in used}
            return [code.add(total, code.multiply(xs[j], xs[k])) for total, (j, k) in zip(sums, pairs, strict=True)]

        whole = self._whole()
        zeros = ["zeroinitializer"] * len(pairs)
        sums = code.loop(0, whole, plan.lanes, lambda r, sums: rows(r, sums, single=False), zeros)
        sums = code.loop(whole, "%length", 1, lambda r, sums: rows(r, sums, single=True), sums)
        for total, (j, k) in zip(sums, pairs, strict=True):
            added = code.over_lanes(total, plan.lanes, code.add)
            number = code.emit(f"extractelement {code.vector} {added}, i32 0")
            code.do(f"store {plan.scalar} {number}, ptr {self._entry(place, j, k)}")
            if j != k:
                code.do(f"store {plan.scalar} {number}, ptr {self._entry(place, k, j)}")

    def _each_group(self, block: str, count: str, body: Callable[[str, str], None]) -> None:
        """Run a body for each group of a block, with its position in the block and its index."""
        code = self.code
        first = code.integer("mul", block, self.plan.groups)

        def turn(i: str, _: list[Vector]) -> list[Vector]:
            body(i, code.integer("add", first, i))
            return []

        code.loop(0, count, 1, turn)

    def _whole(self) -> str:
        """Return the number of rows that fill vectors."""
        return self.code.integer("and", "%length", -self.plan.lanes)

    def _columns(self, base: str, index: str) -> list[str]:
        """Return the pointers to the vectors of a group."""
        code = self.code
        group = code.address(base, code.integer("mul", index, f"{base}_m"))
        return [code.address(group, code.integer("mul", j, f"{base}_n")) for j in range(self.plan.n)]

    def _place(self, scratch: str, i: str) -> str:
        """Return the pointer to the lanes of the i-th group of a block."""
        code, plan = self.code, self.plan
        vector = code.integer("mul", code.integer("udiv", i, self.per_vector), plan.width * self.bytes)
        lane = code.integer("mul", code.integer("urem", i, self.per_vector), plan.width * self.size)
        return code.address(code.address(scratch, vector), lane)

    def _entry(self, place: str, j: int, k: int) -> str:
        """Return the pointer to the entry j, k of the matrix of a group."""
        return self.code.address(place, (j ^ k) * self.bytes + j * self.size)

    def _load_rows(self, column: str, row: str, *, single: bool) -> Vector:
        """Load as many rows of a vector as there are lanes, or one row and zeros."""
        code, plan = self.code, self.plan
        raw, size = f"<{plan.lanes} x {self.stored}>", self.stored_size
        pointer = code.address(column, code.integer("mul", row, size))
        if not single:
            return self._widen(code.emit(f"load {raw}, ptr {pointer}, align {size}"))
        number = code.emit(f"load {self.stored}, ptr {pointer}, align {size}")
        return self._widen(code.emit(f"insertelement {raw} zeroinitializer, {self.stored} {number}, i32 0"))

    def _store_rows(self, column: str, row: str, y: Vector, *, single: bool) -> None:
        code, plan = self.code, self.plan
        raw, size = f"<{plan.lanes} x {self.stored}>", self.stored_size
        pointer, narrow = code.address(column, code.integer("mul", row, size)), self._narrow(y)
        if single:
            number = code.emit(f"extractelement {raw} {narrow}, i32 0")
            code.do(f"store {self.stored} {number}, ptr {pointer}, align {size}")
        else:
            code.do(f"store {raw} {narrow}, ptr {pointer}, align {size}")
