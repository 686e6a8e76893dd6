r"""The outer kernel, for groups of middle size on a CPU: X, the factor and the products of one group after another.

The Gram product sums outer products of rows in registers and computes half of X; entry-wise work and the second product
follow while the group is in the cache. It is for the penalties that `lanes.functions` knows; the others use the
products of `batched`. The code is generated for this processor at the first use and compiled by llvmlite, which is
installed with Numba: `pip install 'gramian[fast]'`.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import FusedStep, KernelSpec
from gramian.kernels.cpu import threads
from gramian.kernels.cpu.batched import Batched
from gramian.kernels.cpu.lanes import machine
from gramian.kernels.cpu.lanes.functions import EntryFunction, lane_function
from gramian.kernels.cpu.outer.loops import write_function
from gramian.kernels.cpu.outer.plan import Tiles
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi, Scalar

__all__ = ["Outer"]

_FEWEST_MEMBERS, _MOST_MEMBERS = 17, 512
_FEW_GROUPS = 4

_PACKED = 1 << 17
"""Bytes of packed rows: a part of a second-level cache, beside X."""

_LEAST_ROWS = 64

_TYPES = {torch.float32: "float", torch.float64: "double"}


class Outer(Batched):
    """Gram products, gradients and proximal steps of one group after another."""

    name = "outer"

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        if problem.device != "cpu":
            return f"it runs on a CPU; Φ is on {problem.device}"
        if not machine.is_installed():
            return "llvmlite is not installed, or too old; try pip install 'gramian[fast]'"
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:
        _, m, n = problem.shape
        if not _FEWEST_MEMBERS <= n <= _MOST_MEMBERS:
            return f"it is for n from {_FEWEST_MEMBERS} to {_MOST_MEMBERS}; n is {n}"
        if problem.strides[2] != 1:
            return "the rows of groups are not adjacent in memory"
        if m < _FEW_GROUPS:
            return f"there are fewer than {_FEW_GROUPS} groups, too few for all threads"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = _widen(phi)
        X = wide.new_empty(wide.shape[1], wide.shape[2], wide.shape[2])
        _run("residual", wide, wide, matrices=X)
        return X

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        known = lane_function(penalty)
        if known is None:
            return super().value(phi, penalty)
        wide = _widen(phi)
        values = wide.new_empty(wide.shape[1])
        _run("value", wide, wide, function=known.function, values=values, numbers=(0.0, *known.numbers))
        return values

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        if lane_function(penalty) is None:
            return super().value_and_grad(phi, penalty, beta)
        wide = _widen(phi)
        grad = _empty_like(wide)
        values = self.value_and_grad_into(grad, wide, penalty, beta)
        return values, grad.to(phi.dtype)

    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        known = lane_function(penalty)
        if known is None:
            return super().value_and_grad_into(out, phi, penalty, beta)
        wide = _widen(phi)
        grad = out if out.stride(2) == 1 and out.dtype == wide.dtype else _empty_like(wide)
        values = wide.new_empty(wide.shape[1])
        numbers = (2 * beta, *known.numbers)
        _run("gradient", wide, grad, function=known.function, values=values, numbers=numbers)
        if grad is not out:
            out.copy_(grad)
        return values if beta == 1 else beta * values

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        wide = _widen(phi)
        out = _empty_like(wide)
        _run("multiply", wide, out, matrices=M.contiguous(), flags=b"\1" * wide.shape[1])
        return out

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        if phi.stride(2) != 1:
            super().add_apply_(phi, M)
            return
        _run("multiply_add", phi, phi, matrices=M.contiguous(), flags=b"\1" * phi.shape[1])
        torch.autograd.graph.increment_version(phi)


def _widen(phi: Phi) -> Phi:
    """Return Φ in the compute dtype, with adjacent rows of groups."""
    wide = phi.to(reference.compute_dtype(phi.dtype))
    return wide if wide.stride(2) == 1 else wide.contiguous()


def _empty_like(phi: Phi) -> Phi:
    """Return new memory in the order of Φ, without its gaps."""
    out = torch.empty_like(phi)
    return out if out.stride(2) == 1 else phi.new_empty(phi.shape)


class _Scratch(threading.local):
    """The scratch memory of a thread."""

    memory: Tensor | None = None

    def pointer(self, size: int) -> int:
        """Return the address of so many bytes, at a multiple of 64."""
        if self.memory is None or self.memory.numel() < size + 64:
            self.memory = torch.empty(size + 64, dtype=torch.uint8)
        return -(-self.memory.data_ptr() // 64) * 64


_scratch = _Scratch()


def _run(
    mode: str,
    phi: Phi,
    out: Phi,
    *,
    function: EntryFunction | None = None,
    values: Tensor | None = None,
    matrices: Tensor | None = None,
    flags: bytes | None = None,
    numbers: Sequence[float] = (),
) -> bytes:
    """Run a function over all groups, and return their bytes."""
    length, m, n = phi.shape
    if m == 0 or n == 0:
        return b""
    size = phi.element_size()
    run, lanes = _compiled(_TYPES[phi.dtype], mode, function)
    width = -(-n // lanes) * lanes
    most = max(_LEAST_ROWS, _PACKED // (width * size))
    block = max(1, -(-length // -(-length // most)) if length else 1)
    room = (width * width + (block + lanes) * width) * size
    marks = (ctypes.c_uint8 * m)(*(flags or b""))
    scalars = ((ctypes.c_double if size == 8 else ctypes.c_float) * max(1, len(numbers)))(*numbers)
    before = (
        phi.data_ptr(), out.data_ptr(), *(size * tensor.stride(axis) for tensor in (phi, out) for axis in (0, 1)),
        length, n, block,
    )  # fmt: skip
    after = (
        0 if values is None else values.data_ptr(),
        ctypes.addressof(marks),
        0 if matrices is None else matrices.data_ptr(),
    )
    address = ctypes.addressof(scalars)
    threads.run_blocks(
        lambda first, last: run(*before, first, last, *after, _scratch.pointer(room), address),
        m,
        length * m * n * n // 4,
    )
    return bytes(marks)


_ARGUMENTS = (*(2 * (ctypes.c_void_p,)), *(9 * (ctypes.c_int64,)), *(5 * (ctypes.c_void_p,)))


@cache
def _compiled(scalar: str, mode: str, function: EntryFunction | None) -> tuple[Callable[..., None], int]:
    """Return the function of a plan, and the lanes of its vectors."""
    plan = Tiles(scalar, mode, function, machine.vector_bytes())
    return machine.compile_function(write_function(plan), "run", _ARGUMENTS), plan.lanes
