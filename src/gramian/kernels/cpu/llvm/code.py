"""Text of LLVM's intermediate representation: one function, written instruction by instruction."""

import struct
from collections.abc import Callable, Sequence

__all__ = ["Code", "Vector"]

Vector = str
"""The name of a value in the code."""


class Code:
    """A function under construction. Methods append an instruction and return the name of its result.

    Args:
        lanes: Numbers in a vector.
        scalar: The type of the numbers in arithmetic, 'float' or 'double'.
    """

    def __init__(self, lanes: int, scalar: str) -> None:
        self.lanes, self.scalar = lanes, scalar
        self.vector = f"<{lanes} x {scalar}>"
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self._names = 0
        self._block = "entry"

    def name(self) -> str:
        """Return a name that is not in use."""
        self._names += 1
        return f"%v{self._names}"

    def emit(self, text: str) -> str:
        """Append an instruction with a result."""
        result = self.name()
        self.lines.append(f"  {result} = {text}")
        return result

    def do(self, text: str) -> None:
        """Append an instruction without a result."""
        self.lines.append(f"  {text}")

    def label(self, name: str) -> None:
        """Begin a basic block."""
        self.lines.append(f"{name}:")
        self._block = name

    def constant(self, values: Sequence[float]) -> Vector:
        """Return a constant vector of numbers, rounded to the type of the lanes."""
        return "<" + ", ".join(f"{self.scalar} {self._literal(value)}" for value in values) + ">"

    def splat(self, value: float) -> Vector:
        """Return a constant vector of equal numbers."""
        return self.constant([value] * self.lanes)

    def broadcast(self, scalar: str) -> Vector:
        """Repeat a number in all lanes."""
        first = self.emit(f"insertelement {self.vector} poison, {self.scalar} {scalar}, i32 0")
        return self.permute(first, [0] * self.lanes)

    def permute(self, x: Vector, places: Sequence[int]) -> Vector:
        """Return the vector whose lane i is lane places[i] of x."""
        mask = ", ".join(f"i32 {place}" for place in places)
        return self.emit(f"shufflevector {self.vector} {x}, {self.vector} poison, <{len(places)} x i32> <{mask}>")

    def swap(self, x: Vector, distance: int) -> Vector:
        """Return the vector whose lane i is lane i xor distance of x."""
        return self.permute(x, [lane ^ distance for lane in range(self.lanes)]) if distance else x

    def add(self, a: Vector, b: Vector) -> Vector:
        """Return a + b, which may become part of a fused multiplication."""
        return self.emit(f"fadd contract {self.vector} {a}, {b}")

    def subtract(self, a: Vector, b: Vector) -> Vector:
        """Return a − b."""
        return self.emit(f"fsub {self.vector} {a}, {b}")

    def multiply(self, a: Vector, b: Vector) -> Vector:
        """Return a·b."""
        return self.emit(f"fmul contract {self.vector} {a}, {b}")

    def divide(self, a: Vector, b: Vector) -> Vector:
        """Return a/b."""
        return self.emit(f"fdiv {self.vector} {a}, {b}")

    def absolute(self, x: Vector) -> Vector:
        """Return |x|."""
        return self._intrinsic("fabs", x)

    def root(self, x: Vector) -> Vector:
        """Return √x."""
        return self._intrinsic("sqrt", x)

    def compare(self, relation: str, a: Vector, b: Vector) -> str:
        """Return a vector of bits, by an ordered or unordered relation such as 'olt'."""
        return self.emit(f"fcmp {relation} {self.vector} {a}, {b}")

    def select(self, condition: str, a: Vector, b: Vector) -> Vector:
        """Return a where the condition holds, otherwise b."""
        return self.emit(f"select <{self.lanes} x i1> {condition}, {self.vector} {a}, {self.vector} {b}")

    def larger(self, a: Vector, b: Vector) -> Vector:
        """Return the larger number; b where a is NaN or b is."""
        return self.select(self.compare("ogt", a, b), a, b)

    def smaller(self, a: Vector, b: Vector) -> Vector:
        """Return the smaller number; b where a is NaN or b is."""
        return self.select(self.compare("olt", a, b), a, b)

    def over_lanes(self, x: Vector, width: int, combine: Callable[[Vector, Vector], Vector]) -> Vector:
        """Combine the numbers of each `width` adjacent lanes; all of them hold the result."""
        distance = 1
        while distance < width:
            x = combine(x, self.swap(x, distance))
            distance *= 2
        return x

    def integer(self, operation: str, a: str | int, b: str | int) -> str:
        """Return the result of an operation on 64-bit integers, such as 'add' or 'mul'."""
        return self.emit(f"{operation} i64 {a}, {b}")

    def least(self, a: str | int, b: str | int) -> str:
        """Return the smaller of two integers."""
        below = self.emit(f"icmp slt i64 {a}, {b}")
        return self.emit(f"select i1 {below}, i64 {a}, i64 {b}")

    def address(self, base: str, offset: str | int) -> str:
        """Return the pointer `offset` bytes after `base`."""
        return self.emit(f"getelementptr i8, ptr {base}, i64 {offset}")

    def loop(
        self,
        first: str | int,
        last: str | int,
        step: str | int,
        body: Callable[[str, list[Vector]], list[Vector]],
        carried: Sequence[Vector] = (),
    ) -> list[Vector]:
        """Repeat a body for an index from `first` up to `last`, with vectors that each turn passes to the next.

        Args:
            first: The first index.
            last: The index after the last.
            step: The increment.
            body: A function of the index and the vectors; returns the vectors of the next turn.
            carried: The vectors of the first turn.

        Returns:
            The vectors after the last turn.
        """
        self._names += 1
        mark = self._names
        head, inside, done = f"head{mark}", f"body{mark}", f"done{mark}"
        before = self._block
        self.do(f"br label %{head}")
        self.label(head)
        place = len(self.lines)
        index = self.name()
        vectors = [self.name() for _ in carried]
        more = self.emit(f"icmp slt i64 {index}, {last}")
        self.do(f"br i1 {more}, label %{inside}, label %{done}")
        self.label(inside)
        following = body(index, vectors)
        after = self.integer("add", index, step)
        end = self._block
        self.do(f"br label %{head}")
        phis = [f"  {index} = phi i64 [ {first}, %{before} ], [ {after}, %{end} ]"]
        phis += [
            f"  {vector} = phi {self.vector} [ {start}, %{before} ], [ {update}, %{end} ]"
            for vector, start, update in zip(vectors, carried, following, strict=True)
        ]
        self.lines[place:place] = phis
        self.label(done)
        return vectors

    def unless(self, condition: str, body: Callable[[], object]) -> None:
        """Run a body where a bit is 0."""
        self._names += 1
        inside, done = f"inside{self._names}", f"after{self._names}"
        self.do(f"br i1 {condition}, label %{done}, label %{inside}")
        self.label(inside)
        body()
        self.do(f"br label %{done}")
        self.label(done)

    def _literal(self, value: float) -> str:
        """Write a number as LLVM reads it exactly: the bits of a double, also for a number in single precision."""
        if self.scalar == "float":
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"

    def _intrinsic(self, function: str, x: Vector) -> Vector:
        suffix = f"v{self.lanes}f{32 if self.scalar == 'float' else 64}"
        self.declarations.add(f"declare {self.vector} @llvm.{function}.{suffix}({self.vector})")
        return self.emit(f"call {self.vector} @llvm.{function}.{suffix}({self.vector} {x})")
