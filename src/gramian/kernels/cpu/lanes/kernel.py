r"""The lanes kernel, for many small groups on a CPU: the processor's vectors hold whole groups.

One pass over Φ forms the Gram matrices of some groups, and a second one, from the cache, multiplies by their factors;
for the penalties that `functions` knows, the factors are computed in registers. The code is generated for this
processor at the first use and compiled by llvmlite, which is installed with Numba: `pip install 'gramian[fast]'`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from gramian.kernels import chunks, reference
from gramian.kernels.base import FusedStep, KernelSpec
from gramian.kernels.cpu import threads
from gramian.kernels.cpu.lanes.loops import write_function
from gramian.kernels.cpu.lanes.plan import Order, Plan
from gramian.kernels.cpu.llvm import machine
from gramian.kernels.cpu.llvm.claims import Share
from gramian.kernels.cpu.llvm.functions import EntryFunction, lane_function
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi, Scalar

__all__ = ["MOST_MEMBERS", "Lanes", "groups_of"]

_FEWEST_MEMBERS, MOST_MEMBERS = 1, 16

_MANY_GROUPS = 64
"""Groups from which the threads can share the work evenly."""

_LEAST, _MOST = 1 << 16, 1 << 22
"""Multiplications of PᵀP for which fewer groups are computed, too: more than a call costs, and no work for threads."""

_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat", torch.float16: "half"}


class Lanes(Reference):
    """Gram products, products with small matrices, gradients and proximal steps of groups in lanes."""

    name = "lanes"

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        if problem.device != "cpu":
            return f"it runs on a CPU; Φ is on {problem.device}"
        if not machine.is_installed():
            return "llvmlite is not installed, or too old; try pip install 'gramian[fast]'"
        if not _FEWEST_MEMBERS <= problem.shape[2] <= MOST_MEMBERS:
            return f"it is for n from {_FEWEST_MEMBERS} to {MOST_MEMBERS}; n is {problem.shape[2]}"
        if problem.strides[2] != 1 and problem.strides[0] != 1:
            return "neither rows nor vectors of groups are adjacent in memory"
        if problem.dtype not in _TYPES or (problem.dtype == torch.float16 and not machine.converts_half()):
            return f"this processor does not convert {problem.dtype}"
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:
        length, m, n = problem.shape
        if m >= _MANY_GROUPS:
            return None
        work = length * m * n * n
        if work < _LEAST:
            return f"there are fewer than {_MANY_GROUPS} groups, which are too small to compile code for"
        return f"there are fewer than {_MANY_GROUPS} groups, too few for all threads" if work > _MOST else None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = _widen(phi)
        X = wide.new_empty(wide.shape[1], wide.shape[2], wide.shape[2])
        _run("residual", wide, wide, matrices=X)
        return X

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        return chunks.value(self.residual(phi), penalty)

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        grad = _empty_like(phi)
        return self.value_and_grad_into(grad, phi, penalty, beta), grad

    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        known = lane_function(penalty)
        if known is None or not _fits(out, phi):
            X = self.residual(phi)
            values = chunks.value(X, penalty)
            G = chunks.scale_(chunks.subgradient_(X, penalty), 2 * beta)
            grad = self.apply(phi, G)
            reference.invalidate_groups_(grad, values)  # the sign of a NaN is 0, so the product may hide it
            out.copy_(grad)
            return beta * values
        values = phi.new_empty(phi.shape[1], dtype=reference.compute_dtype(phi.dtype))
        numbers = (2 * beta, *known.numbers)
        _run("gradient", phi, out, function=known.function, values=values, numbers=numbers)
        return values if beta == 1 else beta * values

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        wide = _widen(phi)
        out = _empty_like(wide)
        _run("multiply", wide, out, matrices=M.contiguous())
        return out

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        _run("multiply_add", phi, phi, matrices=M.contiguous())
        torch.autograd.graph.increment_version(phi)

    def proximal_step(
        self,
        phi: Phi,
        penalty: Penalty,
        tau: float,
        *,
        in_place: bool,
        rate: Scalar | None = None,  # noqa: ARG002
    ) -> FusedStep | None:
        known = lane_function(penalty)
        if known is None:
            return None
        out = phi if in_place else _empty_like(phi)
        values = phi.new_empty(phi.shape[1], dtype=reference.compute_dtype(phi.dtype))
        mode, numbers = ("step" if in_place else "change"), (tau, *known.numbers)
        failed = _run(mode, phi, out, function=known.function, values=values, numbers=numbers)
        if in_place:
            torch.autograd.graph.increment_version(phi)
        return FusedStep(values, out, failed)


def _by_columns(*tensors: Tensor) -> bool | None:
    """Tell whether the vectors of all tensors are contiguous, instead of the rows; None if neither are."""
    if all(tensor.stride(2) == 1 for tensor in tensors):
        return False
    return True if all(tensor.stride(0) == 1 for tensor in tensors) else None


def _order(phi: Phi, out: Phi) -> Order:
    """Return what is adjacent in both tensors, as `Plan` defines it."""
    if _by_columns(phi, out):
        return "columns"
    length, _, n = phi.shape
    return "stack" if length and phi.stride(0) == n == out.stride(0) else "rows"


def _widen(phi: Phi) -> Phi:
    """Return Φ in the compute dtype, in an order that the loops read."""
    wide = phi.to(reference.compute_dtype(phi.dtype))
    return wide.contiguous() if _by_columns(wide) is None else wide


def _empty_like(phi: Phi) -> Phi:
    """Return new memory in the order of Φ, without its gaps."""
    out = torch.empty_like(phi)
    if _by_columns(phi, out) is not None:
        return out
    length, m, n = phi.shape
    return phi.new_empty(m, n, length).permute(2, 0, 1) if _by_columns(phi) else phi.new_empty(length, m, n)


def _fits(out: Phi, phi: Phi) -> bool:
    """Tell whether a result can be written to `out`."""
    return _by_columns(out, phi) is not None and out.dtype == phi.dtype and out.device == phi.device


def _run(
    mode: str,
    phi: Phi,
    out: Phi,
    *,
    function: EntryFunction | None = None,
    values: Tensor | None = None,
    matrices: Tensor | None = None,
    numbers: Sequence[float] = (),
) -> list[slice]:
    """Run a function over all groups, and return the groups whose step it could not compute."""
    length, m, n = phi.shape
    if m == 0:
        return []
    size, order = phi.element_size(), _order(phi, out)
    plan, groups, padded = _plan(n, phi.dtype, mode, function, order)
    blocks = -(-m // groups)
    adjacent = order == "rows" and phi.stride(1) == n == out.stride(1)
    whole = (m - padded) // groups if adjacent else 0  # the first numbers of the next group are read, too
    failed = (ctypes.c_uint8 * (blocks if mode in ("step", "change") else 1))()
    scalars = ((ctypes.c_double if phi.dtype == torch.float64 else ctypes.c_float) * max(1, len(numbers)))(*numbers)
    arguments = (
        phi.data_ptr(), out.data_ptr(), *(size * stride for tensor in (phi, out) for stride in tensor.stride()),
        length, m,
        0 if values is None else values.data_ptr(), ctypes.addressof(failed),
        0 if matrices is None else matrices.data_ptr(), ctypes.addressof(scalars),
    )  # fmt: skip
    work = length * m * n * n
    if whole > 0:
        threads.run_compiled(_compiled(plan, dense=True), arguments, 0, whole, work)
    if whole < blocks:
        threads.run_compiled(_compiled(plan, dense=False), arguments, whole, blocks, work)
    return groups_of(bytes(failed), groups, m)


def groups_of(flags: bytes, groups: int, m: int) -> list[slice]:
    """Return the groups of the blocks whose flag is 1, in one slice where blocks are adjacent."""
    if 1 not in flags:
        return []
    places = [i for i, flag in enumerate(flags) if flag]
    firsts = [i for i, before in zip(places, [-2, *places], strict=False) if i != before + 1]
    lasts = [i for i, after in zip(places, [*places[1:], -2], strict=True) if i + 1 != after]
    return [slice(first * groups, min(m, (last + 1) * groups)) for first, last in zip(firsts, lasts, strict=True)]


@cache
def _plan(
    n: int, dtype: torch.dtype, mode: str, function: EntryFunction | None, order: Order
) -> tuple[Plan, int, bool]:
    """Return a plan, the groups of a block, and whether groups have lanes of zeros."""
    plan = Plan(n, _TYPES[dtype], mode, function, machine.vector_bytes(), dense=False, order=order)
    return plan, plan.groups, n < plan.width


@cache
def _compiled(plan: Plan, *, dense: bool) -> Share:
    return machine.compile_function(write_function(replace(plan, dense=dense)))
