r"""The outer kernel, for groups of middle size on a CPU: X, the factor and the products of one group after another.

The Gram product sums outer products of rows in registers and computes half of X; entry-wise work and the second product
follow while the group is in the cache. It is for the penalties that `llvm.functions` knows; for the others, and for
gradients that another kernel computes in less time, it calls `lanes` or `batched`. The code is generated for this
processor at the first use and compiled by llvmlite, which is installed with Numba: `pip install 'gramian[fast]'`.
"""

import torch

from gramian.kernels import reference
from gramian.kernels.base import FusedStep, Kernel, KernelSpec
from gramian.kernels.cpu.batched import Batched
from gramian.kernels.cpu.lanes.kernel import MOST_MEMBERS as MOST_IN_LANES
from gramian.kernels.cpu.lanes.kernel import Lanes
from gramian.kernels.cpu.llvm import machine
from gramian.kernels.cpu.llvm.functions import lane_function
from gramian.kernels.cpu.outer.running import MOST_SHARED, occupies_threads, run
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi, Scalar

__all__ = ["Outer"]

_FEWEST_MEMBERS, _MOST_MEMBERS = 9, 512
_FEW_GROUPS = 4

_LEAST = 1 << 18
"""Fewest multiplications of PᵀP for which code is compiled."""


_BATCHED, _LANES = Batched(), Lanes()


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
        length, m, n = problem.shape
        if not _FEWEST_MEMBERS <= n <= _MOST_MEMBERS:
            return f"it is for n from {_FEWEST_MEMBERS} to {_MOST_MEMBERS}; n is {n}"
        if n <= MOST_IN_LANES and problem.dtype.itemsize == 2:
            return "lanes reads small groups of 16-bit numbers as they are"
        if problem.strides[2] != 1:
            return "the rows of groups are not adjacent in memory"
        if length * m * n * n < _LEAST:
            return "the groups are too small to compile code for"
        if m < _FEW_GROUPS and length * n > MOST_SHARED:
            return f"there are fewer than {_FEW_GROUPS} groups, too large to be shared by threads"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = _widen(phi)
        X = wide.new_empty(wide.shape[1], wide.shape[2], wide.shape[2])
        run("residual", wide, wide, matrices=X)
        return X

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        known = lane_function(penalty)
        if known is None:
            return _for_any_penalty(phi).value(phi, penalty)
        wide = _widen(phi)
        values = wide.new_empty(wide.shape[1])
        run("value", wide, wide, function=known.function, values=values, numbers=(0.0, *known.numbers))
        return values

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        other = _faster(phi, penalty)
        if other is not None:
            return other.value_and_grad(phi, penalty, beta)
        wide = _widen(phi)
        grad = _empty_like(wide)
        values = self.value_and_grad_into(grad, wide, penalty, beta)
        return values, grad.to(phi.dtype)

    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        known, other = lane_function(penalty), _faster(phi, penalty)
        if other is not None or known is None:
            return (other or _BATCHED).value_and_grad_into(out, phi, penalty, beta)
        wide = _widen(phi)
        grad = out if out.stride(2) == 1 and out.dtype == wide.dtype else _empty_like(wide)
        values = wide.new_empty(wide.shape[1])
        numbers = (2 * beta, *known.numbers)
        run("gradient", wide, grad, function=known.function, values=values, numbers=numbers)
        if grad is not out:
            out.copy_(grad)
        return values if beta == 1 else beta * values

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        wide = _widen(phi)
        out = _empty_like(wide)
        run("multiply", wide, out, matrices=M.contiguous())
        return out

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        if phi.stride(2) != 1:
            super().add_apply_(phi, M)
            return
        run("multiply_add", phi, phi, matrices=M.contiguous())
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
        wide = _widen(phi)
        out = wide if in_place else _empty_like(wide)
        values = wide.new_empty(wide.shape[1])
        mode, numbers = ("step" if in_place else "change"), (tau, *known.numbers)
        failed = run(mode, wide, out, function=known.function, values=values, numbers=numbers)
        if in_place and wide is not phi:
            phi.copy_(wide)
        elif in_place:
            torch.autograd.graph.increment_version(phi)
        return FusedStep(values, phi if in_place else out.to(phi.dtype), failed)


def _is_small(phi: Phi) -> bool:
    """Tell whether `lanes` can compute the groups."""
    return 0 < phi.shape[2] <= MOST_IN_LANES


def _for_any_penalty(phi: Phi) -> Kernel:
    """Return the kernel for penalties that have no instructions."""
    return _LANES if _is_small(phi) else _BATCHED


def _faster(phi: Phi, penalty: Penalty) -> Kernel | None:
    """Return the kernel that computes a gradient in less time, or None.

    Where the rows of a small group are far apart, several groups share a cache line of the result; `lanes` writes it
    once.
    """
    if lane_function(penalty) is None:
        return _for_any_penalty(phi)
    if _is_small(phi) and phi.stride(0) != phi.shape[2]:
        return _LANES
    return None if occupies_threads(phi) else _BATCHED


def _widen(phi: Phi) -> Phi:
    """Return Φ in the compute dtype, with adjacent rows of groups."""
    wide = phi.to(reference.compute_dtype(phi.dtype))
    return wide if wide.stride(2) == 1 else wide.contiguous()


def _empty_like(phi: Phi) -> Phi:
    """Return new memory in the order of Φ, without its gaps."""
    out = torch.empty_like(phi)
    return out if out.stride(2) == 1 else phi.new_empty(phi.shape)
