"""The function of a plan: a loop over groups, which computes one after another in scratch memory that stays in a cache.

Rows of a group are packed, as many as fit, and added to X; X becomes the factor M entry by entry; then the packed rows
are multiplied by M. Where a group has more rows, they are packed again for the second product.
"""

from collections.abc import Callable

from gramian.kernels.cpu.lanes.code import Vector
from gramian.kernels.cpu.lanes.matrices import NEAR
from gramian.kernels.cpu.outer.entries import Entries
from gramian.kernels.cpu.outer.plan import Tiles

__all__ = ["write_function"]

_ARGUMENTS = (
    "ptr %phi, ptr %out, i64 %phi_l, i64 %phi_m, i64 %out_l, i64 %out_m, i64 %length, i64 %n, i64 %block, "
    "i64 %first, i64 %last, ptr %values, ptr %flags, ptr %matrices, ptr %scratch, ptr %numbers"
)
"""Φ and the result, with their strides in bytes; l and n; rows that are packed at once; the first group and the one
after the last; μ of each group; a byte for each group; matrices [m, n, n]; scratch memory; numbers.

A step sets the byte of a group that is not near the manifold to 1, writes its X to the matrices and nothing else. A
product with matrices is computed for the groups whose byte is 1."""


def write_function(plan: Tiles) -> str:
    """Write the module of a plan, whose function is named 'run'."""
    return _Loops(plan).module()


class _Loops(Entries):
    """Writes the loop over groups."""

    def module(self) -> str:
        plan, code = self.plan, self.code
        self.prepare()
        self.read_numbers()
        self.each("%first", "%last", self._guarded if plan.mode.startswith("multiply") else self._group)
        code.do("ret void")
        attributes = f'"prefer-vector-width"="{8 * plan.vector_bytes}" "min-legal-vector-width"="512"'
        body = "\n".join(code.lines)
        declarations = "\n".join(sorted(code.declarations))
        return f"{declarations}\ndefine void @run({_ARGUMENTS}) nounwind {attributes} {{\nentry:\n{body}\n}}\n"

    def _guarded(self, group: str) -> None:
        """Multiply a group by its matrix if its byte is 1."""

        def product() -> None:
            self.load_matrix(group)
            self._multiply(group, self.code.splat(1), add=self.plan.mode == "multiply_add", packed=False)

        self.code.unless(self._flag(group), product)

    def _flag(self, group: str) -> str:
        """Tell whether the byte of a group is 0."""
        flag = self.code.emit(f"load i8, ptr {self.code.address('%flags', group)}")
        return self.code.emit(f"icmp eq i8 {flag}, 0")

    def _group(self, group: str) -> None:
        code, mode = self.code, self.plan.mode
        base = code.address("%phi", code.integer("mul", group, "%phi_m"))
        self.clear()
        self._each_block(base, self.gram, packed=False)
        self.subtract_identity()
        if mode == "residual":
            self.mirror()
            self.store_matrix(group)
        elif mode == "value":
            self._store_value(group, self.entries([self.value], None)[0])
        elif mode == "gradient":
            (value,) = self.entries([self.value], self.subgradient)
            self._store_value(group, value)
            self.mirror()
            # All of the gradient of a group whose value is not finite is NaN.
            nan = code.multiply(code.splat(0), value)
            self._multiply(group, code.multiply(self.numbers[0], code.add(code.splat(1), nan)), add=False)
        else:
            value, square = self.entries([self.value, lambda x, _: code.multiply(x, x)], None)
            self._store_value(group, value)
            near = code.compare("ole", code.root(square), code.splat(NEAR))
            self._step(group, code.emit(f"extractelement <{self.plan.lanes} x i1> {near}, i32 0"))

    def _step(self, group: str, near: str) -> None:
        """Step a group that is near the manifold, where w = 1; write X of another one."""
        code = self.code
        far = code.emit(f"xor i1 {near}, true")
        code.do(f"store i8 {code.emit(f'zext i1 {far} to i8')}, ptr {code.address('%flags', group)}")

        def step() -> None:
            self.entries([], self.prox_residual)
            self.mirror()
            self._multiply(group, code.splat(-0.5), add=self.plan.mode == "step")

        def keep() -> None:
            self.mirror()
            self.store_matrix(group)

        self.choose(near, step, keep)

    def _store_value(self, group: str, value: Vector) -> None:
        code, kind = self.code, self.plan.scalar
        number = code.emit(f"extractelement {code.vector} {value}, i32 0")
        code.do(f"store {kind} {number}, ptr {code.address('%values', code.integer('mul', group, self.size))}")

    def _multiply(self, group: str, scale: Vector, *, add: bool, packed: bool = True) -> None:
        code = self.code
        base = code.address("%phi", code.integer("mul", group, "%phi_m"))
        target = code.address("%out", code.integer("mul", group, "%out_m"))

        def block(rows: str, top: str) -> None:
            self.multiply(rows, code.address(target, code.integer("mul", top, "%out_l")), scale, add=add)

        self._each_block(base, block, packed=packed)

    def _each_block(self, base: str, body: Callable[[str, str], None], *, packed: bool) -> None:
        """Run a body for each block of packed rows; one that holds all rows of the group may be packed already."""
        code = self.code
        whole = code.emit(f"icmp sle i64 %length, %block")

        def block(top: str) -> None:
            rows = code.least(code.integer("sub", "%length", top), "%block")

            def pack() -> None:
                self.pack(code.address(base, code.integer("mul", top, "%phi_l")), rows)

            if packed:
                code.unless(whole, pack)
            else:
                pack()
            body(rows, top)

        self.each(0, "%length", block, step="%block")
