r"""The loops of the lanes kernel: Gram products and products with small matrices, of vectors that hold whole groups.

A vector of the processor holds the n numbers of a row of one group, then those of the next. Lane j of x·swap_d(x),
where swap_d exchanges the lanes j and j xor d, is the product of the numbers j and j xor d of its group, so that the n
sums X_d[j] = Σ x_j x_(j xor d) are the Gram matrix. The same lanes hold the factors of the product with a symmetric
matrix: (P M)_j = Σ_d x_(j xor d) M_d[j]. Each costs one shuffle and one multiplication, and no number has to be moved
between memory and lanes. Where n is not a power of two, each group has lanes of zeros.

A block of groups is read once for the Gram matrices and once more, from the cache, for the product.
"""

from collections.abc import Callable

from gramian.kernels.cpu.lanes.plan import Plan
from gramian.kernels.cpu.lanes.stacked import Stacked
from gramian.kernels.cpu.llvm.claims import write_share
from gramian.kernels.cpu.llvm.code import Vector

__all__ = ["write_function"]

_ROWS = 8
"""Rows of a partial sum. If the distance of rows is a power of two, all of them share the eight ways of one set of the
first-level cache; with 32 rows a step took up to 1.8 times as long."""

_MORE_ROWS, _LONG = 32, 1024
"""Rows of a partial sum where l exceeds 1024: with 8, the sum of many partial sums in float32 would lose accuracy."""

_CACHE = 1 << 14
"""Bytes of whole groups that are read twice: half of a first-level cache."""

_ARGUMENTS = (
    "ptr %phi, ptr %out, i64 %phi_l, i64 %phi_m, i64 %phi_n, i64 %out_l, i64 %out_m, i64 %out_n, i64 %length, "
    "i64 %count, i64 %first, i64 %last, ptr %values, ptr %failed, ptr %matrices, ptr %numbers"
)
"""Φ and the result, with their strides in bytes; l and m; the first block and the one after the last; μ of each group;
a byte for each block, 1 where a step has to be computed elsewhere; matrices [m, n, n]; numbers."""


def write_function(plan: Plan) -> str:
    """Write the module of a plan, whose functions are named 'run' and 'share'."""
    return _Loops(plan).module()


