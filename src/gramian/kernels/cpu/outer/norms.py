"""The estimate of the norm of a matrix in scratch memory, by which a step far from the manifold is limited."""

from gramian.kernels.cpu.llvm.code import Vector
from gramian.kernels.cpu.outer.entries import Entries
from gramian.kernels.norms import POWER_STEPS, SMALL

__all__ = ["ROOM", "Norms"]

ROOM = 5
"""Vectors of length n in scratch memory."""

_TINY = {"float": 2.0**-126, "double": 2.0**-1022}


class Norms(Entries):
    """Writes the instructions of `gramian.kernels.norms.spectral_norm`."""

    def spectral_norm(self) -> Vector:
        """Return the estimate in all lanes; not finite if a sum of a column is not."""
        code = self.code
        sums, tiny = self._vector(0), code.splat(_TINY[self.plan.scalar])
        total, largest = self._column_sums(sums)
        bound, heaviest = self._largest(sums)
        unit = code.larger(bound, tiny)
        index = code.emit(f"fptosi {self.plan.scalar} {self._first(heaviest)} to i64")
        chirp = code.address("%numbers", (1 + self.function.count) * self.size)
        vectors = [self._vector(i) for i in (1, 2)]

        def start(column: str) -> None:
            offset = code.integer("mul", column, self.bytes)
            self.store(code.divide(self.load(self.place(index, column)), unit), code.address(vectors[0], offset))
            self.store(self.load(code.address(chirp, offset), aligned=False), code.address(vectors[1], offset))

        self.each(0, self.columns, start)
        targets = [self._vector(i) for i in (3, 4)]
        for _ in range(POWER_STEPS):
            norms = [self._length(vector) for vector in vectors]
            for vector, norm in zip(vectors, norms, strict=True):
                self._divide(vector, code.larger(norm, tiny), unit)
            self._times(vectors, targets)
            vectors, targets = targets, vectors
        power = code.larger(*(self._length(vector) for vector in vectors))
        estimate = code.smaller(code.larger(code.multiply(power, unit), largest), bound)
        few = code.emit(f"icmp sle i64 %n, {SMALL}")
        estimate = code.emit(f"select i1 {few}, {code.vector} {bound}, {code.vector} {estimate}")
        # 0·∞ is NaN.
        return code.add(estimate, code.multiply(code.splat(0), total))

    def _column_sums(self, sums: str) -> list[Vector]:
        """Store the absolute sums of columns; return their sum, and the largest absolute entry."""
        code = self.code

        def column(K: str, carried: list[Vector]) -> list[Vector]:
            start = self.place("0", K)

            def row(j: str, carried: list[Vector]) -> list[Vector]:
                x = code.absolute(self.load(code.address(start, code.integer("mul", j, self.bytes))))
                return [code.add(carried[0], x), code.larger(x, carried[1])]

            here, largest = code.loop(0, "%n", 1, row, ["zeroinitializer", carried[1]])
            self.store(here, code.address(sums, code.integer("mul", K, self.bytes)))
            return [code.add(carried[0], here), largest]

        total, largest = code.loop(0, self.columns, 1, column, ["zeroinitializer"] * 2)
        lanes = self.plan.lanes
        return [code.over_lanes(total, lanes, code.add), code.over_lanes(largest, lanes, code.larger)]

    def _largest(self, sums: str) -> list[Vector]:
        """Return the largest of n numbers and its index, in all lanes."""
        code = self.code

        def entry(j: str, best: list[Vector]) -> list[Vector]:
            x = self.load_scalar(code.address(sums, code.integer("mul", j, self.size)))
            better = code.compare("ogt", x, best[0])
            index = code.broadcast(code.emit(f"sitofp i64 {j} to {self.plan.scalar}"))
            return [code.select(better, x, best[0]), code.select(better, index, best[1])]

        return code.loop(0, "%n", 1, entry, [code.splat(0), code.splat(0)])

    def _length(self, vector: str) -> Vector:
        """Return the Euclidean length of a vector, in all lanes."""
        code = self.code

        def part(column: str, sums: list[Vector]) -> list[Vector]:
            x = self.load(code.address(vector, code.integer("mul", column, self.bytes)))
            return [code.add(sums[0], code.multiply(x, x))]

        (square,) = code.loop(0, self.columns, 1, part, ["zeroinitializer"])
        return code.root(code.over_lanes(square, self.plan.lanes, code.add))

    def _divide(self, vector: str, *divisors: Vector) -> None:
        code = self.code

        def part(column: str) -> None:
            place = code.address(vector, code.integer("mul", column, self.bytes))
            x = self.load(place)
            for divisor in divisors:
                x = code.divide(x, divisor)
            self.store(x, place)

        self.each(0, self.columns, part)

    def _times(self, vectors: list[str], targets: list[str]) -> None:
        """Multiply row vectors by the matrix."""
        code = self.code

        def column(K: str) -> None:
            start = self.place("0", K)

            def entry(j: str, sums: list[Vector]) -> list[Vector]:
                row = self.load(code.address(start, code.integer("mul", j, self.bytes)))
                offset = code.integer("mul", j, self.size)
                factors = [self.load_scalar(code.address(vector, offset)) for vector in vectors]
                return [code.add(a, code.multiply(x, row)) for a, x in zip(sums, factors, strict=True)]

            products = code.loop(0, "%n", 1, entry, ["zeroinitializer"] * len(vectors))
            for target, y in zip(targets, products, strict=True):
                self.store(y, code.address(target, code.integer("mul", K, self.bytes)))

        self.each(0, self.columns, column)

    def _vector(self, i: int) -> str:
        """Return the place of a vector, after the packed rows."""
        code = self.code
        start = code.address(self.packed, code.integer("mul", self.columns, self.packed_column))
        return code.address(start, code.integer("mul", self.width, i * self.size))

    def _first(self, x: Vector) -> str:
        return self.code.emit(f"extractelement {self.code.vector} {x}, i32 0")
