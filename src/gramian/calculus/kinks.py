"""The kinks of l1: one-sided directional derivatives, and the subgradient of least norm."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.calculus.gradients import residual
from gramian.errors import ShapeError

__all__ = ["LeastSubgradient", "directional_derivative", "min_norm_subgradient"]

Group = Float[Tensor, "l n"]


def directional_derivative(P: Group, V: Group, *, tol: float = 0.0) -> Float[Tensor, ""]:
    r"""Compute the one-sided derivative of Σ|PᵀP − I| at P in the direction V, also at kinks.

    With D = PᵀV + VᵀP it is Σ_{X≠0} sign(X_jk) D_jk + Σ_{X=0} |D_jk|.

    Args:
        P: One group [l, n].
        V: A direction [l, n].
        tol: Largest |X_jk| that counts as zero.

    Returns:
        A number.

    Raises:
        ShapeError: If P and V differ in shape.

    Examples:
        >>> import torch
        >>> P = torch.eye(3)[:, :2]  # orthonormal, where every entry of X has its kink
        >>> directional_derivative(P, P).item(), directional_derivative(P, -P).item()
        (4.0, 4.0)
    """
    if P.shape != V.shape:
        raise ShapeError(f"P and V must have the same shape; got {list(P.shape)} and {list(V.shape)}")
    X = residual(P)
    half = P.mT @ V
    D = half + half.mT
    return torch.where(X.abs() <= tol, D.abs(), torch.sign(X) * D).sum()


@dataclass(frozen=True, eq=False)
class LeastSubgradient:
    """The member of least norm of the Clarke subdifferential {2PG : |G_jk| ≤ 1, G_jk = sign X_jk where X_jk ≠ 0}.

    Attributes:
        subgradient: 2PG, [l, n]. Its negative is the direction of steepest descent; it is zero at a stationary P.
        G: The symmetric matrix in 2PG, [n, n].
        gap: Bound on the difference between ½‖2PG‖² and its minimum: the Frank–Wolfe gap, a certificate.
    """

    subgradient: Group = field(repr=False)
    G: Float[Tensor, "n n"] = field(repr=False)
    gap: float


def min_norm_subgradient(P: Group, *, tol: float = 0.0, max_steps: int = 10_000) -> LeastSubgradient:
    r"""Compute the subgradient of Σ|PᵀP − I| of least norm, by accelerated projected gradients over the free G_jk.

    The gradient of `gramian.loss` uses sign(0) = 0, a member that costs nothing; this member gives steepest descent.

    Args:
        P: One group [l, n].
        tol: Largest |X_jk| that counts as zero.
        max_steps: Largest number of steps.

    Returns:
        The subgradient, with a bound on its error.

    Cost:
        2·l·n² flops, and 4·n³ for each step; it stops when the gap is at rounding.

    References:
        Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", 2009.

    Examples:
        >>> import torch
        >>> P = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # orthogonal, the first of length 1
        >>> result = min_norm_subgradient(P)
        >>> (result.subgradient.abs() > 1e-6).tolist()  # only the second vector should change
        [[False, False], [False, True]]
    """
    X = residual(P)
    free = X.abs() <= tol
    fixed = torch.where(free, 0, torch.sign(X))
    A = P.mT @ P
    # ½‖2PG‖² has the gradient 4·sym(AG), of Lipschitz constant 4‖A‖₂.
    step = 1 / (4 * torch.linalg.matrix_norm(A, 2).clamp_min(torch.finfo(P.dtype).tiny))
    current = momentum = fixed
    t = 1.0
    scale = 1 + 2 * (P @ fixed).square().sum().item()
    gap = 0.0
    for _ in range(max_steps):
        AG = A @ current
        slope = torch.where(free, 2 * (AG + AG.mT), 0)
        # The linear model at G, minimised over the box |G_jk| ≤ 1, bounds the minimum from below.
        gap = (slope * current + slope.abs()).sum().item()
        if gap <= 16 * torch.finfo(P.dtype).eps * scale:
            break
        AM = A @ momentum
        unclamped = momentum - step * 2 * (AM + AM.mT)
        following = torch.where(free, unclamped.clamp(-1, 1), fixed)
        if ((momentum - following) * (following - current)).sum() > 0:
            t, momentum = 1.0, current  # the momentum points uphill: restart it
            continue
        new_t = (1 + (1 + 4 * t * t) ** 0.5) / 2
        momentum = following + (t - 1) / new_t * (following - current)
        current, t = following, new_t
    return LeastSubgradient(2 * P @ current, current, gap)
