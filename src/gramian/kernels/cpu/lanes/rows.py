"""Rows of a block of groups: from memory to the lanes of vectors, and back."""

from gramian.kernels.cpu.lanes.plan import Plan
from gramian.kernels.cpu.llvm.code import Code, Vector

__all__ = ["Rows"]

_STORED = {"float": ("float", 4), "double": ("double", 8), "bfloat": ("i16", 2), "half": ("i16", 2)}


class Rows:
    """Writes the instructions that load and store rows.

    Args:
        plan: What the function computes.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.code = Code(plan.lanes, plan.scalar)
        self.size = 8 if plan.scalar == "double" else 4
        self.stored, self.stored_size = _STORED[plan.dtype]
        self.members = [lane % plan.width < plan.n for lane in range(plan.lanes)]
        self.per_vector = plan.lanes // plan.width

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
        if plan.dense and plan.n == plan.width:
            start = code.address(base, code.integer("mul", block, plan.groups * plan.n * self.stored_size))
            return [code.address(start, v * plan.lanes * self.stored_size) for v in range(plan.vectors)]
        return [code.address(base, code.integer("mul", i, stride)) for i in self._group_indices(block)]

    def _load_row(self, pieces: list[str], offset: str) -> list[Vector]:
        """Load the vectors of a row, with zeros in the lanes between groups."""
        code, plan = self.code, self.plan
        pointers = [code.address(piece, offset) for piece in pieces]
        if plan.dense and plan.n == plan.width:
            raw = f"<{plan.lanes} x {self.stored}>"
            loads = [code.emit(f"load {raw}, ptr {pointer}, align {self.stored_size}") for pointer in pointers]
            return [self._widen(load) for load in loads]
        read = plan.width if plan.dense else plan.n
        parts = [pointers[v * self.per_vector : (v + 1) * self.per_vector] for v in range(plan.vectors)]
        return [self._gather(part, read) for part in parts]

    def _store_row(self, pieces: list[str], offset: str, vectors: list[Vector]) -> None:
        code, plan = self.code, self.plan
        pointers = [code.address(piece, offset) for piece in pieces]
        narrow = [self._narrow(y) for y in vectors]
        if plan.dense and plan.n == plan.width:
            for pointer, y in zip(pointers, narrow, strict=True):
                code.do(f"store <{plan.lanes} x {self.stored}> {y}, ptr {pointer}, align {self.stored_size}")
            return
        for v, y in enumerate(narrow):
            self._scatter(pointers[v * self.per_vector : (v + 1) * self.per_vector], y)

    def _gather(self, pointers: list[str], read: int) -> Vector:
        """Load n numbers from each pointer into the lanes of a group, zeros elsewhere; `read` numbers may be read."""
        code, plan = self.code, self.plan
        raw, kind, lanes = f"<{plan.lanes} x {self.stored}>", f"<{read} x {self.stored}>", range(plan.lanes)
        x = "zeroinitializer"
        for i, pointer in enumerate(pointers):
            piece = code.emit(f"load {kind}, ptr {pointer}, align {self.stored_size}")
            inside = [lane // plan.width == i and self.members[lane] for lane in lanes]
            wide = self._shuffle(kind, piece, "poison", [lane % plan.width if inside[lane] else 0 for lane in lanes])
            x = self._shuffle(raw, x, wide, [lane + (plan.lanes if inside[lane] else 0) for lane in lanes])
        return self._widen(x)

    def _scatter(self, pointers: list[str], y: str) -> None:
        """Store the first n lanes of each group at its pointer."""
        code, plan = self.code, self.plan
        raw, kind = f"<{plan.lanes} x {self.stored}>", f"<{plan.n} x {self.stored}>"
        for i, pointer in enumerate(pointers):
            part = self._shuffle(raw, y, "poison", [i * plan.width + j for j in range(plan.n)])
            code.do(f"store {kind} {part}, ptr {pointer}, align {self.stored_size}")

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
