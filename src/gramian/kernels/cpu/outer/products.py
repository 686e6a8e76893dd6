r"""Both products of a group, tile by tile in registers: X = PᵀP and P·M.

A tile of X, some rows j and one to four vectors of numbers k, is the sum of outer products of rows of P: each turn
reads the vectors of a row, and multiplies them by single numbers p_j of the same row. Only tiles on and above the
diagonal are computed. A tile of P·M is the sum over j of the numbers P_rj times row j of M. Neither exchanges numbers
between lanes.
"""

from collections.abc import Callable
from typing import NamedTuple

from gramian.kernels.cpu.llvm.code import Vector
from gramian.kernels.cpu.outer.memory import Memory

__all__ = ["DEPTH", "Columns", "Products", "Span"]

DEPTH = 64
"""Rows of a partial sum: those of the five columns that a tile reads fit into a first-level cache of 32 KiB."""


class Span(NamedTuple):
    """Some packed rows: the first, and the one after the last."""

    first: str
    last: str


class Columns(NamedTuple):
    """Some adjacent columns of vectors: the first, and their number."""

    first: str
    number: int


class Products(Memory):
    """Writes the loops of both products."""

    def gram(self, J: str, rows: str, top: str) -> None:
        """Add the products of at most `DEPTH` packed rows from `top` on to the tiles J, K of X, K ≥ J."""
        span = Span(top, self.code.least(self.code.integer("add", top, DEPTH), rows))

        def tiles(columns: Columns) -> None:
            height = self.plan.gram[columns.number - 1]
            self.each(0, self.plan.lanes, lambda j: self._gram_tile(J, j, columns, span), step=height)

        self._columns(J, len(self.plan.gram), tiles)

    def each_depth(self, rows: str, body: Callable[[str], None]) -> None:
        """Run a body for the first of each `DEPTH` packed rows."""
        self.each(0, rows, body, step=DEPTH)

    def multiply(self, rows: Span, target: str, scale: Vector, *, add: bool) -> None:
        """Multiply packed rows by M, and by a number; add the rows if the result is P + PM.

        Args:
            rows: The rows.
            target: The pointer to the result of packed row 0.
            scale: The number.
            add: Whether the rows are added.
        """
        code = self.code

        def block(columns: Columns) -> None:
            height = self.plan.product[columns.number - 1]
            few = code.emit(f"icmp slt i64 {code.integer('sub', rows.last, rows.first)}, {height}")
            bottom = code.integer("sub", rows.last, height)

            def tile(r: str, height: int) -> None:
                sums = self._product_tile(r, height, columns)
                self._store_tile(r, [code.multiply(scale, x) for x in sums], columns, target, add=add)

            # The last tile begins earlier and computes some rows again: P is read from its copy.
            self.choose(
                few,
                lambda: self.each(rows.first, rows.last, lambda r: tile(r, 1)),
                lambda: self.each(rows.first, rows.last, lambda r: tile(code.least(r, bottom), height), step=height),
            )

        self._columns("0", len(self.plan.product), block)

    def _columns(self, first: str, most: int, body: Callable[[Columns], None]) -> None:
        """Run a body for the columns from `first` on, as many at a time as a tile holds."""
        code = self.code

        def some(K: str) -> None:
            count = code.least(code.integer("sub", self.columns, K), most)
            for v in range(1, most + 1):
                code.unless(code.emit(f"icmp ne i64 {count}, {v}"), lambda v=v: body(Columns(K, v)))

        self.each(first, self.columns, some, step=most)

    def _gram_tile(self, J: str, j: str, columns: Columns, span: Span) -> None:
        code, v = self.code, columns.number
        height = self.plan.gram[v - 1]
        left = code.address(self.packed_place("0", J), code.integer("mul", j, self.size))
        sources = [self.packed_place("0", code.integer("add", columns.first, i)) for i in range(v)]

        def row(r: str, sums: list[Vector]) -> list[Vector]:
            offset = code.integer("mul", r, self.bytes)
            xs = [self.load(code.address(source, offset)) for source in sources]
            return self._outer(code.address(left, offset), self.size, xs, sums)

        sums = code.loop(*span, 1, row, ["zeroinitializer"] * (height * v))
        first = code.integer("add", code.integer("mul", J, self.plan.lanes), j)
        for k in range(v):
            place = self.place(first, code.integer("add", columns.first, k))
            for i in range(height):
                slot = code.address(place, i * self.bytes)
                self.store(code.add(self.load(slot), sums[i * v + k]), slot)

    def _product_tile(self, r: str, height: int, columns: Columns) -> list[Vector]:
        """Return some columns of some rows of P·M."""
        code, lanes = self.code, self.plan.lanes
        starts = [self.place("0", code.integer("add", columns.first, i)) for i in range(columns.number)]

        def column(J: str, sums: list[Vector]) -> list[Vector]:
            first = code.integer("mul", J, lanes)
            count = code.least(code.integer("sub", "%n", first), lanes)
            left = self.packed_place(r, J)
            sources = [code.address(start, code.integer("mul", first, self.bytes)) for start in starts]

            def number(j: str, sums: list[Vector]) -> list[Vector]:
                offset = code.integer("mul", j, self.bytes)
                ms = [self.load(code.address(source, offset)) for source in sources]
                return self._outer(code.address(left, code.integer("mul", j, self.size)), self.bytes, ms, sums)

            return code.loop(0, count, 1, number, sums)

        return code.loop(0, self.columns, 1, column, ["zeroinitializer"] * (height * columns.number))

    def _outer(self, factors: str, stride: int, xs: list[Vector], sums: list[Vector]) -> list[Vector]:
        """Add the products of vectors and single numbers, which are `stride` bytes apart, to their sums."""
        code, v = self.code, len(xs)
        updated = []
        for i in range(len(sums) // v):
            factor = self.load_scalar(code.address(factors, i * stride))
            updated += [code.add(sums[i * v + k], code.multiply(factor, x)) for k, x in enumerate(xs)]
        return updated

    def _store_tile(self, r: str, ys: list[Vector], columns: Columns, target: str, *, add: bool) -> None:
        """Write a tile of the result; add the rows of P if `add`."""
        code, v = self.code, columns.number
        places = []
        for i in range(len(ys) // v):
            row = code.integer("add", r, i)
            start = code.address(target, code.integer("mul", row, "%out_l"))
            for k in range(v):
                column = code.integer("add", columns.first, k)
                places.append(code.address(start, code.integer("mul", column, self.bytes)))
                if add:
                    # The change is small: adding it to P at the end rounds once.
                    ys[i * v + k] = code.add(self.load(self.packed_place(row, column)), ys[i * v + k])
        for k in range(v - 1):
            for y, place in zip(ys[k::v], places[k::v], strict=True):
                self.store(y, place, aligned=False)
        partial = self.is_partial(code.integer("add", columns.first, v - 1))
        self.write(ys[v - 1 :: v], places[v - 1 :: v], partial)
