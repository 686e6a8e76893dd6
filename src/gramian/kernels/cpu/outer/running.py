"""Calls of the compiled functions: whole groups for each thread, or the phases of one group for all threads."""

import ctypes
import math
import threading
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from gramian.kernels.cpu import threads
from gramian.kernels.cpu.lanes.kernel import groups_of
from gramian.kernels.cpu.llvm import machine
from gramian.kernels.cpu.llvm.claims import Share
from gramian.kernels.cpu.llvm.functions import EntryFunction
from gramian.kernels.cpu.outer.loops import write_function
from gramian.kernels.cpu.outer.norms import ROOM
from gramian.kernels.cpu.outer.phases import ROWS, write_phase
from gramian.kernels.cpu.outer.plan import Tiles
from gramian.kernels.cpu.outer.products import DEPTH
from gramian.kernels.norms import chirp
from gramian.typing import Phi

__all__ = ["MOST_SHARED", "occupies_threads", "run"]

MOST_SHARED = 1 << 20
"""Most entries of a group whose work several threads share: 4 MiB in float32."""

_LEAST_SHARED = 1 << 24
"""Fewest multiplications of PᵀP of such a group."""

_SHARED_RATE = 0.75
"""Speed of threads that share a group, as a part of that of threads with groups of their own: they wait four times."""

_TILES = 4
"""Rows of tiles of X for each of these threads: the first ones are the longest."""

_LIBRARY_ROUNDS = 1.4
"""Time in which `batched` computes a gradient, divided by that in which all threads compute whole groups."""

_PACKED = 1 << 17
"""Bytes of packed rows of a group: a part of a second-level cache, beside X."""

_PER_MULTIPLICATION = 2
"""Multiplications that take the time of one of `threads.run_compiled`."""

_TYPES = {torch.float32: "float", torch.float64: "double"}


class _Scratch(threading.local):
    """The scratch memory of the calls of a thread."""

    memory: Tensor | None = None

    def pointer(self, size: int) -> int:
        """Return the address of so many bytes, at a multiple of 64."""
        if self.memory is None or self.memory.numel() < size + 64:
            self.memory = torch.empty(size + 64, dtype=torch.uint8)
        return -(-self.memory.data_ptr() // 64) * 64


_scratch = _Scratch()


def run(
    mode: str,
    phi: Phi,
    out: Phi,
    *,
    function: EntryFunction | None = None,
    values: Tensor | None = None,
    matrices: Tensor | None = None,
    numbers: Sequence[float] = (),
) -> list[slice]:
    """Run a function over all groups.

    Args:
        mode: What it computes; see `Tiles`.
        phi: Φ in float32 or float64, with adjacent rows of groups.
        out: The result, likewise.
        function: The penalty.
        values: Gets μ of each group.
        matrices: Matrices [m, n, n], contiguous.
        numbers: 2β or τ, and the numbers of the penalty.

    Returns:
        The groups whose step it did not compute, because their X is not finite.
    """
    length, m, n = phi.shape
    if m == 0 or n == 0:
        if values is not None:
            values.zero_()
        return []
    size = phi.element_size()
    plan = Tiles(_TYPES[phi.dtype], mode, function, machine.vector_bytes())
    width = -(-n // plan.lanes) * plan.lanes
    shared = (mode == "gradient" or (mode in ("step", "change") and n <= length)) and _is_shared(phi)
    block = length if shared else _rows(length, width * size)
    room = -(-width * (width + block + ROOM) * size // 64) * 64
    failed = (ctypes.c_uint8 * m)()
    if mode in ("step", "change"):
        numbers = (*numbers, *_fixed_vector(n, phi.dtype), *([0.0] * (width - n)))
    scalars = ((ctypes.c_double if size == 8 else ctypes.c_float) * max(1, len(numbers)))(*numbers)
    strides = [size * tensor.stride(axis) for tensor in (phi, out) for axis in (0, 1)]
    starts = [0 if tensor is None else tensor.data_ptr() for tensor in (phi, out, values, matrices)]
    places, address = ctypes.addressof(failed), ctypes.addressof(scalars)

    def arguments(scratch: int, group: int = 0) -> list[int]:
        """Return the arguments of a function for all groups, or for one group as the first one."""
        return [
            starts[0] + group * strides[1], starts[1] + group * strides[3], *strides, length, n, block,
            starts[2] + group * size, places + group, starts[3] + group * n * n * size, scratch, address,
        ]  # fmt: skip

    if shared:
        scratch = _scratch.pointer(room)
        for group in range(m):
            _share(plan, length, n, arguments(scratch, group))
            if failed[group]:
                threads.run_compiled(_compiled(plan), arguments(scratch, group), 0, 1, 0)
        return groups_of(bytes(failed), 1, m)
    work = length * m * n * n // _PER_MULTIPLICATION
    scratch = _scratch.pointer(threads.most_threads(m, work) * room)
    threads.run_compiled(_compiled(plan), arguments(scratch), 0, m, work, room=room)
    return groups_of(bytes(failed), 1, m)


def _share(plan: Tiles, length: int, n: int, arguments: Sequence[int]) -> None:
    """Run the phases of one group, each in several threads."""
    rows, columns = -(-length // ROWS), -(-n // plan.lanes)
    phases = {"pack": (rows, length * n), "gram": (columns, length * n * n // 2), "factor": (columns, n * n)}
    phases["multiply"] = (rows, length * n * n)
    for phase, (items, work) in phases.items():
        threads.run_compiled(_phase(plan, phase), arguments, 0, items, work // _PER_MULTIPLICATION)


def _rows(length: int, row: int) -> int:
    """Return how many rows are packed at once: about equal numbers, multiples of the rows of a partial sum."""
    most = max(DEPTH, _PACKED // row // DEPTH * DEPTH)
    blocks = max(1, -(-length // most))
    return max(1, min(length, -(-length // (blocks * DEPTH)) * DEPTH))


def _rounds(phi: Phi) -> tuple[int, float]:
    """Estimate the time in which all groups are computed, in that of one group in one thread.

    Returns:
        That of threads that compute whole groups, and of threads that share one group after another.
    """
    length, m, n = phi.shape
    count = torch.get_num_threads()
    useful = min(count, length // ROWS, n * phi.element_size() // (_TILES * machine.vector_bytes()))
    if useful <= 1 or length * n > MOST_SHARED or length * n * n < _LEAST_SHARED:
        return -(-m // count), math.inf
    return -(-m // count), m / (_SHARED_RATE * useful)


def _is_shared(phi: Phi) -> bool:
    """Tell whether several threads share the work of one group after another."""
    whole, shared = _rounds(phi)
    return shared < whole


def occupies_threads(phi: Phi) -> bool:
    """Tell whether a gradient takes no longer than that of `batched`, which splits the products of few groups, too."""
    length, m, n = phi.shape
    most = threads.most_threads(torch.get_num_threads(), length * m * n * n // _PER_MULTIPLICATION)
    return most == 1 or min(_rounds(phi)) <= _LIBRARY_ROUNDS * m / torch.get_num_threads()


@cache
def _fixed_vector(n: int, dtype: torch.dtype) -> tuple[float, ...]:
    """Return the vector from which `gramian.kernels.norms.spectral_norm` also starts."""
    return tuple(chirp(torch.empty((), dtype=dtype), n).tolist())


@cache
def _compiled(plan: Tiles) -> Share:
    return machine.compile_function(write_function(plan))


@cache
def _phase(plan: Tiles, phase: str) -> Share:
    return machine.compile_function(write_phase(plan, phase))
