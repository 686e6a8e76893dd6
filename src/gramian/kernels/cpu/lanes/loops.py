r"""The loops of the lanes kernel: Gram products and products with small matrices, of vectors that hold whole groups.

A vector of the processor holds the n numbers of a row of one group, then those of the next. Lane j of x·swap_d(x),
where swap_d exchanges the lanes j and j xor d, is the product of the numbers j and j xor d of its group, so that the n
sums X_d[j] = Σ x_j x_(j xor d) are the Gram matrix. The same lanes hold the factors of the product with a symmetric
matrix: (P M)_j = Σ_d x_(j xor d) M_d[j]. Each costs one shuffle and one multiplication, and no number has to be moved
between memory and lanes. Where n is not a power of two, each group has lanes of zeros.

A block of groups is read once for the Gram matrices and once more, from the cache, for the product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from gramian.kernels.cpu.lanes.code import Code, Vector
from gramian.kernels.cpu.lanes.functions import EntryFunction

__all__ = ["NEAR", "Plan", "write_function"]

NEAR = 0.1
"""The ‖X‖_F up to which the proximal rule has w = 1; see `gramian.rules.prox`."""

_ROWS = 8
"""Rows of a partial sum: one long float32 sum would lose accuracy. Where the rows are a power of two apart, all of them
share the eight places of a set of the first-level cache; with 32 rows a step took up to 1.8 times as long."""

_SUMS = 8
"""Sums that are held in registers."""

_COLUMNS = 64
"""Numbers of a row that are processed before the next row tile: several cache lines."""

_STORED = {"float": ("float", 4), "double": ("double", 8), "bfloat": ("i16", 2), "half": ("i16", 2)}


@dataclass(frozen=True)
class Plan:
    """What a function computes, of which tensor."""

    n: int
    dtype: str
    """The type in memory: 'float', 'double', 'bfloat' or 'half'. Arithmetic is in float, or in double."""
    mode: str
    """'step' writes P(I − S), 'change' −PS, 'gradient' 2βPG, 'residual' X, 'multiply' PM and 'multiply_add' P + PM."""
    function: EntryFunction | None
    vector_bytes: int
    dense: bool
    """Whether the groups are adjacent, n is a power of two and all groups of a block exist."""

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
    def groups(self) -> int:
        """Groups of a block."""
        return self.vectors * self.lanes // self.width

    @property
    def blocks(self) -> int:
        """Blocks that are processed together, row tile by row tile."""
        return max(1, _COLUMNS // (self.groups * self.n))


ARGUMENTS = (
    "ptr %phi, ptr %out, i64 %phi_l, i64 %phi_m, i64 %out_l, i64 %out_m, i64 %length, i64 %count, i64 %first, "
    "i64 %last, ptr %values, ptr %failed, ptr %matrices, ptr %numbers"
)
"""Φ and the result, with their strides in bytes; l and m; the first block and the one after the last; μ of each group;
a byte for each block, 1 where a step has to be computed elsewhere; matrices [m, n, n]; numbers."""


def write_function(plan: Plan) -> str:
    """Write the module of a plan, whose function is named 'run'."""
    return _Writer(plan).module()


class _Writer:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.code = Code(plan.lanes, plan.scalar)
        self.function = cast("EntryFunction", plan.function)  # the modes that read it have one
        self.size = 8 if plan.scalar == "double" else 4
        self.stored, self.stored_size = _STORED[plan.dtype]
        self.members = [lane % plan.width < plan.n for lane in range(plan.lanes)]
        self.per_vector = plan.lanes // plan.width
        self.bytes = plan.lanes * self.size

    def module(self) -> str:
        plan, code = self.plan, self.code
        sums = plan.blocks * plan.vectors * plan.width
        scratch = code.emit(f"alloca [{sums} x {code.vector}], align 64")

        def batch(start: str, _: list[Vector]) -> list[Vector]:
            end = code.least(code.integer("add", start, plan.blocks), "%last")
            here = code.integer("sub", end, start)
            if plan.mode.startswith("multiply"):
                self._each(here, start, lambda block, place: self._load_matrices(block, self._at(scratch, place)))
            else:
                self._each(here, start, lambda _, place: self._clear(self._at(scratch, place)))
                self._tiles(here, start, lambda *where: self._gram(self._at(scratch, where[0]), *where[1:]))
                self._each(here, start, lambda block, place: self._matrices(block, self._at(scratch, place)))
            if plan.mode != "residual":
                self._tiles(here, start, lambda *where: self._apply(self._at(scratch, where[0]), *where[1:]))
            return []

        code.loop("%first", "%last", plan.blocks, batch)
        code.do("ret void")
        attributes = f'"prefer-vector-width"="{8 * plan.vector_bytes}" "min-legal-vector-width"="512"'
        body = "\n".join(code.lines)
        declarations = "\n".join(sorted(code.declarations))
        return f"{declarations}\ndefine void @run({ARGUMENTS}) nounwind {attributes} {{\nentry:\n{body}\n}}\n"

    def _at(self, scratch: str, place: str) -> str:
        offset = self.code.integer("mul", place, self.plan.vectors * self.plan.width * self.bytes)
        return self.code.address(scratch, offset)

    def _each(self, count: str, start: str, body: Callable[[str, str], None]) -> None:
        """Run a body for each block of a batch, with its index and its place in the batch."""

        def turn(place: str, _: list[Vector]) -> list[Vector]:
            body(self.code.integer("add", start, place), place)
            return []

        self.code.loop(0, count, 1, turn)

    def _tiles(self, count: str, start: str, body: Callable[[str, str, str, str], None]) -> None:
        """Run a body for each tile of rows and block, with the place, the block, the first row and the last."""
        code = self.code

        def tile(top: str, _: list[Vector]) -> list[Vector]:
            bottom = code.least(code.integer("add", top, _ROWS), "%length")
            self._each(count, start, lambda block, place: body(place, block, top, bottom))
            return []

        code.loop(0, "%length", _ROWS, tile)

    # Groups, and the numbers of a row.

    def _group_indices(self, block: str) -> list[str]:
        """Return the index of each group of a block; the last group stands in for those that do not exist."""
        code, plan = self.code, self.plan
        first = code.integer("mul", block, plan.groups)
        indices = [code.integer("add", first, i) for i in range(plan.groups)]
        if plan.dense:
            return indices
        final = code.integer("sub", "%count", 1)
        return [code.least(index, final) for index in indices]

    def _pieces(self, base: str, block: str, stride: str) -> list[str]:
        """Return the pointers to row 0 of a block: one for each vector if dense, otherwise one for each group."""
        code, plan = self.code, self.plan
        if plan.dense:
            start = code.address(base, code.integer("mul", block, plan.groups * plan.n * self.stored_size))
            return [code.address(start, v * plan.lanes * self.stored_size) for v in range(plan.vectors)]
        return [code.address(base, code.integer("mul", i, stride)) for i in self._group_indices(block)]

    def _load_row(self, pieces: list[str], offset: str) -> list[Vector]:
        """Load the vectors of a row, with zeros in the lanes between groups."""
        code, plan = self.code, self.plan
        raw = f"<{plan.lanes} x {self.stored}>"
        if plan.dense:
            loads = [code.emit(f"load {raw}, ptr {code.address(p, offset)}, align {self.stored_size}") for p in pieces]
            return [self._widen(load) for load in loads]
        kind = f"<{plan.n} x {self.stored}>"
        vectors = []
        for v in range(plan.vectors):
            x = "zeroinitializer"
            for i in range(self.per_vector):
                pointer = code.address(pieces[v * self.per_vector + i], offset)
                piece = code.emit(f"load {kind}, ptr {pointer}, align {self.stored_size}")
                lanes = range(plan.lanes)
                inside = [lane // plan.width == i and self.members[lane] for lane in lanes]
                wide = self._shuffle(
                    kind, piece, "poison", [lane % plan.width if inside[lane] else 0 for lane in lanes]
                )
                x = self._shuffle(raw, x, wide, [lane + (plan.lanes if inside[lane] else 0) for lane in lanes])
            vectors.append(self._widen(x))
        return vectors

    def _store_row(self, pieces: list[str], offset: str, vectors: list[Vector]) -> None:
        code, plan = self.code, self.plan
        raw, kind = f"<{plan.lanes} x {self.stored}>", f"<{plan.n} x {self.stored}>"
        narrow = [self._narrow(y) for y in vectors]
        if plan.dense:
            for pointer, y in zip(pieces, narrow, strict=True):
                code.do(f"store {raw} {y}, ptr {code.address(pointer, offset)}, align {self.stored_size}")
            return
        for i, pointer in enumerate(pieces):
            start = i % self.per_vector * plan.width
            part = self._shuffle(raw, narrow[i // self.per_vector], "poison", [start + j for j in range(plan.n)])
            code.do(f"store {kind} {part}, ptr {code.address(pointer, offset)}, align {self.stored_size}")

    def _shuffle(self, kind: str, a: str, b: str, places: list[int]) -> str:
        mask = ", ".join(f"i32 {place}" for place in places)
        return self.code.emit(f"shufflevector {kind} {a}, {kind} {b}, <{len(places)} x i32> <{mask}>")

    def _widen(self, x: str) -> Vector:
        """Convert the numbers in memory to those of arithmetic."""
        code, lanes = self.code, self.plan.lanes
        if self.plan.dtype == "half":
            half = code.emit(f"bitcast <{lanes} x i16> {x} to <{lanes} x half>")
            return code.emit(f"fpext <{lanes} x half> {half} to {code.vector}")
        if self.plan.dtype == "bfloat":
            bits = code.emit(f"zext <{lanes} x i16> {x} to <{lanes} x i32>")
            shifted = code.emit(f"shl <{lanes} x i32> {bits}, {self._integers(16)}")
            return code.emit(f"bitcast <{lanes} x i32> {shifted} to {code.vector}")
        return x

    def _narrow(self, y: Vector) -> str:
        """Round the numbers of arithmetic to those in memory, to the nearest, ties to even."""
        code, lanes = self.code, self.plan.lanes
        if self.plan.dtype == "half":
            half = code.emit(f"fptrunc {code.vector} {y} to <{lanes} x half>")
            return code.emit(f"bitcast <{lanes} x half> {half} to <{lanes} x i16>")
        if self.plan.dtype == "bfloat":
            kind = f"<{lanes} x i32>"
            bits = code.emit(f"bitcast {code.vector} {y} to {kind}")
            odd = code.emit(f"and {kind} {code.emit(f'lshr {kind} {bits}, {self._integers(16)}')}, {self._integers(1)}")
            bias = code.emit(f"add {kind} {odd}, {self._integers(0x7FFF)}")
            rounded = code.emit(f"lshr {kind} {code.emit(f'add {kind} {bits}, {bias}')}, {self._integers(16)}")
            nan = code.compare("uno", y, y)
            kept = code.emit(f"select <{lanes} x i1> {nan}, {kind} {self._integers(0x7FC0)}, {kind} {rounded}")
            return code.emit(f"trunc {kind} {kept} to <{lanes} x i16>")
        return y

    def _integers(self, value: int) -> str:
        return "<" + ", ".join([f"i32 {value}"] * self.plan.lanes) + ">"

    # Sums and factors, in scratch: `width` vectors for each vector of a row.

    def _slot(self, scratch: str, v: int, d: int) -> str:
        return self.code.address(scratch, (v * self.plan.width + d) * self.bytes)

    def _read(self, scratch: str) -> list[list[Vector]]:
        code, plan = self.code, self.plan
        return [
            [
                code.emit(f"load {code.vector}, ptr {self._slot(scratch, v, d)}, align {self.bytes}")
                for d in range(plan.width)
            ]
            for v in range(plan.vectors)
        ]

    def _write(self, scratch: str, sums: list[list[Vector]]) -> None:
        for v, row in enumerate(sums):
            for d, x in enumerate(row):
                self.code.do(f"store {self.code.vector} {x}, ptr {self._slot(scratch, v, d)}, align {self.bytes}")

    def _clear(self, scratch: str) -> None:
        self._write(scratch, [["zeroinitializer"] * self.plan.width] * self.plan.vectors)

    def _gram(self, scratch: str, block: str, top: str, bottom: str) -> None:
        """Add the products of some rows to the sums of a block."""
        code, plan = self.code, self.plan
        pieces = self._pieces("%phi", block, "%phi_m")

        def row(r: str, sums: list[Vector]) -> list[Vector]:
            xs = self._load_row(pieces, code.integer("mul", r, "%phi_l"))
            terms = [code.multiply(x, code.swap(x, d)) for x in xs for d in range(plan.width)]
            return [code.add(total, term) for total, term in zip(sums, terms, strict=True)]

        partial = code.loop(top, bottom, 1, row, ["zeroinitializer"] * (plan.vectors * plan.width))
        totals = [x for row in self._read(scratch) for x in row]
        added = [code.add(a, b) for a, b in zip(totals, partial, strict=True)]
        self._write(scratch, [added[v * plan.width : (v + 1) * plan.width] for v in range(plan.vectors)])

    def _apply(self, scratch: str, block: str, top: str, bottom: str) -> None:
        """Multiply some rows of a block by its factors."""
        code, plan = self.code, self.plan

        def work() -> None:
            factors = self._read(scratch)
            sources = self._pieces("%phi", block, "%phi_m")
            targets = sources if plan.mode == "step" else self._pieces("%out", block, "%out_m")

            def row(r: str, _: list[Vector]) -> list[Vector]:
                offset = code.integer("mul", r, "%phi_l")
                xs = self._load_row(sources, offset)
                ys = []
                for x, factor in zip(xs, factors, strict=True):
                    y = code.multiply(x, factor[0])
                    for d in range(1, plan.width):
                        y = code.add(code.multiply(code.swap(x, d), factor[d]), y)
                    # The change is small: adding it to x at the end rounds once.
                    ys.append(code.add(x, y) if plan.mode in ("step", "multiply_add") else y)
                self._store_row(targets, offset if plan.mode == "step" else code.integer("mul", r, "%out_l"), ys)
                return []

            code.loop(top, bottom, 1, row)

        if plan.mode in ("step", "change"):
            failed = code.emit(f"load i8, ptr {code.address('%failed', block)}")
            code.unless(code.emit(f"icmp ne i8 {failed}, 0"), work)
        else:
            work()

    # The matrices of a block.

    def _load_matrices(self, block: str, scratch: str) -> None:
        """Read the factors M_d[j] = M[j xor d, j] of a block."""
        code, plan = self.code, self.plan
        indices = self._group_indices(block)
        factors = [["zeroinitializer"] * plan.width for _ in range(plan.vectors)]
        for i, index in enumerate(indices):
            base = code.address("%matrices", code.integer("mul", index, plan.n * plan.n * self.size))
            v, start = i // self.per_vector, i % self.per_vector * plan.width
            for d in range(plan.width):
                for j in range(plan.n):
                    if j ^ d < plan.n:
                        place = code.address(base, ((j ^ d) * plan.n + j) * self.size)
                        entry = code.emit(f"load {plan.scalar}, ptr {place}")
                        factors[v][d] = code.emit(
                            f"insertelement {code.vector} {factors[v][d]}, {plan.scalar} {entry}, i32 {start + j}"
                        )
        self._write(scratch, factors)

    def _store_matrices(self, block: str, sums: list[list[Vector]]) -> None:
        code, plan = self.code, self.plan
        for i, index in enumerate(self._group_indices(block)):
            base = code.address("%matrices", code.integer("mul", index, plan.n * plan.n * self.size))
            v, start = i // self.per_vector, i % self.per_vector * plan.width
            for j in range(plan.n):
                for k in range(plan.n):
                    entry = code.emit(f"extractelement {code.vector} {sums[v][j ^ k]}, i32 {start + j}")
                    code.do(f"store {plan.scalar} {entry}, ptr {code.address(base, (j * plan.n + k) * self.size)}")

    def _matrices(self, block: str, scratch: str) -> None:
        """Turn the sums of a block, its Gram matrices, into the factors; write the values of its groups."""
        code, plan = self.code, self.plan
        identity = code.constant([float(member) for member in self.members])
        grams = self._read(scratch)
        residuals = [[code.subtract(gram[0], identity), *gram[1:]] for gram in grams]
        if plan.mode == "residual":
            self._store_matrices(block, residuals)
            return
        numbers = [
            code.broadcast(code.emit(f"load {plan.scalar}, ptr {code.address('%numbers', i * self.size)}"))
            for i in range(1 + self.function.count)
        ]
        values = [self._value(X, numbers[1:]) for X in residuals]
        indices = self._group_indices(block)
        for i, index in enumerate(indices):
            v, start = i // self.per_vector, i % self.per_vector * plan.width
            value = code.emit(f"extractelement {code.vector} {values[v]}, i32 {start}")
            place = code.address("%values", code.integer("mul", index, self.size))
            code.do(f"store {plan.scalar} {value}, ptr {place}")
        if plan.mode == "gradient":
            self._write(scratch, [self._gradient(X, mu, numbers) for X, mu in zip(residuals, values, strict=True)])
            return
        bad = code.splat(0)
        factors = []
        for gram, X, mu in zip(grams, residuals, values, strict=True):
            factor, check = self._step_factors(gram, X, numbers)
            factors.append(factor)
            bad = code.add(bad, code.multiply(code.splat(0), code.add(check, mu)))  # 0·∞ is NaN
        self._write(scratch, factors)
        bad = code.over_lanes(bad, plan.lanes, code.add)
        failed = code.emit(f"fcmp uno {plan.scalar} {code.emit(f'extractelement {code.vector} {bad}, i32 0')}, 0.0")
        code.do(f"store i8 {code.emit(f'zext i1 {failed} to i8')}, ptr {code.address('%failed', block)}")

    def _sum(self, terms: list[Vector]) -> Vector:
        total = terms[0]
        for term in terms[1:]:
            total = self.code.add(total, term)
        return total

    def _value(self, X: list[Vector], numbers: list[Vector]) -> Vector:
        code, plan = self.code, self.plan
        terms = [self.function.value(code, x, numbers, on_diagonal=d == 0) for d, x in enumerate(X)]
        return code.over_lanes(self._sum(terms), plan.width, code.add)

    def _gradient(self, X: list[Vector], value: Vector, numbers: list[Vector]) -> list[Vector]:
        code = self.code
        # All factors of a group whose value is not finite are NaN.
        scale = code.multiply(numbers[0], code.add(code.splat(1), code.multiply(code.splat(0), value)))
        return [
            code.multiply(scale, self.function.subgradient(code, x, numbers[1:], on_diagonal=d == 0))
            for d, x in enumerate(X)
        ]

    def _step_factors(self, gram: list[Vector], X: list[Vector], numbers: list[Vector]) -> tuple[list[Vector], Vector]:
        """Return −S as `gramian.rules.prox` defines it, and a vector that is not finite where S is not."""
        code, plan = self.code, self.plan
        one = code.splat(1)

        def frobenius(M: list[Vector]) -> Vector:
            return code.root(code.over_lanes(self._sum([code.multiply(x, x) for x in M]), plan.width, code.add))

        def row_sums(M: list[Vector]) -> Vector:
            sums = self._sum([code.absolute(x) for x in M])
            return code.over_lanes(sums, plan.width, code.larger)

        near = code.compare("ole", frobenius(X), code.splat(NEAR))
        norm = row_sums(gram)
        w = code.select(near, one, code.larger(one, norm))
        tau = code.multiply(numbers[0], w)
        C = [
            self.function.prox_residual(code, x, tau, numbers[1:], on_diagonal=d == 0)
            for d, x in enumerate(X)
        ]  # fmt: skip
        size = code.select(code.compare("ole", frobenius(C), w), w, code.larger(w, row_sums(C)))
        scale = code.divide(code.splat(-0.5), size)
        return [code.multiply(scale, x) for x in C], code.add(norm, size)
