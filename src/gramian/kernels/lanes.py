r"""The lanes kernel, for many small groups whose vectors lie side by side in memory: neighbours share an instruction.

Of a row of Φ it takes 64 groups, puts their j-th entries side by side, and multiplies all groups at once, each in a
lane of its own. It is written in Numba, an optional dependency: `pip install 'gramian[fast]'`, some 200 MB. The first
call for a new n, dtype and way of lying in memory compiles for seconds; the result is kept on disk.
"""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gramian.kernels import chunks, dense, threads
from gramian.kernels.base import Kernel, Problem
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Lanes"]

_MOST = 8
_FEWEST = 256
_INSTALLED = importlib.util.find_spec("numba") is not None


class Lanes(Kernel):
    """Gram products and products with G, of 64 groups at once."""

    name = "lanes"

    piece = chunks.SERIAL  # torch's threads would spin while the loops here want the processors

    def cannot(self, problem: Problem) -> str | None:
        if problem.device != "cpu":
            return f"it runs on a CPU; Φ is on {problem.device}"
        if not _INSTALLED:
            return "Numba is not installed; try pip install 'gramian[fast]'"
        if not 1 <= problem.shape[2] <= _MOST:
            return f"it is made for n from 1 to {_MOST}; n is {problem.shape[2]}"
        return super().cannot(problem)

    def loses(self, problem: Problem) -> str | None:
        n = problem.shape[2]
        if problem.strides[0] == 1 and n > 2:
            return "vectors that are contiguous in memory need no lanes"
        if problem.strides[1] != n * problem.strides[2] and n > 3:
            return "the groups are not neighbours in memory"
        if problem.shape[1] < _FEWEST:
            return f"fewer than {_FEWEST} groups do not fill the lanes of several processors"
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        wide = phi.to(dense.compute_dtype(phi.dtype))
        _, m, n = wide.shape
        X = wide.new_empty(m, n, n)
        P, into, write = _array(wide), _array(X), _compiled(n)[0]
        _share(wide, lambda start, stop: write(P, into, start, stop))
        return X

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        return chunks.value(self.residual(phi), penalty, self.piece)

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        X = self.residual(phi)
        values = chunks.value(X, penalty, self.piece)
        G = chunks.scale_(chunks.dual_(X, penalty, self.piece), 2 * beta, self.piece)
        grad = self.apply(phi, G)
        dense.lose_(grad, values)  # the sign of a NaN is 0, and would hide it
        return beta * values, grad.to(phi.dtype)

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        wide = phi.to(dense.compute_dtype(phi.dtype))
        out = torch.empty_like(wide, memory_format=torch.contiguous_format)
        _multiply(wide, M, out, add=False)
        return out

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        _multiply(phi, M, phi, add=True)
        torch.autograd.graph.increment_version(phi)


def _multiply(phi: Phi, M: GroupMatrices, out: Phi, *, add: bool) -> None:
    P, factors, into, write = _array(phi), _array(M), _array(out), _compiled(phi.shape[2])[1]
    _share(phi, lambda start, stop: write(P, factors, into, add, start, stop))


def _share(phi: Phi, loop: Callable[[int, int], None]) -> None:
    from gramian.kernels.lanes_numba import LANES

    length, m, n = phi.shape
    threads.share(loop, -(-m // LANES), length * m * n * n)


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


@cache
def _compiled(n: int) -> tuple[Callable[..., None], Callable[..., None]]:
    from gramian.kernels import lanes_numba

    return lanes_numba.gram(n), lanes_numba.apply(n)
