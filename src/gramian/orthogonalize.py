"""Minimise the loss on a tensor, to a tolerance, and say what that took."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.errors import DataError, OptionError, ShapeError
from gramian.kernels import dense
from gramian.layout import Layout, as_phi, from_phi
from gramian.objective import as_number
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, check_lr
from gramian.typing import Phi

__all__ = ["Orthogonalization", "orthogonalize", "rounding_level"]

_CLOSE = 1e-3


@dataclass(frozen=True)
class Orthogonalization:
    """What `orthogonalize` did.

    Attributes:
        phi: The result, of the shape and dtype of the input.
        steps: How many steps of the rule were taken.
        residual: Largest |X_jk| of the result that the penalty sees, with the products in float64.
        converged: Whether `residual` is at most the tolerance.
        distance: Frobenius distance ‖Φ − Φ₀‖ from the start to the result.
        polar_distance: The same from the start to its polar factor: the smallest distance possible.
    """

    phi: Tensor
    steps: int
    residual: float
    converged: bool
    distance: float
    polar_distance: float


def orthogonalize(
    phi: Tensor,
    *,
    layout: Layout | str | None = None,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    lr: float = 0.25,
    tol: float | None = None,
    max_steps: int = 1000,
) -> Orthogonalization:
    r"""Minimise L on a tensor until every group is orthonormal to a tolerance.

    With the proximal rule any finite start of full column rank converges, at any scale at which its Gram matrix does
    not overflow (entries below about 1e18 in float32). The result is then within
    a few per cent of the polar factor, the nearest orthonormal tensor; `lr=math.inf` converges to that factor itself.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; n ≤ l. Not written to.
        layout: Which axes are vector, group and member.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        lr: Learning rate η of the rule at β = 1; 0.25 makes τ = 1.
        tol: Stop when the largest |X_jk| is at most this; default `rounding_level(phi.dtype)`.
        max_steps: Stop after as many steps in any case.

    Returns:
        The result and how it came about; `converged` says whether the tolerance was met.

    Raises:
        DataError: If `phi` holds a NaN or an infinite entry.
        ShapeError: If n > l, where no group can be orthonormal.
        DtypeError, LayoutError, OptionError: As for `gramian.step_`.

    Cost:
        One step of the rule and one Gram product for each step, and at the end the residual and the eigenvalues of the
        Gram matrices in float64, for `residual` and `polar_distance`.

    Examples:
        >>> import torch, gramian
        >>> result = gramian.orthogonalize(torch.randn(64, 8, 4, generator=torch.Generator().manual_seed(0)))
        >>> result.converged, result.steps < 20, result.residual < 1e-6
        (True, True, True)

    References:
        Higham, "Computing the polar decomposition - with applications", 1986, for the nearest orthonormal factor.
    """
    update, mu, lr = as_rule(rule), as_penalty(penalty), check_lr(lr)
    with torch.no_grad():
        start = as_phi(phi, layout)
        tol = rounding_level(start.dtype) if tol is None else as_number(tol, "tol")
        if not tol >= 0:
            raise OptionError(f"tol must be at least 0; got {tol!r}; try tol=1e-5")
        if not isinstance(max_steps, int) or max_steps < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"max_steps must be an integer of at least 0; got {max_steps!r}; try max_steps=1000")
        length, _, members = start.shape
        if members > length:
            raise ShapeError(
                f"groups must have n <= l vectors to be orthonormal; got n = {members}, l = {length}; try a layout "
                "with smaller groups, or one that makes the longer axis the vector"
            )
        if not bool(torch.isfinite(start).all()):
            raise DataError("phi must be finite to be orthogonalized; got NaN or infinite entries")
        wide = dense.compute_dtype(start.dtype)
        # A 16-bit result is rounded once more at the end: leave it room for that.
        target = tol if wide == start.dtype else max(tol / 4, rounding_level(wide))
        # A float32 product over a long axis drifts, by 1e-5 at l = 100,000, and the rule follows it. So float64 judges,
        # and makes the last steps if it has to; the rounding to 16 bits hides what it could mend.
        current, steps = start.to(wide), 0
        for dtype, level in ((wide, target), (torch.float64, tol / 4)):
            if _largest_residual(current.double(), mu) <= tol or wide not in (dtype, start.dtype):
                break
            current = current.to(dtype)
            left, before = _largest_residual(current, mu), math.inf
            # Close by, a float32 step that does not help has met rounding.
            while left > level and steps < max_steps and not (before <= left < _CLOSE and dtype == torch.float32):
                current = current + update(current, lr=lr, beta=1.0, penalty=mu).change
                steps += 1
                left, before = _largest_residual(current, mu), left
        rounded = current.to(start.dtype)
        largest = _largest_residual(rounded.double(), mu)
        return Orthogonalization(
            phi=from_phi(rounded, phi, layout).clone(),
            steps=steps,
            residual=largest,
            converged=largest <= tol,
            distance=float(torch.linalg.vector_norm(rounded.double() - start.double())),
            polar_distance=_polar_distance(start),
        )


def rounding_level(dtype: torch.dtype) -> float:
    """Give the largest |X_jk| that rounding alone explains: 4ε of the dtype.

    Storing P in a format of spacing ε moves an entry of PᵀP by at most ε, and forming PᵀP by a few more.

    Examples:
        >>> import torch
        >>> rounding_level(torch.float32)
        4.76...e-07
    """
    return 4 * torch.finfo(dtype).eps


def _largest_residual(phi: Phi, penalty: Penalty) -> float:
    X = penalty.seen(dense.residual(phi))
    return float(X.abs().max()) if X.numel() else 0.0


def _polar_distance(start: Phi) -> float:
    # ‖P − U‖² = Σ (σ − 1)² over the singular values; from the Gram matrix they are exact to √ε of the largest.
    if start.numel() == 0:
        return 0.0
    P = dense.group_matrices(start).double()
    squares = torch.linalg.eigvalsh(torch.bmm(P.mT, P)).clamp_min(0)
    return math.sqrt(float((squares.sqrt() - 1).square().sum()))
