"""Rows of groups and tiles of matrices: from memory to scratch memory, and back.

Scratch memory holds a matrix as columns of vectors: the numbers J·L to J·L + L − 1 of all its rows, L the number of
lanes, then those of the next column. So a tile is read from a few places that are each contiguous, whatever the strides
of Φ are. The last column ends with zeros where L does not divide n.
"""

from collections.abc import Callable

from gramian.kernels.cpu.llvm.code import Code, Vector
from gramian.kernels.cpu.outer.plan import Tiles

__all__ = ["Memory"]


class Memory:
    """Writes the instructions that load, store and transpose.

    Args:
        plan: What the function computes.
    """

    def __init__(self, plan: Tiles) -> None:
        self.plan = plan
        self.code = Code(plan.lanes, plan.scalar)
        self.size, self.bytes = plan.size, plan.lanes * plan.size

    def prepare(self) -> None:
        """Compute the sizes that all loops need."""
        code, lanes = self.code, self.plan.lanes
        self.columns = code.integer("sdiv", code.integer("add", "%n", lanes - 1), lanes)
        self.final = code.integer("sub", self.columns, 1)
        self.width = code.integer("mul", self.columns, lanes)
        self.column = code.integer("mul", self.width, self.bytes)
        """Bytes of a column of X."""
        self.packed = code.address("%scratch", code.integer("mul", self.column, self.columns))
        self.packed_column = code.integer("mul", "%block", self.bytes)
        rest = code.integer("sub", "%n", code.integer("mul", self.final, lanes))
        self.whole = code.emit(f"icmp eq i64 {rest}, {lanes}")
        wide = code.emit(f"insertelement <{lanes} x i64> poison, i64 {rest}, i32 0")
        zeros = ", ".join(["i32 0"] * lanes)
        wide = code.emit(f"shufflevector <{lanes} x i64> {wide}, <{lanes} x i64> poison, <{lanes} x i32> <{zeros}>")
        places = ", ".join(f"i64 {lane}" for lane in range(lanes))
        self.mask = code.emit(f"icmp slt <{lanes} x i64> <{places}>, {wide}")

    def each(self, first: str | int, last: str | int, body: Callable[[str], None], step: str | int = 1) -> None:
        """Run a body for each index."""

        def turn(index: str, _: list[Vector]) -> list[Vector]:
            body(index)
            return []

        self.code.loop(first, last, step, turn)

    def load(self, pointer: str, *, aligned: bool = True) -> Vector:
        """Load a vector: from scratch memory, where it is aligned, or from that of a tensor."""
        return self.code.emit(f"load {self.code.vector}, ptr {pointer}, align {self.bytes if aligned else self.size}")

    def store(self, x: Vector, pointer: str, *, aligned: bool = True) -> None:
        """Store a vector."""
        self.code.do(f"store {self.code.vector} {x}, ptr {pointer}, align {self.bytes if aligned else self.size}")

    def load_scalar(self, pointer: str) -> Vector:
        """Load a number and repeat it in all lanes."""
        return self.code.broadcast(self.code.emit(f"load {self.plan.scalar}, ptr {pointer}, align {self.size}"))

    def place(self, j: str, column: str) -> str:
        """Return the pointer to row j of a column of X."""
        code = self.code
        start = code.address("%scratch", code.integer("mul", column, self.column))
        return code.address(start, code.integer("mul", j, self.bytes))

    def packed_place(self, row: str, column: str) -> str:
        """Return the pointer to a row of a column of the packed rows of P."""
        code = self.code
        start = code.address(self.packed, code.integer("mul", column, self.packed_column))
        return code.address(start, code.integer("mul", row, self.bytes))

    def write(self, xs: list[Vector], places: list[str], partial: str) -> None:
        """Store vectors to a tensor, only the numbers of its rows where they are partial."""

        def store(*, masked: bool) -> None:
            for x, place in zip(xs, places, strict=True):
                self._store_masked(x, place) if masked else self.store(x, place, aligned=False)

        self.choose(partial, lambda: store(masked=True), lambda: store(masked=False))

    def choose(self, condition: str, body: Callable[[], None], otherwise: Callable[[], None]) -> None:
        """Run one of two bodies."""
        self.code.unless(condition, otherwise)
        self.code.unless(self.code.emit(f"xor i1 {condition}, true"), body)

    def is_partial(self, column: str) -> str:
        """Tell whether a column is the last and ends with lanes of zeros."""
        last = self.code.emit(f"icmp eq i64 {column}, {self.final}")
        return self.code.emit(f"select i1 {self.whole}, i1 false, i1 {last}")

    def pack(self, base: str, first: str, last: str) -> None:
        """Copy rows of a group, whose packed row 0 is at `base`, to scratch memory."""
        code = self.code

        def column(index: str) -> None:
            start = code.address(base, code.integer("mul", index, self.bytes))
            target = self.packed_place("0", index)

            def copy(*, masked: bool) -> None:
                def row(r: str) -> None:
                    source = code.address(start, code.integer("mul", r, "%phi_l"))
                    x = self._load_masked(source) if masked else self.load(source, aligned=False)
                    self.store(x, code.address(target, code.integer("mul", r, self.bytes)))

                self.each(first, last, row)

            self.choose(self.is_partial(index), lambda: copy(masked=True), lambda: copy(masked=False))

        self.each(0, self.columns, column)

    def load_matrix(self, group: str) -> None:
        """Copy the matrix of a group to scratch memory."""

        def vector(j: str, column: str, source: str) -> None:
            target = self.place(j, column)

            def copy(*, masked: bool) -> None:
                self.store(self._load_masked(source) if masked else self.load(source, aligned=False), target)

            self.choose(self.is_partial(column), lambda: copy(masked=True), lambda: copy(masked=False))

        self._each_vector(group, vector)

    def store_matrix(self, group: str) -> None:
        """Copy the matrix of a group from scratch memory."""

        def vector(j: str, column: str, target: str) -> None:
            self.write([self.load(self.place(j, column))], [target], self.is_partial(column))

        self._each_vector(group, vector)

    def _each_vector(self, group: str, body: Callable[[str, str, str], None]) -> None:
        """Run a body for each vector of the matrix of a group, with its row, its column and its place in memory."""
        code = self.code
        row_bytes = code.integer("mul", "%n", self.size)
        base = code.address("%matrices", code.integer("mul", group, code.integer("mul", row_bytes, "%n")))

        def row(j: str) -> None:
            start = code.address(base, code.integer("mul", j, row_bytes))
            self.each(
                0,
                self.columns,
                lambda column: body(j, column, code.address(start, code.integer("mul", column, self.bytes))),
            )

        self.each(0, "%n", row)

    def clear(self, J: str) -> None:
        """Fill the tiles J, K of X with zeros, K ≥ J."""

        def tile(K: str) -> None:
            place = self.place(self.code.integer("mul", J, self.plan.lanes), K)
            for j in range(self.plan.lanes):
                self.store("zeroinitializer", self.code.address(place, j * self.bytes))

        self.each(J, self.columns, tile)

    def mirror(self, J: str) -> None:
        """Copy the tiles J, K of X, K > J, transposed, to the tiles K, J."""
        code, lanes = self.code, self.plan.lanes

        def tile(K: str) -> None:
            source = self.place(code.integer("mul", J, lanes), K)
            target = self.place(code.integer("mul", K, lanes), J)
            rows = [self.load(code.address(source, j * self.bytes)) for j in range(lanes)]
            for j, x in enumerate(self._transpose(rows)):
                self.store(x, code.address(target, j * self.bytes))

        self.each(code.integer("add", J, 1), self.columns, tile)

    def _transpose(self, rows: list[Vector]) -> list[Vector]:
        """Transpose a tile in registers, by exchanging blocks of 1, 2, 4 … numbers between rows."""
        lanes = self.plan.lanes
        distance = 1
        while distance < lanes:
            out = list(rows)
            for i in range(lanes):
                if i & distance:
                    continue
                a, b = rows[i], rows[i | distance]
                low = [lane if not lane & distance else lanes + (lane ^ distance) for lane in range(lanes)]
                high = [lane ^ distance if not lane & distance else lanes + lane for lane in range(lanes)]
                out[i], out[i | distance] = (self._shuffle(a, b, each) for each in (low, high))
            rows, distance = out, 2 * distance
        return rows

    def _shuffle(self, a: Vector, b: Vector, places: list[int]) -> Vector:
        vector, mask = self.code.vector, ", ".join(f"i32 {place}" for place in places)
        return self.code.emit(f"shufflevector {vector} {a}, {vector} {b}, <{len(places)} x i32> <{mask}>")

    @property
    def _suffix(self) -> str:
        return f"v{self.plan.lanes}f{8 * self.size}"

    def _load_masked(self, pointer: str) -> Vector:
        code = self.code
        bits = f"<{self.plan.lanes} x i1>"
        name = f"{code.vector} @llvm.masked.load.{self._suffix}.p0"
        code.declarations.add(f"declare {name}(ptr, i32, {bits}, {code.vector})")
        return code.emit(
            f"call {name}(ptr {pointer}, i32 {self.size}, {bits} {self.mask}, {code.vector} zeroinitializer)"
        )

    def _store_masked(self, x: Vector, pointer: str) -> None:
        code = self.code
        bits = f"<{self.plan.lanes} x i1>"
        name = f"void @llvm.masked.store.{self._suffix}.p0"
        code.declarations.add(f"declare {name}({code.vector}, ptr, i32, {bits})")
        code.do(f"call {name}({code.vector} {x}, ptr {pointer}, i32 {self.size}, {bits} {self.mask})")
