"""The phases of a step or gradient of one large group, each a loop over independent items that several threads share.

Where there are fewer groups than threads can share, the rows are packed first; then each row of tiles of X is computed;
each becomes the factor M when all of X is known; then blocks of rows are multiplied by M. The results
have the same bits as those of `loops`. A group that is not near the manifold is not stepped, and its byte set to 1.
"""

from collections.abc import Callable

from gramian.kernels.cpu.llvm.code import Vector
from gramian.kernels.cpu.outer.entries import Entries, Function
from gramian.kernels.cpu.outer.loops import module
from gramian.kernels.cpu.outer.plan import Tiles
from gramian.kernels.cpu.outer.products import Span

__all__ = ["ROWS", "write_phase"]

ROWS = 64
"""Most rows of an item that packs or multiplies rows."""


def write_phase(plan: Tiles, phase: str) -> str:
    """Write the module of a phase: 'pack', 'gram', 'factor' or 'multiply'.

    The arguments of its function 'run' are those of `loops` for one group, with all rows packed at once, and the items
    instead of the groups.
    """
    phases = _Phases(plan)
    phases.prepare()
    phases.read_numbers()
    phases.each("%first", "%last", getattr(phases, f"{phase}_item"))
    return module(phases)


class _Phases(Entries):
    """Writes the body of each phase."""

    @property
    def _terms(self) -> list[Function]:
        """What is summed over the entries of X."""
        return [self.value, self.square] if self._is_step else [self.value]

    @property
    def _is_step(self) -> bool:
        return self.plan.mode in ("step", "change")

    def pack_item(self, item: str) -> None:
        """Pack rows."""
        self.pack("%phi", *self._span(item))

    def gram_item(self, J: str) -> None:
        """Compute a row of tiles of X, and its sums; for a gradient, replace it by one of G."""
        self.clear(J)
        self.each_depth("%length", lambda top: self.gram(J, "%length", top))
        self.shift_diagonal(J, -1.0)
        update = self.subgradient if self.plan.mode == "gradient" else None
        for i, x in enumerate(self.entries(J, self._terms, update)):
            self.store(x, self._slot(J, i))

    def factor_item(self, J: str) -> None:
        """Complete a row of tiles of the factor M; a step turns X into it, unless the group is far."""
        code = self.code
        value, *squares = self._totals()
        if self._is_step:
            near = self.is_near(squares[0])
            far = code.emit(f"xor i1 {near}, true")
            self._once(J, lambda: (self.store_value(value, "%values"), self.store_flag(far, "%flags")))
            code.unless(far, lambda: self.entries(J, [], self.prox_residual(self.numbers[0])))
        else:
            self._once(J, lambda: self.store_value(value, "%values"))
        self.mirror(J)

    def multiply_item(self, item: str) -> None:
        """Multiply rows by M, unless the group is not near the manifold."""
        code = self.code
        rows = self._span(item)
        if not self._is_step:
            self.multiply(rows, "%out", self.gradient_scale(self._totals()[0]), add=False)
            return
        far = code.emit(f"icmp ne i8 {code.emit('load i8, ptr %flags')}, 0")
        scale = code.splat(-0.5)
        code.unless(far, lambda: self.multiply(rows, "%out", scale, add=self.plan.mode == "step"))

    def _once(self, item: str, store: Callable[[], object]) -> None:
        """Store the results of the group, in the first item."""
        self.code.unless(self.code.emit(f"icmp ne i64 {item}, 0"), store)

    def _span(self, item: str) -> Span:
        """Return the rows of an item."""
        code = self.code
        items = code.integer("udiv", code.integer("add", "%length", ROWS - 1), ROWS)
        ends = [code.integer("mul", "%length", each) for each in (item, code.integer("add", item, 1))]
        return Span(*(code.integer("udiv", end, items) for end in ends))

    def _slot(self, J: str, i: int) -> str:
        """Return the place of the sums of a row of tiles, after the packed rows."""
        code = self.code
        start = code.address(self.packed, code.integer("mul", self.columns, self.packed_column))
        return code.address(start, code.integer("mul", code.integer("add", code.integer("mul", J, 2), i), self.bytes))

    def _totals(self) -> list[Vector]:
        """Add the sums of all rows of tiles; all lanes hold the totals."""
        code = self.code

        def row(J: str, sums: list[Vector]) -> list[Vector]:
            return [code.add(total, self.load(self._slot(J, i))) for i, total in enumerate(sums)]

        sums = code.loop(0, self.columns, 1, row, ["zeroinitializer"] * len(self._terms))
        return [code.over_lanes(x, self.plan.lanes, code.add) for x in sums]
