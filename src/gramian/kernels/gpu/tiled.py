r"""The tiled kernel, for large groups on a GPU: the panel kernel with the penalty inside the Gram product.

It computes a strip G[I, i:] tile by tile: a tile of X is summed in registers, and only its G is written to memory. The
strip is then multiplied from both sides, as a panel is. In 16 bits the signs of l1 are exact, so P·G runs at the rate
of 16-bit products.
"""

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import KernelSpec
from gramian.kernels.cpu.panel import Panel, blocks, width
from gramian.kernels.gpu import epilogues
from gramian.penalties import Penalty
from gramian.typing import GroupScalars, Phi

__all__ = ["Tiled"]

_LEAST_MEMBERS = 512
_TILE = 64
_DEEP = 32


class Tiled(Panel):
    """The upper half of G, strip by strip; X is never written to memory."""

    name = "tiled"

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        if not problem.epilogue:
            return "its device code does not implement the penalty"
        return epilogues.unsupported_reason(problem.device) or super().unsupported_reason(problem)

    def slower_reason(self, problem: KernelSpec) -> str | None:
        if problem.shape[2] < _LEAST_MEMBERS:
            return f"below n = {_LEAST_MEMBERS} X is small enough to be held as a whole"
        return epilogues.slower_reason(problem.device, problem.dtype)

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return super().value_and_grad(phi, penalty, beta)
        wide = reference.compute_dtype(phi.dtype)
        grad = torch.empty(phi.shape, dtype=wide, device=phi.device)
        values = grad.new_zeros(phi.shape[1])
        for i in range(phi.shape[1]):
            values[i] = _value_and_product(phi[:, i], grad[:, i], epilogue, 2 * beta)
        zero_or_nan = torch.where(torch.isfinite(values), 0, torch.nan)[:, None]
        return beta * values, grad.add_(zero_or_nan).to(phi.dtype)


def _value_and_product(P: Tensor, D: Tensor, epilogue: epilogues.Epilogue, scale: float) -> Tensor:
    """Write scale·PG to D and return μ(X)."""
    length, n = P.shape
    options = epilogues.precision(P.dtype)
    total = D.new_zeros(())
    store = P.dtype if epilogue.exact else D.dtype
    workspace = torch.empty(width(n) * n, dtype=store, device=P.device)
    for first, last in blocks(n):
        G = workspace[: (last - first) * (n - first)].view(last - first, n - first)
        grid = (-(-(last - first) // _TILE), -(-(n - first) // _TILE))
        sums = D.new_zeros(grid)
        epilogues.launch(
            "strip", grid, P, G, sums, length, n, first, last, *P.stride(), epilogue.parameter,
            DOWN=_TILE, ACROSS=_TILE, ROWS=_DEEP, PENALTY=epilogue.kind, **options,
        )  # fmt: skip
        total = total + sums.sum()
        _add_product(D[:, first:], P[:, first:last], G, scale, add=first > 0)
        if last < n:
            _add_product(D[:, first:last], P[:, last:], G[:, last - first :].mT, scale, add=True)
    return total


def _add_product(D: Tensor, A: Tensor, B: Tensor, scale: float, *, add: bool) -> None:
    rows, inner = A.shape
    columns = B.shape[1]
    if D.numel() == 0:
        return
    epilogues.launch(
        "product", (-(-rows // _TILE), -(-columns // _TILE)), A, B, D, rows, columns, inner,
        *A.stride(), *B.stride(), *D.stride(), scale,
        DOWN=_TILE, ACROSS=_TILE, DEEP=_DEEP, ADD=add, **epilogues.precision(B.dtype),
    )  # fmt: skip