class _Loops(Stacked):
    """Writes the loops over blocks and rows."""

    def module(self) -> str:
        plan, code = self.plan, self.code
        sums = plan.blocks * plan.vectors * plan.width
        long = code.emit(f"icmp sgt i64 %length, {_LONG}")
        self.rows = code.emit(f"select i1 {long}, i64 {_MORE_ROWS}, i64 {_ROWS}")
        scratch = code.emit(f"alloca [{sums} x {code.vector}], align 64")

        size = self._batch_size()

        def batch(start: str, _: list[Vector]) -> list[Vector]:
            end = code.least(code.integer("add", start, size), "%last")
            here = code.integer("sub", end, start)
            if plan.mode.startswith("multiply"):
                self._each(here, start, lambda block, place: self._load_matrices(block, self._at(scratch, place)))
            else:
                self._each(here, start, lambda _, place: self._clear(self._at(scratch, place)))
                gram = {"rows": self._gram, "columns": self.gram_of_columns, "stack": self.gram_of_stack}
                self._products(here, start, scratch, gram[plan.order])
                self._each(here, start, lambda block, place: self._matrices(block, self._at(scratch, place)))
            if plan.mode != "residual":
                multiply = {"rows": self._apply, "columns": self.multiply_columns, "stack": self.multiply_stack}
                self._products(here, start, scratch, self._unless_failed(multiply[plan.order]))
            return []

        code.loop("%first", "%last", size, batch)
        code.do("ret void")
        attributes = f'"prefer-vector-width"="{8 * plan.vector_bytes}" "min-legal-vector-width"="512"'
        body = "\n".join(code.lines)
        declarations = "\n".join(sorted(code.declarations))
        run = f"{declarations}\ndefine void @run({_ARGUMENTS}) nounwind {attributes} {{\nentry:\n{body}\n}}\n"
        return run + write_share(_ARGUMENTS, attributes)

    def _batch_size(self) -> str | int:
        """Return how many blocks are processed together: whole groups only as far as they stay in the cache."""
        code, plan = self.code, self.plan
        if plan.order == "rows":
            return plan.blocks
        block = code.integer("mul", "%length", plan.groups * plan.n * self.stored_size)
        fitting = code.integer("udiv", _CACHE, code.integer("add", block, 1))
        return code.least(code.integer("add", fitting, 1), plan.blocks)

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
            bottom = code.least(code.integer("add", top, self.rows), "%length")
            self._each(count, start, lambda block, place: body(place, block, top, bottom))
            return []

        code.loop(0, "%length", self.rows, tile)

    def _gram(self, scratch: str, block: str, top: str, bottom: str) -> None:
        """Add the products of some rows to the sums of a block."""
        code, plan = self.code, self.plan
        pieces = self._pieces("%phi", block, "%phi_m")

        for part in plan.parts:

            def row(r: str, sums: list[Vector], part: range = part) -> list[Vector]:
                xs = self._load_row(pieces, code.integer("mul", r, "%phi_l"))
                if part.start == 0:
                    self._prefetch(pieces, code.integer("mul", code.integer("add", r, self.rows), "%phi_l"), write=0)
                terms = [term for x in xs for term in self._pairs(x, part)]
                return [code.add(total, term) for total, term in zip(sums, terms, strict=True)]

            partial = code.loop(top, bottom, 1, row, ["zeroinitializer"] * (plan.vectors * len(part)))
            slots = [self._slot(scratch, v, d) for v in range(plan.vectors) for d in part]
            for slot, x in zip(slots, partial, strict=True):
                total = code.emit(f"load {code.vector}, ptr {slot}, align {self.bytes}")
                code.do(f"store {code.vector} {code.add(total, x)}, ptr {slot}, align {self.bytes}")

    def _prefetch(self, pieces: list[str], offset: str, *, write: int) -> None:
        """Ask for a row of the next tile: rows are often a page apart, further than processors read ahead."""
        code = self.code
        code.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        step = max(1, 64 // (self.plan.lanes * self.stored_size)) if self.plan.dense else 1
        for piece in pieces[::step]:
            code.do(f"call void @llvm.prefetch.p0(ptr {code.address(piece, offset)}, i32 {write}, i32 3, i32 1)")

    def _products(self, count: str, start: str, scratch: str, body: Callable[..., None]) -> None:
        """Run a body for each block of a batch, or for each tile of rows and block."""
        if self.plan.order == "rows":
            self._tiles(count, start, lambda place, *where: body(self._at(scratch, place), *where))
        else:
            self._each(count, start, lambda block, place: body(self._at(scratch, place), block))

    def _unless_failed(self, body: Callable[..., None]) -> Callable[..., None]:
        """Return a body that does nothing for a block whose step has to be computed elsewhere."""

        def guarded(scratch: str, block: str, *rest: str) -> None:
            code = self.code
            if self.plan.mode not in ("step", "change"):
                body(scratch, block, *rest)
                return
            failed = code.emit(f"load i8, ptr {code.address('%failed', block)}")
            code.unless(code.emit(f"icmp ne i8 {failed}, 0"), lambda: body(scratch, block, *rest))

        return guarded

    def _apply(self, scratch: str, block: str, top: str, bottom: str) -> None:
        """Multiply some rows of a block by its factors."""
        code, plan = self.code, self.plan
        factors = self._read(scratch)
        sources = self._pieces("%phi", block, "%phi_m")
        targets = sources if plan.mode == "step" else self._pieces("%out", block, "%out_m")

        def row(r: str, _: list[Vector]) -> list[Vector]:
            offset = code.integer("mul", r, "%phi_l")
            xs = self._load_row(sources, offset)
            if plan.mode != "step":
                self._prefetch(targets, code.integer("mul", code.integer("add", r, self.rows), "%out_l"), write=1)
            ys = [self._times(x, factor) for x, factor in zip(xs, factors, strict=True)]
            self._store_row(targets, offset if plan.mode == "step" else code.integer("mul", r, "%out_l"), ys)
            return []

        code.loop(top, bottom, 1, row)
