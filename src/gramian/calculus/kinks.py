"""At a kink of l1: derivatives in a direction, and the shortest of all subgradients."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.calculus.gradients import residual
from gramian.errors import ShapeError

__all__ = ["LeastSubgradient", "directional_derivative", "min_norm_subgradient"]

Group = Float[Tensor, "l n"]


def directional_derivative(P: Group, V: Group, *, tol: float = 0.0) -> Float[Tensor, ""]:
    r"""Compute the one-sided derivative of Σ|PᵀP − I| at P in the direction V, at kinks too.

    With D = PᵀV + VᵀP it is Σ_{X≠0} sign(X_jk) D_jk + Σ_{X=0} |D_jk|.

    Args:
        P: One group [l, n].
        V: A direction [l, n].
        tol: Size of |X_jk| up to which an entry is taken to be zero.

    Returns:
        A number.

    Raises:
        ShapeError: If both are not of one shape.

    Examples:
        >>> import torch
        >>> P = torch.eye(3)[:, :2]  # orthonormal, where every entry of X has its kink
        >>> directional_derivative(P, P).item(), directional_derivative(P, -P).item()
        (4.0, 4.0)
    """
    if P.shape != V.shape:
        raise ShapeError(f"P and V must be of one shape; got {list(P.shape)} and {list(V.shape)}")
    X = residual(P)
    half = P.mT @ V
    D = half + half.mT
    return torch.where(X.abs() <= tol, D.abs(), torch.sign(X) * D).sum()


@dataclass(frozen=True)
class LeastSubgradient:
    """The shortest member of the Clarke subdifferential {2PG : |G_jk| ≤ 1, G_jk = sign X_jk where X_jk ≠ 0}.

    Attributes:
        subgradient: 2PG, [l, n]. Its negative is the direction of steepest descent; zero says that P stands still.
        G: The symmetric [n, n] that makes it.
        gap: By how much ½‖2PG‖² may still be above the least possible: certified, by the Frank–Wolfe gap.
    """

    subgradient: Group
    G: Float[Tensor, "n n"]
    gap: float


def min_norm_subgradient(P: Group, *, tol: float = 0.0, max_steps: int = 10_000) -> LeastSubgradient:
    r"""Find the shortest subgradient of Σ|PᵀP − I|, by projected gradients with momentum over the free entries of G.

    `gramian.loss` takes sign(0) = 0, which is one member and cheap; this is the one that steepest descent takes.

    Args:
        P: One group [l, n].
        tol: Size of |X_jk| up to which an entry is taken to be zero.
        max_steps: Stop after as many steps in any case.

    Returns:
        The subgradient, with a bound of its error.

    Cost:
        2·l·n² + 2·n³ flops a step; it stops when the gap is at rounding.

    References:
        Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", 2009.

    Examples:
        >>> import torch
        >>> P = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)  # orthogonal, the first of length 1
        >>> found = min_norm_subgradient(P)
        >>> (found.subgradient.abs() > 1e-6).tolist()  # the second alone should change
        [[False, False], [False, True]]
    """
    X = residual(P)
    free = X.abs() <= tol
    fixed = torch.where(free, 0, torch.sign(X))
    A = P.mT @ P
    # ½‖2PG‖² has the gradient 4·sym(AG), of Lipschitz constant 4‖A‖₂.
    step = 1 / (4 * torch.linalg.matrix_norm(A, 2).clamp_min(torch.finfo(P.dtype).tiny))
    found = momentum = fixed
    t = 1.0
    scale = 1 + 2 * (P @ fixed).square().sum().item()
    gap = 0.0
    for _ in range(max_steps):
        AG = A @ found
        slope = torch.where(free, 2 * (AG + AG.mT), 0)
        # No member of the box lies lower than this along the slope.
        gap = (slope * found + slope.abs()).sum().item()
        if gap <= 16 * torch.finfo(P.dtype).eps * scale:
            break
        AM = A @ momentum
        pulled = momentum - step * 2 * (AM + AM.mT)
        following = torch.where(free, pulled.clamp(-1, 1), fixed)
        if ((momentum - following) * (following - found)).sum() > 0:
            t, momentum = 1.0, found  # the momentum leads uphill: begin it again
            continue
        faster = (1 + (1 + 4 * t * t) ** 0.5) / 2
        momentum = following + (t - 1) / faster * (following - found)
        found, t = following, faster
    return LeastSubgradient(2 * P @ found, found, gap)
