"""The matrices of a block of groups: sums in scratch memory become the factors by which its rows are multiplied.

The scratch memory holds `width` vectors for each vector of a row: X_d or M_d for each d, as `loops` defines them.
"""

from collections.abc import Iterable
from typing import cast

from gramian.kernels.cpu.lanes.plan import Plan
from gramian.kernels.cpu.lanes.rows import Rows
from gramian.kernels.cpu.llvm.code import Vector
from gramian.kernels.cpu.llvm.functions import EntryFunction
from gramian.kernels.norms import NEAR

__all__ = ["Matrices"]


class Matrices(Rows):
    """Writes the instructions between the two products."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.function = cast("EntryFunction", plan.function)  # the modes that read it have one
        self.bytes = plan.lanes * self.size

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

    def _pairs(self, x: Vector, part: Iterable[int]) -> list[Vector]:
        """Return the products x_j x_(j xor d) for some d."""
        return [self.code.multiply(x, self.code.swap(x, d)) for d in part]

    def _times(self, x: Vector, factors: list[Vector]) -> Vector:
        """Multiply by the factors M_d, and add x where the result is P + PM."""
        code = self.code
        y = code.multiply(x, factors[0])
        for d in range(1, self.plan.width):
            y = code.add(code.multiply(code.swap(x, d), factors[d]), y)
        # The change is small: adding it to x at the end rounds once.
        return code.add(x, y) if self.plan.mode in ("step", "multiply_add") else y

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
