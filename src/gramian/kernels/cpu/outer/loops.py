"""The function of a plan: a loop over groups, which computes one after another in scratch memory that stays in a cache.

Rows of a group are packed, as many as fit, and added to X; X becomes the factor M entry by entry; then the packed rows
are multiplied by M. Where a group has more rows, they are packed again for the second product.
"""

from collections.abc import Callable

from gramian.kernels.cpu.llvm.claims import write_share
from gramian.kernels.cpu.llvm.code import Vector
from gramian.kernels.cpu.outer.entries import Entries, Function
from gramian.kernels.cpu.outer.norms import Norms
from gramian.kernels.cpu.outer.plan import Tiles
from gramian.kernels.cpu.outer.products import Span

__all__ = ["ARGUMENTS", "module", "write_function"]

ARGUMENTS = (
    "ptr %phi, ptr %out, i64 %phi_l, i64 %phi_m, i64 %out_l, i64 %out_m, i64 %length, i64 %n, i64 %block, "
    "i64 %first, i64 %last, ptr %values, ptr %flags, ptr %matrices, ptr %scratch, ptr %numbers"
)
"""Φ and the result, with their strides in bytes; l and n; rows that are packed at once; the first group and the one
after the last; μ of each group; a byte for each group; matrices [m, n, n]; scratch memory; numbers.

A step sets the byte of a group whose Gram matrix is not finite to 1 and does not write the group. The numbers are 2β or
τ, those of the penalty, and for a step the n numbers of a fixed vector, with zeros up to the next whole vector."""


def write_function(plan: Tiles) -> str:
    """Write the module of a plan, whose functions are named 'run' and 'share'."""
    loops = _Loops(plan)
    loops.all_groups()
    return module(loops)


def module(loops: Entries) -> str:
    """Return the text of a module with this function, and the one through which threads share it."""
    code, bits = loops.code, 8 * loops.plan.vector_bytes
    code.do("ret void")
    attributes = f'"prefer-vector-width"="{bits}" "min-legal-vector-width"="512"'
    body, declarations = ("\n".join(lines) for lines in (code.lines, sorted(code.declarations)))
    run = f"{declarations}\ndefine void @run({ARGUMENTS}) nounwind {attributes} {{\nentry:\n{body}\n}}\n"
    return run + write_share(ARGUMENTS, attributes)


class _Loops(Norms):
    """Writes the loop over groups."""

    def all_groups(self) -> None:
        """Write all instructions."""
        self.prepare()
        self.read_numbers()
        self.each("%first", "%last", self._product if self.plan.mode.startswith("multiply") else self._group)

    def _product(self, group: str) -> None:
        """Multiply a group by its matrix."""
        self.load_matrix(group)
        self._multiply(group, self.code.splat(1), add=self.plan.mode == "multiply_add", packed=False)

    def _group(self, group: str) -> None:
        code, mode = self.code, self.plan.mode
        self._gram(group)
        if mode == "residual":
            self._each_row(self.mirror)
            self.store_matrix(group)
            return
        gradient = mode == "gradient"
        terms = [self.value, self.square] if mode in ("step", "change") else [self.value]
        value, *squares = self._sums(terms, self.subgradient if gradient else None)
        self.store_value(value, code.address("%values", code.integer("mul", group, self.size)))
        if gradient:
            self._each_row(self.mirror)
            self._multiply(group, self.gradient_scale(value), add=False)
        elif mode != "value":
            self._step(group, self.is_near(squares[0]))

    def _step(self, group: str, near: str) -> None:
        """Step a group as `gramian.rules.prox` defines it, unless its X is not finite."""
        code = self.code
        turns = code.emit(f"select i1 {near}, i64 0, i64 1")  # of loops that run only if the group is not near
        (norm,) = code.loop(0, turns, 1, lambda *_: [self._gram_norm()], [code.splat(1)])
        infinite = self.holds("uno", code.multiply(code.splat(0), norm), norm)
        self.store_flag(infinite, code.address("%flags", group))
        w = code.larger(norm, code.splat(1))

        def step() -> None:
            self._sums([], self.prox_residual(code.multiply(self.numbers[0], w)))
            self._each_row(self.mirror)
            (scale,) = code.loop(0, turns, 1, lambda *_: [self._scaled(w)], [code.splat(-0.5)])
            self._multiply(group, scale, add=self.plan.mode == "step")

        code.unless(infinite, step)

    def _gram_norm(self) -> Vector:
        """Return ‖PᵀP‖₂."""
        self._each_row(self.mirror)
        self._each_row(lambda J: self.shift_diagonal(J, 1.0))
        norm = self.spectral_norm()
        self._each_row(lambda J: self.shift_diagonal(J, -1.0))
        return norm

    def _scaled(self, w: Vector) -> Vector:
        """Divide C by −2·max(w, ‖C‖₂), so that no product with it overflows; return the scale that is left, 1."""
        code = self.code
        factor = code.divide(code.splat(-0.5), self._limit(w))
        self._sums([], lambda x, _: code.multiply(x, factor))
        self._each_row(self.mirror)
        return code.splat(1)

    def _limit(self, w: Vector) -> Vector:
        """Return max(w, ‖C‖₂)."""
        code = self.code
        (square,) = self._sums([self.square], None)
        within = self.holds("ole", code.root(square), w)  # ‖C‖₂ ≤ ‖C‖_F ≤ w
        turns = code.emit(f"select i1 {within}, i64 0, i64 1")
        return code.loop(0, turns, 1, lambda *_: [code.larger(self.spectral_norm(), w)], [w])[0]

    def _gram(self, group: str) -> None:
        self._each_row(self.clear)

        def block(rows: str, _: str) -> None:
            self.each_depth(rows, lambda top: self._each_row(lambda J: self.gram(J, rows, top)))

        self._each_block(group, block, packed=False)
        self._each_row(lambda J: self.shift_diagonal(J, -1.0))

    def _sums(self, terms: list[Function], update: Function | None) -> list[Vector]:
        """Sum functions over all entries of X; all lanes hold the sums."""
        code = self.code

        def row(J: str, sums: list[Vector]) -> list[Vector]:
            return [code.add(a, b) for a, b in zip(sums, self.entries(J, terms, update), strict=True)]

        sums = code.loop(0, self.columns, 1, row, ["zeroinitializer"] * len(terms))
        return [code.over_lanes(x, self.plan.lanes, code.add) for x in sums]

    def _each_row(self, body: Callable[[str], None]) -> None:
        """Run a body for each row of tiles."""
        self.each(0, self.columns, body)

    def _multiply(self, group: str, scale: Vector, *, add: bool, packed: bool = True) -> None:
        code = self.code
        target = code.address("%out", code.integer("mul", group, "%out_m"))

        def block(rows: str, top: str) -> None:
            self.multiply(Span("0", rows), code.address(target, code.integer("mul", top, "%out_l")), scale, add=add)

        self._each_block(group, block, packed=packed)

    def _each_block(self, group: str, body: Callable[[str, str], None], *, packed: bool) -> None:
        """Pack each block of rows and run a body; a block that holds all rows of the group may be packed already."""
        code = self.code
        base = code.address("%phi", code.integer("mul", group, "%phi_m"))
        whole = code.emit("icmp sle i64 %length, %block")

        def block(top: str) -> None:
            rows = code.least(code.integer("sub", "%length", top), "%block")

            def pack() -> None:
                self.pack(code.address(base, code.integer("mul", top, "%phi_l")), "0", rows)

            if packed:
                code.unless(whole, pack)
            else:
                pack()
            body(rows, top)

        self.each(0, "%length", block, step="%block")
