r"""The polar factor of groups, differentiable: Φ = QH with orthonormal Q and H = (ΦᵀΦ)^½; Q is nearest to Φ.

*Forward.* With X = ΦᵀΦ − I, Q = Φ(I + X)^(−½). Near the manifold the power series of the root is summed in products of
n × n matrices, so that Φ is read twice: for X, and for the product with the sum. Elsewhere Newton–Schulz steps come
first.

*Derivative.* dΦ = dQ·H + Q·dH. Write dQ = QΩ + N with QᵀN = 0; Ω is skew, because QᵀQ = I. The part of dΦ orthogonal to
Q gives N = (I − QQᵀ)dΦ H⁻¹. In QᵀdΦ = ΩH + dH the symmetric dH cancels against the transpose: HΩ + ΩH = QᵀdΦ − dΦᵀQ, a
Sylvester equation. It maps skew matrices to skew matrices and is self-adjoint. So the gradient G with respect to Q
becomes, with respect to Φ,

    QK + (I − QQᵀ)GH⁻¹, where HK + KH = QᵀG − GᵀQ.

In the eigenvectors V of H the equation is diagonal: (VᵀKV)_ij = (VᵀSV)_ij / (λ_i + λ_j). For orthonormal Φ, H = I, and
the gradient is G − Q·½(QᵀG + GᵀQ), the projection of G onto the tangent space, without eigenvalues.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gramian import foreach
from gramian.errors import DataError, ShapeError
from gramian.kernels import norms, reference
from gramian.kernels.dispatch import choose
from gramian.penalties import L1
from gramian.rules.restore import rounding_level
from gramian.typing import GroupMatrices, Phi

__all__ = ["check_tall", "nearest_orthonormal", "polar_factor"]

_L1 = L1()

_ROUNDING = 2.0
"""Residuals up to this multiple of the rounding level count as 0, so that a result is not computed again."""

_NEAR = 0.5
"""The ‖X‖₂ up to which the power series is summed."""

_UNDERESTIMATED = 1.25
"""By how much ‖X‖₂ may exceed its estimate above n = 16."""

_COLUMNS = 16
"""Columns of several narrow groups that are multiplied at once; wide products are faster than narrow ones."""


def polar_factor(phi: Phi, nearest: Phi | None = None, *, orthonormal: bool = False) -> Phi:
    r"""Compute the polar factor of every group, the nearest orthonormal group; differentiable once.

    Args:
        phi: Φ[l, m, n] with n ≤ l, of full column rank.
        nearest: The polar factor, where it is known.
        orthonormal: With `nearest`: whether `phi` is orthonormal to rounding.

    Returns:
        Q[l, m, n], a new tensor of the dtype of `phi`.

    Raises:
        ShapeError: If n > l.
        DataError: If the vectors of a group are linearly dependent or not finite.

    Cost:
        Near the manifold 4·m·l·n² flops, and as many in the backward pass; 2·m·n³ for every two terms of the series.
        Elsewhere as many for every Newton–Schulz step, and eigenvalues in the backward pass. Q is stored.

    Examples:
        >>> import torch
        >>> phi = torch.tensor([[[3.0]], [[4.0]]], requires_grad=True)  # a single vector: Q = Φ / |Φ|
        >>> polar_factor(phi).flatten().tolist()
        [0.600..., 0.799...]

    References:
        Higham, "Computing the polar decomposition - with applications", 1986; Gawlik and Leok, "Iterative computation
        of the Fréchet derivative of the polar decomposition", 2017, for the derivative.
    """
    check_tall(*phi.shape)
    if nearest is None:
        with torch.no_grad():
            nearest, orthonormal = nearest_orthonormal(phi.detach())
            nearest = nearest.clone() if orthonormal else nearest
    if not (torch.is_grad_enabled() and phi.requires_grad):
        return nearest
    function = _OrthonormalPolarFactor if orthonormal else _PolarFactor
    return function.apply(phi, nearest)  # pyright: ignore


def nearest_orthonormal(phi: Phi) -> tuple[Phi, bool]:
    """Compute the polar factor of every group without autograd, and tell whether it is `phi` itself.

    Args:
        phi: Φ[l, m, n] with n ≤ l.

    Returns:
        The polar factor, of the dtype and memory order of `phi`; and whether `phi` was orthonormal to rounding. Then it
        is returned unchanged.

    Raises:
        DataError: As for `polar_factor`.
    """
    wide = phi.to(reference.compute_dtype(phi.dtype))
    X = choose(wide, _L1).residual(wide)
    if X.numel() == 0:
        return phi, True
    largest = X.abs().amax().item()
    if largest <= _level(phi.dtype, wide.dtype, phi.shape[0]):
        return phi, True
    terms = _terms(X, largest, torch.finfo(phi.dtype).eps / 8)
    if terms:
        return _add_product(wide, wide, _inverse_root_(X, terms), 1.0).to(phi.dtype), False
    restored = wide.clone()
    result = foreach.restore_([restored])
    if not result.converged:
        raise DataError(
            "the vectors of each group must be linearly independent and finite to have a polar factor; got others "
            f"({result.stopped} after {result.steps} Newton-Schulz steps); try gramian.orthogonalize, which lists the "
            "groups, or smaller learning rates"
        )
    return restored.to(phi.dtype), False


def check_tall(length: int, groups: int, members: int) -> None:  # noqa: ARG001
    """Check that groups can be orthonormal.

    Raises:
        ShapeError: If n > l.
    """
    if members > length:
        raise ShapeError(
            f"groups must have n <= l vectors to be orthonormal; got n = {members}, l = {length}; try a layout with "
            "smaller groups, or one that makes the longer axis the vector"
        )


def _level(stored: torch.dtype, products: torch.dtype, length: int) -> float:
    """Return the |X_jk| up to which groups count as orthonormal; it exceeds that of a result, which is thus final."""
    rounded = 0.0 if stored == products else torch.finfo(stored).eps
    return _ROUNDING * (rounding_level(products, length, products=products) + rounded)


def _coefficient(k: int) -> float:
    """Return the coefficient of x^k in (1 + x)^(−½)."""
    return math.prod(-(2 * i - 1) / (2 * i) for i in range(1, k + 1))


def _terms(X: GroupMatrices, largest: float, tolerance: float) -> int:
    """Return how many terms of (I + X)^(−½) − I suffice: 1 or an even number; 0 if ‖X‖₂ may be above `_NEAR`."""
    terms = _terms_within(largest * X.shape[-1], tolerance)
    if terms not in (1, 2):
        terms = _terms_within(torch.linalg.matrix_norm(X).max().item(), tolerance)
    if terms not in (1, 2):
        terms = _terms_within(_UNDERESTIMATED * norms.spectral_norm(X).max().item(), tolerance)
    return terms


def _terms_within(radius: float, tolerance: float) -> int:
    if not radius <= _NEAR:  # NaN too
        return 0
    terms = 1
    while abs(_coefficient(terms + 1)) * radius ** (terms + 1) > tolerance * (1 - radius):
        terms += 2 - terms % 2
    return terms


def _inverse_root_(X: GroupMatrices, terms: int) -> GroupMatrices:
    """Sum the first terms of (I + X)^(−½) − I, with a product for every two of them; overwrites X."""
    if terms == 1:
        return X.mul_(-0.5)
    with reference.full_precision(X):
        X2 = torch.bmm(X, X)
        if terms == 2:
            return X.mul_(-0.5).add_(X2, alpha=_coefficient(2))
        total = (_coefficient(terms - 1) * X).add_(X2, alpha=_coefficient(terms))
        for k in range(terms - 3, 0, -2):
            total.diagonal(dim1=1, dim2=2).add_(_coefficient(k + 1))
            total = torch.baddbmm(X, X2, total, beta=_coefficient(k))
    return total


def _add_product(base: Phi, phi: Phi, M: GroupMatrices, scale: float) -> Phi:
    """Compute B + scale·PM for every group with symmetric M, in their memory order if they share one."""
    with reference.full_precision(phi):
        if phi.stride(0) == 1:  # vectors are contiguous, as the rows of a matrix
            transposed = (base.permute(1, 2, 0), M, phi.permute(1, 2, 0))
            return torch.baddbmm(*transposed, alpha=scale).permute(2, 0, 1)
        if phi.shape[1] == 1:
            batch = (base.permute(1, 0, 2), phi.permute(1, 0, 2), M)
            return torch.baddbmm(*batch, alpha=scale).permute(1, 0, 2)
    change = choose(phi, _L1).apply(phi, M * scale)
    return change.add_(base) if change.stride() == base.stride() else base + change


def _symmetric_cross_gram(Q: Phi, G: Phi) -> GroupMatrices:
    """Compute QᵀG + GᵀQ for every group; of several groups at once where they are narrow and adjacent in memory."""
    _, m, n = Q.shape
    fold = _COLUMNS // max(n, 1)
    if fold < 2 or m < _COLUMNS or any(each.stride()[1:] != (n, 1) for each in (Q, G)):
        M = torch.bmm(Q.permute(1, 2, 0), G.permute(1, 0, 2))
        return M + M.mT
    whole = m - m % fold
    left, right = (each[:, :whole].unflatten(1, (-1, fold)).flatten(2).permute(1, 0, 2) for each in (Q, G))
    blocks = torch.bmm(left.mT, right).unflatten(2, (fold, n)).unflatten(1, (fold, n))
    folded = blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).flatten(0, 1)
    rest = torch.bmm(Q[:, whole:].permute(1, 2, 0), G[:, whole:].permute(1, 0, 2))
    every = torch.cat([folded, rest])
    return every + every.mT


def _pullback(P: Tensor, Q: Tensor, G: Tensor) -> Tensor:
    """Compute QK + (I − QQᵀ)GH⁻¹ for batches [m, l, n]."""
    H, M = torch.bmm(Q.mT, P), torch.bmm(Q.mT, G)
    sizes, V = torch.linalg.eigh((H + H.mT) / 2)
    skew = torch.bmm(V.mT, torch.bmm(M - M.mT, V)) / (sizes[:, :, None] + sizes[:, None, :])
    K = torch.bmm(torch.bmm(V, skew), V.mT)
    inverse = torch.bmm(V / sizes[:, None, :], V.mT)
    return torch.bmm(G, inverse) + torch.bmm(Q, K - torch.bmm(M, inverse))


def _projection(Q: Phi, G: Phi) -> Phi:
    """Compute G − Q·½(QᵀG + GᵀQ) in the compute dtype."""
    dtype = reference.compute_dtype(G.dtype)
    wide_Q, wide_G = Q.to(dtype), G.to(dtype)
    return _add_product(wide_G, wide_Q, _symmetric_cross_gram(wide_Q, wide_G), -0.5)


class _PolarFactor(torch.autograd.Function):
    """The polar factor, computed before; its derivative at any Φ."""

    @staticmethod
    def forward(phi: Tensor, nearest: Tensor) -> Tensor:  # noqa: ARG004  # pyright: ignore
        return nearest.view_as(nearest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        P, Q, G = (reference.group_matrices(tensor) for tensor in (*ctx.saved_tensors, grad))
        with reference.full_precision(G):
            return _pullback(P, Q, G).permute(1, 0, 2).to(grad.dtype), None


class _OrthonormalPolarFactor(torch.autograd.Function):
    """The same at an orthonormal Φ, where H = I."""

    @staticmethod
    def forward(phi: Tensor, nearest: Tensor) -> Tensor:  # noqa: ARG004  # pyright: ignore
        return nearest.view_as(nearest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        (Q,) = ctx.saved_tensors
        with reference.full_precision(grad):
            return _projection(Q, grad).to(grad.dtype), None
