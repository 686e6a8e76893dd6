r"""The SIMD kernel, for many small groups that are adjacent in memory: it processes 64 groups per instruction sequence.

It reads a row of Φ for 64 groups, places their j-th entries side by side, and multiplies all groups at once, one group
per lane. It is written in Numba, an optional dependency: `pip install 'gramian[fast]'`, about 200 MB. The first call
for a new n, dtype and memory order compiles for seconds; the machine code is cached on disk.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gramian.kernels import chunks, reference
from gramian.kernels.base import KernelSpec
from gramian.kernels.cpu import threads
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Simd"]

_MOST = 8
_FEWEST = 256
_INSTALLED = importlib.util.find_spec("numba") is not None


class Simd(Reference):
    """Gram products, and products with G, of 64 groups at once."""

    name = "simd"

    chunk_size = chunks.SERIAL_CHUNK_SIZE  # torch's threads would spin while the loops here need the processors

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        if problem.device != "cpu":
            return f"it runs on a CPU; Φ is on {problem.device}"
        if not _INSTALLED:
            return "Numba is not installed; try pip install 'gramian[fast]'"
        if not 1 <= problem.shape[2] <= _MOST:
            return f"it is for n from 1 to {_MOST}; n is {problem.shape[2]}"
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:
        n = problem.shape[2]
        if problem.strides[0] == 1 and n > 2:
            return "batched products are faster where vectors are contiguous in memory"
        if problem.strides[1] != n * problem.strides[2] and n > 3:
            return "the groups are not adjacent in memory"
        if problem.shape[1] < _FEWEST:
            return f"there are fewer than {_FEWEST} groups"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = phi.to(reference.compute_dtype(phi.dtype))
        _, m, n = wide.shape
        X = wide.new_empty(m, n, n)
        P, out, write = _array(wide), _array(X), _compiled(n)[0]
        _run(wide, lambda start, stop: write(P, out, start, stop))
        return X

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        return chunks.value(self.residual(phi), penalty, self.chunk_size)

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        X = self.residual(phi)
        values = chunks.value(X, penalty, self.chunk_size)
        G = chunks.scale_(chunks.subgradient_(X, penalty, self.chunk_size), 2 * beta, self.chunk_size)
        grad = self.apply(phi, G)
        reference.invalidate_groups_(grad, values)  # the sign of a NaN is 0, so the product may hide it
        return beta * values, grad.to(phi.dtype)

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        wide = phi.to(reference.compute_dtype(phi.dtype))
        out = torch.empty_like(wide, memory_format=torch.contiguous_format)
        _multiply(wide, M, out, add=False)
        return out

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        _multiply(phi, M, phi, add=True)
        torch.autograd.graph.increment_version(phi)


def _multiply(phi: Phi, M: GroupMatrices, out: Phi, *, add: bool) -> None:
    P, factors, target, write = _array(phi), _array(M), _array(out), _compiled(phi.shape[2])[1]
    _run(phi, lambda start, stop: write(P, factors, target, add, start, stop))


def _run(phi: Phi, loop: Callable[[int, int], None]) -> None:
    from gramian.kernels.cpu.simd_loops import LANES

    length, m, n = phi.shape
    threads.run_blocks(loop, -(-m // LANES), length * m * n * n)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


@cache
def _compiled(n: int) -> tuple[Callable[..., None], Callable[..., None]]:
    from gramian.kernels.cpu import simd_loops

    return simd_loops.gram(n), simd_loops.apply(n)
