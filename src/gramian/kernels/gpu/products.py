r"""The products kernel, for groups of more than 64 vectors on a GPU: one launch between two products of a library.

The launch reads PᵀP once and overwrites it with G, exactly symmetric. In 16 bits the products are those of 16-bit
numbers, summed in float32, and the signs of l1 are exact. A proximal step has three launches between its products: X,
the norms that limit the step with one program for each group, and its factor. None of them waits for the device.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import FusedStep, KernelSpec
from gramian.kernels.gpu import epilogues, launching
from gramian.kernels.gpu.epilogues import Epilogue
from gramian.kernels.gpu.launching import or_reference
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Products", "invalidate_", "scaled_product"]

_LEAST_MEMBERS = 65
_TILE = 64
_ROOM = 1 << 24
"""By how many numbers the matrices in memory may exceed Φ: 64 MiB in float32."""

_MOST_PROGRAMS = 65535
"""Largest size of the third axis of a grid."""


class Products(Reference):
    """Two batched products of the library of the device, and device code between them."""

    name = "products"

    widens = True

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        reason = epilogues.unsupported_reason(problem.device)
        return reason or ("a group is empty" if problem.shape[2] == 0 else None)

    def slower_reason(self, problem: KernelSpec) -> str | None:
        if problem.shape[2] < _LEAST_MEMBERS:
            return f"below n = {_LEAST_MEMBERS} one launch computes everything"
        return epilogues.slower_reason(problem.device, problem.dtype)

    @or_reference
    def residual(self, phi: Phi) -> GroupMatrices:
        n = phi.shape[2]
        X = phi.new_empty(phi.shape[1], n, n, dtype=reference.compute_dtype(phi.dtype))
        for which in _parts(phi):
            _tiles(_gram(phi[:, which]), Epilogue(0, 0.0, exact=True), step=True, out=X[which])
        return X

    @or_reference
    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        grad = torch.empty_like(phi)
        return self.value_and_grad_into(grad, phi, penalty, beta), grad

    @or_reference
    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            values, grad = Reference.value_and_grad(self, phi, penalty, beta)
            out.copy_(grad)
            return values
        values = phi.new_empty(phi.shape[1], dtype=reference.compute_dtype(phi.dtype))
        for which in _parts(phi):
            H = _gram(phi[:, which])
            G = H.new_empty(H.shape, dtype=phi.dtype) if epilogue.exact and phi.dtype != H.dtype else H
            sums = _tiles(H, epilogue, step=False, out=G)
            invalidate_(G, sums, values[which], add=False)
            scaled_product(phi[:, which], G, 2 * beta, out[:, which])
        return values if beta == 1 else beta * values

    @or_reference
    def proximal_step(self, phi: Phi, penalty: Penalty, tau: float, *, in_place: bool) -> FusedStep | None:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return None
        values = phi.new_empty(phi.shape[1], dtype=reference.compute_dtype(phi.dtype))
        out = phi if in_place else torch.empty_like(phi)
        factors = [_factor(phi[:, which], epilogue, tau, values[which]) for which in _parts(phi)]
        for which, M in zip(_parts(phi), factors, strict=True):
            P = phi[:, which].to(M.dtype).permute(1, 0, 2)
            with reference.full_precision(P):
                product = torch.baddbmm(P, P, M) if in_place else torch.bmm(P, M)
            out[:, which].copy_(product.permute(1, 0, 2))
        return FusedStep(values, out, [])


def _parts(phi: Phi) -> Iterator[slice]:
    """Iterate over as many groups as may be processed at a time; X of one part fits into `_ROOM`."""
    length, m, n = phi.shape
    step = max(1, min(_MOST_PROGRAMS, (m * length * n + _ROOM) // (n * n)))
    for first in range(0, m, step):
        yield slice(first, first + step)


def _gram(phi: Phi) -> Tensor:
    """Form PᵀP of every group, in the compute dtype."""
    P = phi.permute(1, 0, 2)
    return _wide_product(P.mT, P)


def _wide_product(A: Tensor, B: Tensor) -> Tensor:
    """Multiply batches of matrices; the product of 16-bit numbers is summed and returned in float32."""
    wide = reference.compute_dtype(A.dtype)
    with reference.full_precision(A):
        if wide == A.dtype:
            return torch.bmm(A, B)
        if A.is_cuda and _HAS_OUT_DTYPE:
            return torch.bmm(A, B, out_dtype=wide)  # pyright: ignore[reportCallIssue]
        return torch.bmm(A.to(wide), B.to(wide))


_HAS_OUT_DTYPE = hasattr(torch.ops.aten.bmm, "dtype")  # from torch 2.8 on


def scaled_product(phi: Phi, G: GroupMatrices, scale: float, out: Phi) -> None:
    """Write scale·PG to `out`, rounded once; G has the dtype of Φ, or is wider."""
    P, D = phi.permute(1, 0, 2), out.permute(1, 0, 2)
    if P.dtype == D.dtype and G.dtype == D.dtype:
        with reference.full_precision(P):
            torch.baddbmm(D, P, G, beta=0, alpha=scale, out=D)
    elif P.dtype == G.dtype:
        torch.mul(_wide_product(P, G), scale, out=D)
    else:
        D.copy_(_wide_product(P.to(G.dtype), G).mul_(scale))


def _tiles(H: Tensor, epilogue: Epilogue, *, step: bool, out: Tensor) -> Tensor:
    """Write G, or for a step X, to `out`, which may be H = PᵀP; return the sums of the tiles."""
    m, n, _ = H.shape
    tiles = -(-n // _TILE)
    sums = H.new_empty(m, tiles, tiles, 2)
    launching.launch(
        "residual_tiles", (tiles, tiles, m), H, out, sums, n, epilogue.parameter,
        TILE=_TILE, PENALTY=epilogue.kind, STEP=step, num_warps=8, **launching.sums(H.dtype),
    )  # fmt: skip
    return sums


def invalidate_(G: Tensor, sums: Tensor, values: GroupScalars, *, add: bool) -> None:
    """Write μ(X) of every group to `values`, or add it; where it is not finite, make PG NaN."""
    launching.launch(
        "invalidate", (len(values),), sums, G, values, *sums.shape[1:3], G.stride(0), G.shape[2],
        BLOCK=256, ADD=add, num_warps=4, **launching.sums(sums.dtype),
    )  # fmt: skip


def _factor(phi: Phi, epilogue: Epilogue, tau: float, values: GroupScalars) -> GroupMatrices:
    """Compute −S of every group, and write μ(X) to `values`."""
    X = _gram(phi)
    m, n, _ = X.shape
    sums = _tiles(X, epilogue, step=True, out=X)
    limits, scratch = X.new_empty(m, 2), X.new_empty(m, n)
    options: dict[str, Any] = {"PENALTY": epilogue.kind, **launching.sums(X.dtype)}
    width = 1 << (n - 1).bit_length()
    launching.launch(
        "limit_step", (m,), phi, X, sums, values, limits, scratch, phi.shape[0], n, *sums.shape[1:3], *phi.stride(),
        tau, epilogue.parameter, ROWS=max(1, min(8, 8192 // width)), WIDTH=width, num_warps=8, **options,
    )  # fmt: skip
    block = 1024
    launching.launch(
        "step_factor", (-(-n * n // block), m), X, X, limits, n, epilogue.parameter, BLOCK=block, num_warps=4, **options
    )
    return X
