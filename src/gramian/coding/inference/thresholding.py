"""Block iterative hard thresholding: gradient steps, each followed by a selection of groups."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.coding.inference.base import Inference, check_start, check_stop
from gramian.coding.inference.support import ridge_codes
from gramian.coding.model import Codes, group_norms
from gramian.coding.priors import GroupL0, Prior, as_prior
from gramian.coding.synthesis import Samples, ShardedSynthesis, Synthesis, as_synthesis
from gramian.errors import OptionError
from gramian.options import real_number, whole_number
from gramian.typing import Phi

__all__ = ["block_iht", "counting_prior"]


def counting_prior(prior: str | Prior, method: str) -> GroupL0:
    """Look up a prior that has a price for every active group.

    Raises:
        OptionError: If it has none.
    """
    prior = as_prior(prior)
    if not isinstance(prior, GroupL0):
        raise OptionError(
            f"prior must have a price for every active group for {method}; got {prior!r}; try prior='group_l0', or "
            "infer='fista'"
        )
    return prior


def block_iht(
    x: Samples,
    phi: Phi | Synthesis,
    *,
    lam: float | None = None,
    active: int | None = None,
    prior: str | Prior = "group_l0",
    max_iter: int = 200,
    tol: float | None = 1e-4,
    start: Codes | None = None,
) -> Inference:
    r"""Infer codes with proximal gradient steps for a prior that has a price for every active group.

    a ← prox(a + ηΦᵀ(x − Φa)), with the prox of the prior, a hard threshold for every group, or with the k groups of
    largest amplitude. η is the step that minimises the error along the gradient on the current support; if the energy
    would rise, η = 1/L with L the largest eigenvalue of ΦᵀΦ, for which it cannot. At the end, the codes are fitted by
    least squares on their support. So the energy never rises.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.
        lam: Price λ > 0 of an active group.
        active: Number k of active groups of each sample; it takes precedence over λ.
        prior: 'group_l0' or a `SpikeSlab`.
        max_iter: Maximal number of iterations; 0 fits the initial codes on their support.
        tol: A sample is done when its support is that of the iteration before and its energy has changed by at most
            this fraction; None or 0 runs all iterations.
        start: Initial codes; by default 0.

    Returns:
        The codes. No bound on the distance from the least energy is known, so the gap is infinite; on its support, the
        codes have the least energy (with a Laplace slab, after the last iteration's prox).

    Raises:
        ShapeError: If `x` or `start` does not fit the dictionary.
        OptionError: If neither λ nor k is given, a number is out of range, or the prior has no price for active groups.

    Cost:
        4–6·batch·l·m·n flops per iteration; memory for a few tensors of the size of the codes.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> result = block_iht(torch.randn(10, 32), phi, active=3)
        >>> result.support.sum(dim=1).tolist()
        [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]

    References:
        Blumensath and Davies, "Normalized iterative hard thresholding: guaranteed stability and performance", 2010.
    """
    synthesis = as_synthesis(phi)
    check_stop(max_iter, tol)
    if lam is None and active is None:
        raise OptionError("block_iht must have the price of an active group or their number; try lam=2.0 or active=4")
    slab = counting_prior(prior, "block_iht")
    zeros = synthesis.zeros(x)
    check_start(start, zeros)
    if active is not None and isinstance(synthesis, ShardedSynthesis):
        raise OptionError("active must be given with groups on one process; got groups on several; try lam")
    selection = _Selection(slab, 0.0 if lam is None else real_number(lam, name="lam"), None)
    if active is not None:
        selection = _Selection(GroupL0(), 0.0, whole_number(active, name="active"))
    with torch.no_grad():
        codes = zeros if start is None else start.to(zeros)
        codes, iterations, converged = _iterate(x, synthesis, selection, codes, max_iter=max_iter, tol=tol)
        if slab.ridge is not None:
            fitted = ridge_codes(x, synthesis, group_norms(codes) > 0, slab.ridge)
            codes = torch.where(codes.flatten(1).isfinite().all(dim=1).view(-1, *[1] * (codes.ndim - 1)), fitted, codes)
        gap = x.new_full((len(x),), torch.inf)
        return Inference(codes, iterations, gap, converged, certified="support")


@dataclass(frozen=True)
class _Selection:
    """The prox of a prior, or the k largest groups."""

    prior: GroupL0
    lam: float
    active: int | None

    def prox(self, codes: Codes, step: Tensor) -> Codes:
        if self.active is None:
            return self.prior.prox(codes, self.lam, step.view(-1, *[1] * (codes.ndim - 2)))
        amplitudes = group_norms(codes).flatten(1)
        count = min(self.active, amplitudes.shape[1])
        groups = amplitudes.topk(count, dim=1).indices
        mask = torch.zeros_like(amplitudes, dtype=torch.bool).scatter_(1, groups, value=True)
        return torch.where(mask.view(group_norms(codes).shape).unsqueeze(2), codes, 0)

    def step(self, codes: Codes, gradient: Codes, size: Tensor) -> Codes:
        """Make a gradient step of a size for each sample, and select groups."""
        return self.prox(codes + size.view(-1, *[1] * (codes.ndim - 1)) * gradient, size)

    def energy(self, error: Samples, codes: Codes, synthesis: Synthesis) -> Tensor:
        square = 0.5 * error.square().flatten(1).sum(dim=1)
        return square if self.active is not None else square + synthesis.total(self.prior.value(codes, self.lam))


def _iterate(
    x: Samples, synthesis: Synthesis, selection: _Selection, codes: Codes, *, max_iter: int, tol: float | None
) -> tuple[Codes, int, bool]:
    lipschitz = synthesis.bound(x)
    tiny = torch.finfo(x.dtype).tiny
    result = codes.clone()
    rows = torch.arange(len(x), device=x.device)
    error = x - synthesis.synthesise(codes)
    energy = selection.energy(error, codes, synthesis)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    iterations = 0
    for iterations in range(1, max_iter + 1):
        gradient = synthesis.analyse(error)
        support = group_norms(codes) > 0
        # From zero codes, the direction is that of the groups which the selection keeps for orthonormal atoms.
        empty = ~support.flatten(1).any(dim=1)
        if bool(empty.any()):
            support[empty] = group_norms(selection.prox(gradient[empty], x.new_ones(int(empty.sum())))) > 0
        along = gradient * support.unsqueeze(2)
        curvature = synthesis.synthesise(along).square().flatten(1).sum(dim=1)
        power = synthesis.total(along.square().flatten(1).sum(dim=1))
        step = torch.where(curvature > 0, power / curvature.clamp_min(tiny), 1 / lipschitz).clamp_min(1 / lipschitz)
        moved = selection.step(codes, gradient, step)
        new_error = x[rows] - synthesis.synthesise(moved)
        new_energy = selection.energy(new_error, moved, synthesis)
        uphill = (new_energy > energy).nonzero()[:, 0]
        if len(uphill):
            safe = x.new_full((len(uphill),), 1 / lipschitz)
            moved[uphill] = selection.step(codes[uphill], gradient[uphill], safe)
            new_error[uphill] = x[rows[uphill]] - synthesis.synthesise(moved[uphill])
            new_energy[uphill] = selection.energy(new_error[uphill], moved[uphill], synthesis)
        same = ((group_norms(moved) > 0) == (group_norms(codes) > 0)).flatten(1).all(dim=1)
        # A change that rounding turns uphill ends the iteration, too.
        settled = same & ((energy - new_energy) <= (tol or 0.0) * energy) if tol else torch.zeros_like(same)
        better = (new_energy <= energy).view(-1, *[1] * (codes.ndim - 1))
        codes = torch.where(better, moved, codes)
        error = torch.where(better.view(-1, *[1] * (error.ndim - 1)), new_error, error)
        energy = torch.minimum(energy, new_energy)
        new = settled & ~done[rows]
        result[rows[new]] = codes[new]
        done[rows] |= settled
        remaining = (~done[rows]).nonzero()[:, 0]
        if not len(remaining):
            return result, iterations, True
        if 2 * len(remaining) <= len(rows):
            rows, codes, error, energy = rows[remaining], codes[remaining], error[remaining], energy[remaining]
    remaining = (~done[rows]).nonzero()[:, 0]
    result[rows[remaining]] = codes[remaining]
    return result, iterations, not tol and max_iter > 0
