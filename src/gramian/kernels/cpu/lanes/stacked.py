"""Groups whose rows are adjacent in memory: a vector holds several rows of one group.

The products are those of `loops`. The sums of the rows that a vector holds are added at the end, and the factors of a
group are repeated for each of them, so that memory is read and written in order.
"""

from gramian.kernels.cpu.lanes.columns import Columns
from gramian.kernels.cpu.llvm.code import Vector

__all__ = ["Stacked"]

_TURNS = 64
"""Turns of a partial sum: the sum of many rows in one number of float32 would lose accuracy."""


class Stacked(Columns):
    """Writes the instructions of both products of such groups."""

    def gram_of_stack(self, scratch: str, block: str) -> None:
        """Write the Gram matrices of a block to scratch memory."""
        code, plan = self.code, self.plan
        final = code.integer("sub", "%count", 1)

        def group(i: str, index: str) -> None:
            base = code.address("%phi", code.integer("mul", code.least(index, final), "%phi_m"))
            place = self._place(scratch, i)
            for part in plan.parts:
                for d, total in zip(part, self._sums_of_rows(base, part), strict=True):
                    kind = f"<{plan.width} x {plan.scalar}>"
                    code.do(f"store {kind} {total}, ptr {code.address(place, d * self.bytes)}, align {self.size}")

        self._each_group(block, str(plan.groups), group)

    def multiply_stack(self, scratch: str, block: str) -> None:
        """Multiply the groups of a block by their factors."""
        code, plan = self.code, self.plan
        # The last group stands in for those that do not exist; it must not be stepped twice.
        rest = code.integer("sub", "%count", code.integer("mul", block, plan.groups))

        def group(i: str, index: str) -> None:
            source = code.address("%phi", code.integer("mul", index, "%phi_m"))
            target = source if plan.mode == "step" else code.address("%out", code.integer("mul", index, "%out_m"))
            place = self._place(scratch, i)
            kind = f"<{plan.width} x {plan.scalar}>"
            factors = []
            for d in range(plan.width):
                pointer = code.address(place, d * self.bytes)
                factor = code.emit(f"load {kind}, ptr {pointer}, align {self.size}")
                factors.append(self._shuffle(kind, factor, "poison", [lane % plan.width for lane in range(plan.lanes)]))

            def rows(r: str, vectors: int, *, single: bool = False) -> list[Vector]:
                xs = [self._load_rows_at(source, r, v, single=single) for v in range(vectors)]
                for v, y in enumerate([self._times(x, factors) for x in xs]):
                    self._store_rows_at(target, r, y, v, single=single)
                return []

            whole, vectors = self._whole_rows(plan.vectors), self._whole_rows(1)
            code.loop(0, whole, self.per_vector * plan.vectors, lambda r, _: rows(r, plan.vectors))
            code.loop(whole, vectors, self.per_vector, lambda r, _: rows(r, 1))
            code.loop(vectors, "%length", 1, lambda r, _: rows(r, 1, single=True))

        self._each_group(block, code.least(rest, plan.groups), group)

    def _sums_of_rows(self, base: str, part: range) -> list[Vector]:
        """Return the sums X_d of a group for some d."""
        code, plan, rows = self.code, self.plan, self.per_vector

        def turn(r: str, sums: list[Vector], vectors: int = 1, *, single: bool = False) -> list[Vector]:
            xs = [self._load_rows_at(base, r, v, single=single) for v in range(vectors)]
            terms = [term for x in xs for term in self._pairs(x, part)]
            return [code.add(total, term) for total, term in zip(sums, terms, strict=True)]

        def tile(top: str, sums: list[Vector]) -> list[Vector]:
            bottom = code.least(code.integer("add", top, _TURNS * rows * plan.vectors), whole)
            partial = code.loop(top, bottom, rows * plan.vectors, lambda r, sums: turn(r, sums, plan.vectors), zeros)
            return [code.add(a, b) for a, b in zip(sums, partial, strict=True)]

        whole, vectors = self._whole_rows(plan.vectors), self._whole_rows(1)
        zeros = ["zeroinitializer"] * (plan.vectors * len(part))
        sums = code.loop(0, whole, _TURNS * rows * plan.vectors, tile, zeros)
        sums = [self._sum(sums[i :: len(part)]) for i in range(len(part))]
        sums = code.loop(whole, vectors, rows, turn, sums)
        sums = code.loop(vectors, "%length", 1, lambda r, sums: turn(r, sums, single=True), sums)
        totals = []
        for x in sums:
            total, distance = x, plan.width
            while distance < plan.lanes:
                total = code.add(total, code.swap(total, distance))
                distance *= 2
            totals.append(code.permute(total, range(plan.width)))
        return totals

    def _whole_rows(self, vectors: int) -> str:
        """Return the number of rows that fill so many vectors each time.

        Where n is not a power of two, a row is read with the first numbers of the next one, which the last has not.
        """
        code, plan = self.code, self.plan
        length = "%length" if plan.n == plan.width else code.integer("sub", "%length", 1)
        return code.integer("and", length, -vectors * self.per_vector)

    def _load_rows_at(self, base: str, row: str, v: int = 0, *, single: bool = False) -> Vector:
        """Load the rows of the v-th vector from a row on, or a single row and zeros."""
        code, plan = self.code, self.plan
        pointers = self._row_pointers(base, row, v, single=single)
        if single or plan.n < plan.width:
            return self._gather(pointers, plan.n if single else plan.width)
        raw = f"<{plan.lanes} x {self.stored}>"
        return self._widen(code.emit(f"load {raw}, ptr {pointers[0]}, align {self.stored_size}"))

    def _store_rows_at(self, base: str, row: str, y: Vector, v: int, *, single: bool) -> None:
        code, plan = self.code, self.plan
        pointers, narrow = self._row_pointers(base, row, v, single=single), self._narrow(y)
        if single or plan.n < plan.width:
            self._scatter(pointers, narrow)
        else:
            code.do(f"store <{plan.lanes} x {self.stored}> {narrow}, ptr {pointers[0]}, align {self.stored_size}")

    def _row_pointers(self, base: str, row: str, v: int, *, single: bool) -> list[str]:
        code, size = self.code, self.plan.n * self.stored_size
        first = code.address(base, code.integer("mul", row, size))
        count = 1 if single else self.per_vector
        return [code.address(first, (v * self.per_vector + i) * size) for i in range(count)]
