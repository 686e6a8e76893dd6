"""Minimise the loss of a tensor to a tolerance."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gramian.errors import DataError, NotConvergedWarning, ShapeError
from gramian.kernels import reference
from gramian.layout import Layout, as_phi, from_phi
from gramian.options import check_lr, real_number, whole_number
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule
from gramian.rules.restore import rounding_level
from gramian.typing import GroupScalars, Phi

__all__ = ["Orthogonalization", "orthogonalize"]

_CLOSE = 1e-3
"""The largest |X_jk| up to which rounding is the reason for a step without progress."""

_PATIENCE = 30
"""Steps without progress after which the reason is determined."""

_PROGRESS = 1e-6
"""The relative decrease of the residual of a group that counts as progress."""

_NAMED = 5


@dataclass(frozen=True)
class Orthogonalization:
    """The result of `orthogonalize`.

    Attributes:
        phi: The tensor, of the shape and dtype of the input.
        steps: Number of steps of the rule.
        residual: Largest |X_jk| of the result that the penalty includes, with the products in float64.
        converged: Whether `residual` is at most the tolerance.
        distance: Frobenius distance ‖Φ − Φ₀‖ from the start to the result.
        polar_distance: Frobenius distance from the start to its polar factor, the smallest distance possible.
        unconverged: The groups whose largest |X_jk| is above the tolerance; empty if `converged`.
    """

    phi: Tensor
    steps: int
    residual: float
    converged: bool
    distance: float
    polar_distance: float
    unconverged: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Orthogonalization(converged={self.converged}, steps={self.steps}, residual={self.residual:.3g}, "
            f"distance={self.distance:.3g}, polar_distance={self.polar_distance:.3g})"
        )


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

    With the proximal rule any finite start of full column rank converges, at any scale: a group whose Gram matrix
    would overflow or underflow is first scaled by a power of two. The distance to the result is then within a few per
    cent of the distance to the polar factor, the nearest orthonormal tensor; `lr=math.inf` converges to the polar
    factor itself.

    Every step of every rule preserves the rank, so a start with linearly dependent vectors cannot converge: the steps
    end early, with a warning. A nearly dependent start needs many steps if the steps are small: its smallest singular
    value grows by a factor of at most 1.5 a step, and by 1 + 2ηβ/k with the spectral penalty, which divides each step
    among the k directions that are too short. With `lr=math.inf` the factor is 1.5 for every penalty.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; n ≤ l. Not written to.
        layout: Which axes are vector, group and member.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        lr: Learning rate η of the rule at β = 1; 0.25 makes τ = 1.
        tol: Largest |X_jk| at which the steps stop; by default 4ε of the dtype, and in float64 the larger of this and
            (2 + √l/2)·ε.
        max_steps: Largest number of steps.

    Returns:
        The tensor with its residual and distances; `converged` tells whether the tolerance was met, and `unconverged`
        lists the groups that do not meet it.

    Raises:
        DataError: If `phi` holds a NaN or an infinite entry.
        ShapeError: If n > l, because no group can be orthonormal then.
        DtypeError, LayoutError, OptionError: As for `gramian.step_`.

    Warns:
        NotConvergedWarning: If the tolerance was not met, with the groups and a remedy.

    Cost:
        One application of the rule and one Gram product for each step; at the end the residual and the eigenvalues of
        the Gram matrices in float64, for `residual` and `polar_distance`.

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
        length, _, members = start.shape
        if tol is None:
            tol = rounding_level(start.dtype, length)
        tol = real_number(tol, name="tol", zero=True, infinite=True, attempt="1e-5")
        max_steps = whole_number(max_steps, name="max_steps", least=0)
        if members > length:
            raise ShapeError(
                f"groups must have n <= l vectors to be orthonormal; got n = {members}, l = {length}; try a layout "
                "with smaller groups, or one that makes the longer axis the vector"
            )
        _check_finite(start)
        wide = reference.compute_dtype(start.dtype)
        # A 16-bit result is rounded once more at the end, which the tolerance of the steps must allow for.
        target = tol if wide == start.dtype else max(tol / 4, rounding_level(wide))
        scales = _scales(start.to(wide))
        current = start.to(wide) * scales[:, None]

        def step(P: Phi) -> Phi:
            return P + update(P, lr=lr, beta=1.0, penalty=mu).change

        # A float32 product over a long axis is off, by 1e-5 at l = 100,000, and the rule converges to its error. So the
        # residual is measured in float64, and the last steps are made in float64 if necessary; not for 16-bit results,
        # whose rounding is larger.
        steps, end = 0, _ENDS["tolerance"]
        for dtype, level in ((wide, target), *(((torch.float64, tol / 4),) if wide != torch.float64 else ())):
            if _measure(current.double(), mu).largest <= tol or end.final or wide not in (dtype, start.dtype):
                break
            descent = _descend(current.to(dtype), step, mu, level, max_steps - steps)
            current, steps, end = descent.phi, steps + descent.steps, descent.end
        rounded = current.to(start.dtype)
        final = _measure(rounded.double(), mu)
        unconverged = tuple((~(final.entries <= tol)).nonzero()[:, 0].tolist())
        if unconverged:
            _warn(unconverged, start.shape[1], final.largest, tol, end.remedy.format(steps=steps))
        return Orthogonalization(
            phi=from_phi(rounded, phi, layout).clone(),
            steps=steps,
            residual=final.largest,
            converged=not unconverged,
            distance=_norm(rounded.double() - start.double()),
            polar_distance=_polar_distance(start, scales),
            unconverged=unconverged,
        )


class _End(NamedTuple):
    """The reason why steps ended, whether steps in float64 would end for the same reason, and a remedy."""

    final: bool
    remedy: str


_ENDS = {
    "tolerance": _End(final=False, remedy="rounding to the dtype exceeds it; try a larger tol"),
    "steps": _End(
        final=True, remedy="{steps} steps were too few; try a larger max_steps, or the proximal rule with lr=math.inf"
    ),
    "rounding": _End(final=False, remedy="after {steps} steps only rounding remains; try a larger tol"),
    "rank": _End(
        final=True,
        remedy="their vectors are linearly dependent, which no step changes; try to add noise, such as "
        "phi + 1e-3 * torch.randn_like(phi)",
    ),
    "overflow": _End(final=True, remedy="step {steps} would overflow; try a smaller lr, or rule='proximal'"),
}


class _Descent(NamedTuple):
    phi: Phi
    steps: int
    end: _End


class _Measure(NamedTuple):
    """For each group, the largest |X_jk| that the penalty includes and ‖X‖_F; and the largest |X_jk| of all."""

    entries: GroupScalars
    sizes: GroupScalars
    largest: float


def _measure(phi: Phi, penalty: Penalty) -> _Measure:
    X = penalty.penalized(reference.residual(phi))
    if not X.numel():
        zeros = X.new_zeros(len(X))
        return _Measure(zeros, zeros, 0.0)
    entries = X.abs().amax(dim=(1, 2))
    return _Measure(entries, torch.linalg.vector_norm(X, dim=(1, 2)), float(entries.max()))


def _descend(current: Phi, step: Callable[[Phi], Phi], penalty: Penalty, level: float, max_steps: int) -> _Descent:
    """Make steps until the largest |X_jk| is at most `level`, or until they stop improving."""
    now, steps, before = _measure(current, penalty), 0, math.inf
    least, waited, patience = now, 0, _PATIENCE
    # Below the level of rounding the residual falls by chance, which is no progress.
    floor = max(level, rounding_level(current.dtype, len(current)))
    while now.largest > level:
        if steps == max_steps:
            return _Descent(current, steps, _ENDS["steps"])
        if before <= now.largest < _CLOSE and current.dtype == torch.float32:
            return _Descent(current, steps, _ENDS["rounding"])  # float64 continues from here
        if waited == patience:
            stuck = now.entries > level
            far = stuck & (now.entries >= _CLOSE)
            if not bool(far.any()):
                return _Descent(current, steps, _ENDS["rounding"])
            if _dependent(current[:, far]):
                return _Descent(current, steps, _ENDS["rank"])
            # A small singular value grows for many steps before the residual shows it.
            waited, patience = 0, 2 * patience
        proposal = step(current)
        measure = _measure(proposal, penalty)
        if not math.isfinite(measure.largest):
            return _Descent(current, steps, _ENDS["overflow"])
        current, steps, before, now = proposal, steps + 1, now.largest, measure
        fell = (now.sizes < least.sizes * (1 - _PROGRESS)) | (now.entries < least.entries * (1 - _PROGRESS))
        waited = 0 if bool((fell & (now.entries > floor)).any()) else waited + 1
        least = _Measure(torch.minimum(least.entries, now.entries), torch.minimum(least.sizes, now.sizes), now.largest)
    return _Descent(current, steps, _ENDS["tolerance"])


def _dependent(phi: Phi) -> bool:
    """Tell whether the vectors of every group are linearly dependent, to the precision of float64."""
    values = torch.linalg.svdvals(phi.permute(1, 0, 2).double())
    return bool((values[:, -1] <= math.sqrt(len(phi)) * torch.finfo(torch.float64).eps * values[:, 0]).all())


def _check_finite(start: Phi) -> None:
    finite = torch.isfinite(start)
    if not bool(finite.all()):
        bad = (~finite.all(dim=2).all(dim=0)).nonzero()[:, 0].tolist()
        raise DataError(
            f"phi must be finite to be orthogonalized; got NaN or infinite entries in {_named(bad, start.shape[1])}"
        )


def _named(groups: list[int] | tuple[int, ...], m: int) -> str:
    more = f" and {len(groups) - _NAMED} more" if len(groups) > _NAMED else ""
    listed = ", ".join(map(str, groups[:_NAMED]))
    return f"group{'s' if len(groups) > 1 else ''} {listed}{more} (of {m})"


def _warn(groups: tuple[int, ...], m: int, largest: float, tol: float, remedy: str) -> None:
    warnings.warn(
        f"{_named(groups, m)} did not become orthonormal: the largest |X_jk| must be at most {tol:.3g}; got "
        f"{largest:.3g}; {remedy}",
        NotConvergedWarning,
        stacklevel=3,
    )


def _scales(start: Phi) -> GroupScalars:
    """Choose for each group a power of two that prevents overflow and underflow of its Gram matrix: usually 1.

    Scaling by it is exact and does not change the polar factor.
    """
    scales = start.new_ones(start.shape[1])
    if not start.numel():
        return scales
    length, _, n = start.shape
    format_ = torch.finfo(start.dtype)
    sizes = start.abs().amax(dim=(0, 2))
    upper = math.sqrt(format_.max / (4 * length * n**2))
    outside = ((sizes > upper) | (sizes < math.sqrt(format_.tiny))) & (sizes > 0)
    largest = math.frexp(format_.max)[1] - 4  # the scale itself must not overflow
    for i in outside.nonzero()[:, 0].tolist():
        scales[i] = math.ldexp(1.0, max(-largest, min(largest, -math.frexp(sizes[i].item())[1])))
    return scales


def _norm(difference: Tensor) -> float:
    """Compute the Frobenius norm without an overflow of squares."""
    unit = float(difference.abs().max()) if difference.numel() else 0.0
    if unit == 0 or not math.isfinite(unit):
        return unit
    return unit * float(torch.linalg.vector_norm(difference / unit))


def _polar_distance(start: Phi, scales: GroupScalars) -> float:
    # ‖P − U‖² = Σ (σ − 1)² over the singular values; from the Gram matrix they are accurate to √ε of the largest.
    if start.numel() == 0:
        return 0.0
    P = reference.group_matrices(start * scales[:, None].to(start.dtype)).double()
    squares = torch.linalg.eigvalsh(torch.bmm(P.mT, P)).clamp_min(0)
    return _norm(squares.sqrt() / scales[:, None].double() - 1)
