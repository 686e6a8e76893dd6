"""Minimise the loss on a tensor, to a tolerance, and say what that took."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gramian.errors import DataError, NotConvergedWarning, OptionError, ShapeError
from gramian.kernels import dense
from gramian.layout import Layout, as_phi, from_phi
from gramian.objective import as_number
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule, check_lr
from gramian.typing import GroupScalars, Phi

__all__ = ["Orthogonalization", "orthogonalize", "rounding_level"]

_CLOSE = 1e-3
"""The largest |X_jk| below which a step that does not help has met rounding."""

_PATIENCE = 30
"""Steps without progress after which it is asked why."""

_PROGRESS = 1e-6
"""By which share the residual of some group must fall to count as progress."""

_NAMED = 5


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
        unconverged: The groups whose largest |X_jk| is above the tolerance; empty where `converged`.
    """

    phi: Tensor
    steps: int
    residual: float
    converged: bool
    distance: float
    polar_distance: float
    unconverged: tuple[int, ...] = ()


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
    would overflow, or vanish, is first scaled by a power of two. The result is then within a few per cent of the polar
    factor, the nearest orthonormal tensor; `lr=math.inf` converges to that factor itself.

    A start whose vectors are linearly dependent keeps its rank at every step of every rule, and cannot converge: the
    steps end early, with a warning. A nearly dependent one takes many steps where a step is small: its smallest
    singular value grows by a factor of at most 1.5 a step, and by only 1 + 2ηβ/k with the spectral penalty, which
    shares each step among the k directions that are short. `lr=math.inf` takes the factor 1.5 with every penalty.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; n ≤ l. Not written to.
        layout: Which axes are vector, group and member.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        lr: Learning rate η of the rule at β = 1; 0.25 makes τ = 1.
        tol: Stop when the largest |X_jk| is at most this; default `rounding_level(phi.dtype, l)`.
        max_steps: Stop after as many steps in any case.

    Returns:
        The result and how it came about; `converged` says whether the tolerance was met, `unconverged` where not.

    Raises:
        DataError: If `phi` holds a NaN or an infinite entry.
        ShapeError: If n > l, where no group can be orthonormal.
        DtypeError, LayoutError, OptionError: As for `gramian.step_`.

    Warns:
        NotConvergedWarning: If the tolerance was not met, naming the groups and what to try.

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
        length, _, members = start.shape
        tol = rounding_level(start.dtype, length) if tol is None else as_number(tol, "tol")
        if not tol >= 0:
            raise OptionError(f"tol must be at least 0; got {tol!r}; try tol=1e-5")
        if not isinstance(max_steps, int) or max_steps < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"max_steps must be an integer of at least 0; got {max_steps!r}; try max_steps=1000")
        if members > length:
            raise ShapeError(
                f"groups must have n <= l vectors to be orthonormal; got n = {members}, l = {length}; try a layout "
                "with smaller groups, or one that makes the longer axis the vector"
            )
        _check_finite(start)
        wide = dense.compute_dtype(start.dtype)
        # A 16-bit result is rounded once more at the end: leave it room for that.
        target = tol if wide == start.dtype else max(tol / 4, rounding_level(wide))
        scales = _scales(start.to(wide))
        current = start.to(wide) * scales[:, None]

        def step(P: Phi) -> Phi:
            return P + update(P, lr=lr, beta=1.0, penalty=mu).change

        # A float32 product over a long axis drifts, by 1e-5 at l = 100,000, and the rule follows it. So float64 judges,
        # and makes the last steps if it has to; the rounding to 16 bits hides what it could mend.
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


def rounding_level(dtype: torch.dtype, length: int = 1) -> float:
    """Give the largest |X_jk| that rounding alone explains: 4ε of the dtype; in float64 √l·ε where that is more.

    Storing P in a format of spacing ε moves an entry of PᵀP by at most ε. Forming PᵀP moves it by more, the longer the
    sum: of l squares that add up to 1, one after the other, by about √l·ε/8 (0.44·√l·ε was the most seen in 2000 sums
    of each length up to 100,000). PᵀP is judged in float64, so that this counts in float64 alone.

    Args:
        dtype: Of P.
        length: l.

    Examples:
        >>> import torch
        >>> rounding_level(torch.float32), rounding_level(torch.float64, 10000)
        (4.76...e-07, 2.22...e-14)
    """
    return max(4 * torch.finfo(dtype).eps, math.sqrt(length) * torch.finfo(torch.float64).eps)


class _End(NamedTuple):
    """Why steps ended, whether further ones are useless in float64 too, and what to try."""

    final: bool
    remedy: str


