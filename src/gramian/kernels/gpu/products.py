r"""The products kernel, for groups of more than 64 vectors on a GPU: one launch between two products of a library.

The launch reads PᵀP once and overwrites it with G, exactly symmetric. In 16 bits the products are those of 16-bit
numbers, summed in float32, and the signs of l1 are exact. In float32 the product with these signs is that of `signs`.

A proximal step is a symmetric product that writes X and a copy of Φ; the norms that limit the step and its factor, with
one program for each group (from n = 257 on the factor has a launch of its own, with many programs); and the product of
the copy and the factor, written to Φ. None of them waits for the device.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import FusedStep, KernelSpec
from gramian.kernels.gpu import epilogues, launching
from gramian.kernels.gpu.configurations import Configuration, configuration, shape_class
from gramian.kernels.gpu.epilogues import Epilogue
from gramian.kernels.gpu.launching import or_reference
from gramian.kernels.gpu.signs import sign_product, subgradient_dtype
from gramian.kernels.gpu.symmetric import symmetric_product
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi, Scalar

__all__ = ["Products", "invalidate_", "scaled_product"]

_LEAST_MEMBERS = 65
_TILES = [{"TILE": tile, "num_warps": warps} for tile, warps in ((64, 8), (64, 16), (32, 8), (32, 4), (32, 2))]
"""Edges of the tiles of the launch between the products, and its warps; the default first."""

_ROOM = 1 << 24
"""By how many numbers the matrices in memory may exceed Φ: 64 MiB in float32."""

_MOST_PROGRAMS = 65535
"""Largest size of the third axis of a grid."""

_ONE_PROGRAM = 256
"""The n up to which one program writes the factor of a group."""


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
            dtype = subgradient_dtype(phi, epilogue)
            G = H if H.dtype == dtype else H.new_empty(H.shape, dtype=dtype)
            sums = _tiles(H, epilogue, step=False, out=G)
            invalidate_(G, sums, values[which], add=False)
            scaled_product(phi[:, which], G, 2 * beta, out[:, which])
        return values if beta == 1 else beta * values

    @or_reference
    def proximal_step(
        self, phi: Phi, penalty: Penalty, tau: float, *, in_place: bool, rate: Scalar | None = None
    ) -> FusedStep | None:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return None
        values = phi.new_empty(phi.shape[1], dtype=reference.compute_dtype(phi.dtype))
        total = values.new_empty(())
        out = phi if in_place else torch.empty_like(phi)
        parts = list(_parts(phi))
        factors = [
            _factor(phi[:, which], epilogue, tau, rate=rate, keep=in_place, values=values[which], total=total)
            for which in parts
        ]
        for which, (P, M) in zip(parts, factors, strict=True):
            _step(P, M, out[:, which].permute(1, 0, 2), in_place=in_place)
        return FusedStep(values, out, [], total if len(parts) == 1 else None)


def _step(P: Tensor, M: GroupMatrices, out: Tensor, *, in_place: bool) -> None:
    """Write PM to `out`, or if it is Φ, add it; P is not in the memory of Φ then."""
    with reference.full_precision(P):
        if out.dtype != P.dtype:
            product = torch.bmm(P, M)
            torch.add(P, product, out=out) if in_place else out.copy_(product)
        elif in_place:
            out.baddbmm_(P, M)
        else:
            torch.bmm(P, M, out=out)


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
    """Write scale·PG to `out`, rounded once; G has the dtype of Φ, or is wider, or has the signs of a float32 Φ."""
    if G.dtype == torch.bfloat16 and phi.dtype == torch.float32:
        sign_product(phi, G, scale, out)
        return
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
    key = f"residual_tiles {str(H.dtype)[6:]} m={1 << max(0, m - 1).bit_length()} n={1 << (n - 1).bit_length()}"
    key += f" {epilogue.kind}, {'residual' if step else 'gradient'}"
    options = configuration(key, H.device, lambda: _TILES)
    tiles = -(-n // options["TILE"])
    sums = H.new_empty(m, tiles, tiles, 2)
    launching.launch(
        "residual_tiles", (tiles, tiles, m), H, out, sums, n, epilogue.parameter,
        PENALTY=epilogue.kind, STEP=step, **options, **launching.sums(H.dtype),
    )  # fmt: skip
    return sums


def invalidate_(G: Tensor, sums: Tensor, values: GroupScalars, *, add: bool) -> None:
    """Write μ(X) of every group to `values`, or add it; where it is not finite, make PG NaN."""
    launching.launch(
        "invalidate", (len(values),), sums, G, values, *sums.shape[1:3], G.stride(0), G.shape[2],
        BLOCK=256, ADD=add, num_warps=4, **launching.sums(sums.dtype),
    )  # fmt: skip


def _factor(
    phi: Phi,
    epilogue: Epilogue,
    tau: float,
    *,
    rate: Scalar | None,
    keep: bool,
    values: GroupScalars,
    total: Scalar,
) -> tuple[Tensor, GroupMatrices]:
    """Compute −S of every group; write μ(X) to `values` and its sum to `total`.

    Returns:
        P, [m, l, n], in the compute dtype: a copy if `keep`, because Φ will be written to; and −S.
    """
    length, m, n = phi.shape
    copied = keep or phi.dtype != values.dtype
    P = values.new_empty(m, length, n) if copied else phi.permute(1, 0, 2)
    X, sums = symmetric_product(phi, epilogue, 0, n, step=True, copy=P if copied else None)
    limits, scratch = X.new_empty(m, 2), X.new_empty(m, 2, n)
    options: dict[str, Any] = {"PENALTY": epilogue.kind, **launching.sums(X.dtype)}
    width = 1 << (n - 1).bit_length()
    key = f"limit_step {shape_class(phi)} {epilogue.kind}"
    chosen = configuration(key, phi.device, lambda: _limit_candidates(width))
    launching.launch(
        "limit_step", (m,), phi, X, sums, values, total, limits, scratch, total if rate is None else rate,
        length, n, m, *sums.shape[1:3], *phi.stride(), tau, epilogue.parameter,
        WIDTH=width, RATE=rate is not None, WRITE=n <= _ONE_PROGRAM, **launching.registers(128), **chosen, **options,
    )  # fmt: skip
    if n > _ONE_PROGRAM:
        block = 1024
        launching.launch(
            "step_factor", (-(-n * n // block), m), X, X, limits, n, epilogue.parameter, BLOCK=block, num_warps=4,
            **options,
        )  # fmt: skip
    return P, X


def _limit_candidates(width: int) -> list[Configuration]:
    """Return the rows at a time and the warps of the program that computes the norms, the default first."""
    rows = max(1, min(8 if width < 512 else 16, 8192 // width))
    choices = [(rows, 8), (max(1, rows // 2), 8), (2 * rows, 16), (rows, 16)]
    if width <= 1024:  # longer rows in four warps spill registers
        choices.append((max(1, rows // 2), 4))
    return [{"ROWS": rows, "num_warps": warps} for rows, warps in dict.fromkeys(choices)]
