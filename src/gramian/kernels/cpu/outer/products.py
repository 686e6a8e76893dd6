r"""Both products of a group, tile by tile in registers: X = PᵀP and P·M.

A tile of X, some rows j and one to four vectors of numbers k, is the sum of outer products of rows of P: each turn
reads the vectors of a row, and multiplies them by single numbers p_j of the same row. Only tiles on and above the
diagonal are computed. A tile of P·M is the sum over j of the numbers P_rj times row j of M. Neither exchanges numbers
between lanes.
"""

from collections.abc import Callable

from gramian.kernels.cpu.lanes.code import Vector
from gramian.kernels.cpu.outer.memory import Memory

__all__ = ["Products"]

_DEPTH = 64
"""Rows of a partial sum: those of the five columns that a tile reads fit into a first-level cache of 32 KiB."""


class Products(Memory):
    """Writes the loops of both products."""

    def gram(self, rows: str, _: str) -> None:
        """Add the products of packed rows to X, on and above the diagonal."""
        code = self.code

        def part(top: str) -> None:
            bottom = code.least(code.integer("add", top, _DEPTH), rows)

            def tiles(J: str, K: str, v: int) -> None:
                height = self.plan.gram[v - 1]
                self.each(0, self.plan.lanes, lambda j: self._gram_tile(J, j, K, v, top, bottom), step=height)

            def row_of_tiles(J: str) -> None:
                self._columns(J, self.plan.gram, lambda K, v: tiles(J, K, v))

            self.each(0, self.columns, row_of_tiles)

        self.each(0, rows, part, step=_DEPTH)

    def multiply(self, rows: str, target: str, scale: Vector, *, add: bool) -> None:
        """Multiply packed rows by M, and by a number; add the rows if the result is P + PM."""
        self._columns("0", self.plan.product, lambda K, v: self._rows(rows, K, v, target, scale, add=add))

    def _columns(self, first: str, heights: tuple[int, ...], body: Callable[[str, int], None]) -> None:
        """Run a body for the columns from `first` on: the first of some adjacent ones, and how many there are."""
        code, most = self.code, len(heights)

        def chunk(K: str) -> None:
            count = code.least(code.integer("sub", self.columns, K), most)
            for v in range(1, most + 1):
                code.unless(code.emit(f"icmp ne i64 {count}, {v}"), lambda v=v: body(K, v))

        self.each(first, self.columns, chunk, step=most)

    def _gram_tile(self, J: str, j: str, K: str, v: int, top: str, bottom: str) -> None:
        code, height = self.code, self.plan.gram[v - 1]
        left = code.address(self.packed_place("0", J), code.integer("mul", j, self.size))
        columns = [self.packed_place("0", code.integer("add", K, i)) for i in range(v)]

        def row(r: str, sums: list[Vector]) -> list[Vector]:
            offset = code.integer("mul", r, self.bytes)
            xs = [self.load(code.address(column, offset)) for column in columns]
            here = code.address(left, offset)
            updated = []
            for i in range(height):
                factor = self.load_scalar(code.address(here, i * self.size))
                updated += [
                    code.add(total, code.multiply(factor, x))
                    for total, x in zip(sums[i * v : (i + 1) * v], xs, strict=True)
                ]
            return updated

        sums = code.loop(top, bottom, 1, row, ["zeroinitializer"] * (height * v))
        first = code.integer("add", code.integer("mul", J, self.plan.lanes), j)
        for k in range(v):
            place = self.place(first, code.integer("add", K, k))
            for i in range(height):
                slot = code.address(place, i * self.bytes)
                self.store(code.add(self.load(slot), sums[i * v + k]), slot)

    def _rows(self, rows: str, K: str, v: int, target: str, scale: Vector, *, add: bool) -> None:
        """Multiply all packed rows by v columns of M."""
        code, height = self.code, self.plan.product[v - 1]
        few = code.emit(f"icmp slt i64 {rows}, {height}")
        bottom = code.integer("sub", rows, height)
        partial = self.is_partial(code.integer("add", K, v - 1))

        def tile(r: str) -> None:
            # The last tile begins earlier and computes some rows again: P is read from its copy.
            self._product_tile(code.least(r, bottom), height, K, v, target, scale, partial, add=add)

        def single(r: str) -> None:
            self._product_tile(r, 1, K, v, target, scale, partial, add=add)

        self.choose(few, lambda: self.each(0, rows, single), lambda: self.each(0, rows, tile, step=height))

    def _product_tile(
        self, r: str, height: int, K: str, v: int, target: str, scale: Vector, partial: str, *, add: bool
    ) -> None:
        code = self.code
        columns = [self.place("0", code.integer("add", K, i)) for i in range(v)]

        def column(J: str, sums: list[Vector]) -> list[Vector]:
            first = code.integer("mul", J, self.plan.lanes)
            count = code.least(code.integer("sub", "%n", first), self.plan.lanes)
            left = self.packed_place(r, J)
            start = code.integer("mul", first, self.bytes)
            sources = [code.address(each, start) for each in columns]

            def number(j: str, sums: list[Vector]) -> list[Vector]:
                offset = code.integer("mul", j, self.bytes)
                ms = [self.load(code.address(source, offset)) for source in sources]
                here = code.address(left, code.integer("mul", j, self.size))
                updated = []
                for i in range(height):
                    factor = self.load_scalar(code.address(here, i * self.bytes))
                    updated += [
                        code.add(total, code.multiply(factor, m))
                        for total, m in zip(sums[i * v : (i + 1) * v], ms, strict=True)
                    ]
                return updated

            return code.loop(0, count, 1, number, sums)

        sums = code.loop(0, self.columns, 1, column, ["zeroinitializer"] * (height * v))
        ys, places = [], []
        for i in range(height):
            row = code.integer("add", r, i)
            start = code.address(target, code.integer("mul", row, "%out_l"))
            for k in range(v):
                where = code.integer("add", K, k)
                y = code.multiply(scale, sums[i * v + k])
                # The change is small: adding it to P at the end rounds once.
                ys.append(code.add(self.load(self.packed_place(row, where)), y) if add else y)
                places.append(code.address(start, code.integer("mul", where, self.bytes)))
        for k in range(v - 1):
            for y, place in zip(ys[k::v], places[k::v], strict=True):
                self.store(y, place, aligned=False)
        self.write(ys[v - 1 :: v], places[v - 1 :: v], partial)