_ENDS = {
    "tolerance": _End(final=False, remedy="rounding to the dtype undid it; try a larger tol"),
    "steps": _End(
        final=True, remedy="{steps} steps were too few; try a larger max_steps, or the proximal rule with lr=math.inf"
    ),
    "rounding": _End(final=False, remedy="after {steps} steps rounding is all that is left; try a larger tol"),
    "rank": _End(
        final=True,
        remedy="their vectors are linearly dependent, which no step changes; try to add a little noise, such as "
        "phi + 1e-3 * torch.randn_like(phi)",
    ),
    "overflow": _End(final=True, remedy="step {steps} would overflow; try a smaller lr, or rule='proximal'"),
}


class _Descent(NamedTuple):
    phi: Phi
    steps: int
    end: _End


class _Measure(NamedTuple):
    """Of each group the largest |X_jk| that the penalty sees and ‖X‖_F; and the largest of all."""

    entries: GroupScalars
    sizes: GroupScalars
    largest: float


def _measure(phi: Phi, penalty: Penalty) -> _Measure:
    X = penalty.seen(dense.residual(phi))
    if not X.numel():
        nothing = X.new_zeros(len(X))
        return _Measure(nothing, nothing, 0.0)
    entries = X.abs().amax(dim=(1, 2))
    return _Measure(entries, torch.linalg.vector_norm(X, dim=(1, 2)), float(entries.max()))


def _descend(current: Phi, step: Callable[[Phi], Phi], penalty: Penalty, level: float, most: int) -> _Descent:
    """Step until the largest |X_jk| is at most `level`, and no further than it can help."""
    now, steps, before = _measure(current, penalty), 0, math.inf
    least, waited, patience = now, 0, _PATIENCE
    while now.largest > level:
        if steps == most:
            return _Descent(current, steps, _ENDS["steps"])
        if before <= now.largest < _CLOSE and current.dtype == torch.float32:
            return _Descent(current, steps, _ENDS["rounding"])  # float64 goes on from here
        if waited == patience:
            stuck = now.entries > level
            far = stuck & (now.entries >= _CLOSE)
            if not bool(far.any()):
                return _Descent(current, steps, _ENDS["rounding"])
            if _dependent(current[:, far]):
                return _Descent(current, steps, _ENDS["rank"])
            # A singular value that is small grows unseen for many steps.
            waited, patience = 0, 2 * patience
        moved = step(current)
        then = _measure(moved, penalty)
        if not math.isfinite(then.largest):
            return _Descent(current, steps, _ENDS["overflow"])
        current, steps, before, now = moved, steps + 1, now.largest, then
        fell = (now.sizes < least.sizes * (1 - _PROGRESS)) | (now.entries < least.entries * (1 - _PROGRESS))
        waited = 0 if bool((fell & (now.entries > level)).any()) else waited + 1
        least = _Measure(torch.minimum(least.entries, now.entries), torch.minimum(least.sizes, now.sizes), now.largest)
    return _Descent(current, steps, _ENDS["tolerance"])


def _dependent(phi: Phi) -> bool:
    """Tell whether the vectors of every group are linearly dependent, as far as float64 can tell."""
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
    """Give for each group a power of two that keeps its Gram matrix from overflow and underflow: 1 where none is near.

    Scaling by it is exact, and moves the polar factor not at all.
    """
    scales = start.new_ones(start.shape[1])
    if not start.numel():
        return scales
    length, _, n = start.shape
    format_ = torch.finfo(start.dtype)
    sizes = start.abs().amax(dim=(0, 2))
    high = math.sqrt(format_.max / (4 * length * n**2))
    outside = ((sizes > high) | (sizes < math.sqrt(format_.tiny))) & (sizes > 0)
    most = math.frexp(format_.max)[1] - 4  # a scale must itself be a number
    for i in outside.nonzero()[:, 0].tolist():
        scales[i] = math.ldexp(1.0, max(-most, min(most, -math.frexp(sizes[i].item())[1])))
    return scales


def _norm(difference: Tensor) -> float:
    """Give the Frobenius norm, without an overflow of squares."""
    unit = float(difference.abs().max()) if difference.numel() else 0.0
    if unit == 0 or not math.isfinite(unit):
        return unit
    return unit * float(torch.linalg.vector_norm(difference / unit))


def _polar_distance(start: Phi, scales: GroupScalars) -> float:
    # ‖P − U‖² = Σ (σ − 1)² over the singular values; from the Gram matrix they are exact to √ε of the largest.
    if start.numel() == 0:
        return 0.0
    P = dense.group_matrices(start * scales[:, None].to(start.dtype)).double()
    squares = torch.linalg.eigvalsh(torch.bmm(P.mT, P)).clamp_min(0)
    return _norm(squares.sqrt() / scales[:, None].double() - 1)
