"""Mean-field inference on a few candidate groups of each sample."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gramian.coding.factors.parameters import FactorParameters

__all__ = ["Candidates", "bound", "expected_error", "infer", "reconstruction", "search", "sweep"]

Samples = Float[Tensor, "batch l"]

_LEAST_DETERMINANT = 1e-2
"""The least det(I + σ²/v − projection) for which the search adds a group to those that are on."""

_LEAST_GAIN = -7.0
"""The least log-odds of a group that is off and still a candidate: a probability of about 1/1000."""


@dataclass(frozen=True)
class Candidates:
    """A factorised posterior, Π_i q(s_i) q(a_i | s_i), whose groups outside the candidates are off.

    Attributes:
        groups: The candidate groups of each sample, [batch, k]; no group twice in a sample.
        inclusion: Probabilities q(s_i = 1), [batch, k].
        correlations: c_i = Φ_iᵀ(x − Σ_{j≠i} E[s_j Φ_j a_j]), [batch, k, n].
        means: Means of a_i given s_i = 1, [batch, k, n].
    """

    groups: Int[Tensor, "batch k"]
    inclusion: Float[Tensor, "batch k"]
    correlations: Float[Tensor, "batch k n"]
    means: Float[Tensor, "batch k n"]

    @property
    def codes(self) -> Float[Tensor, "batch k n"]:
        """The posterior means of s_i a_i."""
        return self.inclusion[..., None] * self.means

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors."""
        return self.groups, self.inclusion, self.correlations, self.means

    def rotate(self, rotations: Float[Tensor, "m n n"]) -> "Candidates":
        """Express the coefficients in the axes that are the columns of a rotation of each group."""
        r = rotations.to(self.means)[self.groups]
        correlations, means = ((each[..., None, :] @ r)[..., 0, :] for each in (self.correlations, self.means))
        return Candidates(self.groups, self.inclusion, correlations, means)

    def pad(self, k: int, m: int) -> "Candidates":
        """Add candidates of probability 0 until there are k."""
        batch, width = self.groups.shape
        if width >= k:
            return self
        taken = torch.zeros(batch, m, device=self.groups.device).scatter_(1, self.groups, 1.0)
        groups = torch.cat([self.groups, taken.topk(k - width, dim=1, largest=False).indices], dim=1)
        zeros = self.means.new_zeros(batch, k - width, self.means.shape[2])
        return Candidates(
            groups,
            torch.cat([self.inclusion, zeros[..., 0]], dim=1),
            torch.cat([self.correlations, zeros], dim=1),
            torch.cat([self.means, zeros], dim=1),
        )


def reconstruction(parameters: FactorParameters, candidates: Candidates) -> Samples:
    """Compute E[Σ_i s_i Φ_i a_i] for every sample."""
    batch, k = candidates.groups.shape
    n = parameters.phi.shape[2]
    rows = (candidates.groups[..., None] * n + torch.arange(n, device=candidates.groups.device)).reshape(batch, k * n)
    return functional.embedding_bag(
        rows, parameters.atoms, mode="sum", per_sample_weights=candidates.codes.reshape(batch, k * n)
    )


def _blocks(parameters: FactorParameters, groups: Tensor) -> Float[Tensor, "batch k n kn"]:
    """Gather the Gram blocks Φ_iᵀΦ_j of the candidates, with zeros for i = j."""
    m = parameters.phi.shape[1]
    blocks = parameters.gram[groups[:, :, None] * m + groups[:, None, :]]
    k = groups.shape[1]
    blocks[:, range(k), range(k)] = 0
    return blocks.transpose(2, 3).flatten(3)


class _Sweeper:
    """Coordinate ascent over the candidates of a batch."""

    def __init__(self, parameters: FactorParameters, products: Tensor, groups: Tensor, blocks: Tensor) -> None:
        self.blocks = blocks
        self.products = products
        self.shrinkage = parameters.shrinkage[groups]
        self.weights = 0.5 * self.shrinkage / parameters.noise
        self.log_odds = parameters.log_odds[groups]

    def __call__(self, means: Tensor, inclusion: Tensor, correlations: Tensor, *, fixed: bool) -> None:
        """Update every candidate in turn, in place; with `fixed`, the inclusion probabilities stay."""
        codes = inclusion[..., None] * means
        for j in range(means.shape[1]):
            c = self.products[:, j] - (self.blocks[:, j] @ codes.flatten(1)[..., None])[..., 0]
            correlations[:, j] = c
            means[:, j] = self.shrinkage[:, j] * c
            if not fixed:
                inclusion[:, j] = torch.sigmoid((c.square() * self.weights[:, j]).sum(dim=1) + self.log_odds[:, j])
            codes[:, j] = inclusion[:, j, None] * means[:, j]


class _Support:
    """The exact Gaussian posterior of the groups that are on, for a batch of samples with k slots each.

    With w = √(v/(v + σ²)), the posterior mean is w M⁻¹ w b and the covariance σ² w M⁻¹ w, where b = Φᵀx and
    M = I + w (ΦᵀΦ − I) w. A slot that is off has w = 0.
    """

    def __init__(self, parameters: FactorParameters, products: Tensor, k: int) -> None:
        batch, self.m, self.n = products.shape
        self.parameters, self.all_products, self.k = parameters, products, k
        self.groups = torch.zeros(batch, 0, dtype=torch.long, device=products.device)
        self.on = products.new_zeros(batch, k)
        self.products = products.new_zeros(batch, k, self.n)
        self.weights = products.new_zeros(batch, k, self.n)
        eye = torch.eye(k * self.n, dtype=products.dtype, device=products.device)
        self.inverse = eye.expand(batch, -1, -1).clone()

    def add_(self, new: Tensor, on: Tensor) -> None:
        """Put the groups `new` [batch] in the next slot, on or off."""
        n, j = self.n, self.groups.shape[1]
        used = j * n
        weights = self.parameters.shrinkage.sqrt()[new] * on[:, None]
        if j:
            blocks = self.parameters.gram[new[:, None] * self.m + self.groups].transpose(1, 2).flatten(2)
            row = weights[:, :, None] * blocks * self.weights[:, :j].flatten(1)[:, None]
            inverse = self.inverse[:, :used, :used]
            product = row @ inverse
            rest = torch.eye(n).to(row) - product @ row.mT
            # A group that lies almost within the span of the others stays off: float32 could not invert M.
            close = torch.linalg.det(rest) < _LEAST_DETERMINANT
            on = on * ~close
            weights = weights * on[:, None]
            product = product * on[:, None, None]
            corner = torch.linalg.inv(torch.where(close[:, None, None], torch.eye(n).to(row), rest))
            side = corner @ product
            inverse += product.mT @ side
            here = slice(used, used + n)
            self.inverse[:, here, :used], self.inverse[:, :used, here] = -side, -side.mT
            self.inverse[:, here, here] = corner
        self.groups = torch.cat([self.groups, new[:, None]], dim=1)
        self.on[:, j], self.weights[:, j] = on, weights
        self.products[:, j] = self.all_products.gather(1, new[:, None, None].expand(-1, -1, n))[:, 0]

    def scores(self) -> Tensor:
        """Compute M⁻¹ w b, [batch, k, n]."""
        weighted = (self.weights * self.products).flatten(1)[..., None]
        return (self.inverse @ weighted)[..., 0].unflatten(1, (self.k, self.n))

    def drop_(self) -> bool:
        """Switch off, in each sample, the group without which the evidence rises most; return whether there was one."""
        n, k = self.n, self.k
        diagonal = torch.stack([self.inverse[:, i * n : i * n + n, i * n : i * n + n] for i in range(k)], dim=1)
        scores = self.scores()
        inverse = torch.linalg.inv(diagonal)
        quadratic = (scores[..., None, :] @ inverse @ scores[..., None])[..., 0, 0]
        evidence = 0.5 * quadratic / self.parameters.noise - 0.5 * torch.logdet(inverse)
        j = self.groups.shape[1]
        evidence = torch.where(self.on[:, :j] > 0, evidence[:, :j] + self.parameters.log_odds[self.groups], torch.inf)
        worst = evidence.min(dim=1)
        rows = (worst.values < 0).nonzero()[:, 0]
        if not len(rows):
            return False
        slot = worst.indices[rows]
        columns = slot[:, None] * n + torch.arange(n, device=slot.device)
        side = self.inverse[rows[:, None], columns]
        self.inverse[rows] -= side.mT @ inverse[rows, slot] @ side
        size = k * n
        at = (rows[:, None], columns)
        self.inverse[at] = functional.one_hot(columns, size).to(side)
        self.inverse[rows[:, None], :, columns] = functional.one_hot(columns, size).to(side)
        self.on[rows, slot] = 0
        self.weights[rows, slot] = 0
        return True

    def candidates(self) -> Candidates:
        j = self.groups.shape[1]
        means = (self.weights * self.scores())[:, :j]
        return Candidates(self.groups, self.on[:, :j], means, means)


def search(x: Samples, parameters: FactorParameters, k: int) -> Candidates:
    """Choose candidates greedily by the gain in evidence, then switch off those without which the evidence rises.

    The coefficients are the exact posterior means given the groups that are on. The search ends when no sample gains
    from another group, or after k groups.

    Cost:
        2·batch·l·m·n flops for each group.
    """
    _, m, n = parameters.phi.shape
    k = min(k, m)
    products = (x @ parameters.atoms.mT).unflatten(1, (m, n))
    support = _Support(parameters, products, k)
    c = products
    for step in range(k):
        gain = parameters.gain(c).scatter_(1, support.groups, -torch.inf)
        best = gain.max(dim=1)
        more = best.values > 0
        if step and not bool(more.any()):
            break
        support.add_(best.indices, more.to(x))
        if step < k - 1:
            residual = x - reconstruction(parameters, support.candidates())
            c = (residual @ parameters.atoms.mT).unflatten(1, (m, n))
    for _ in range(k):
        if not support.drop_():
            break
    chosen = support.candidates()
    return _with_likely(x, parameters, chosen, k)


def _with_likely(x: Samples, parameters: FactorParameters, chosen: Candidates, k: int) -> Candidates:
    """Add groups that are off but not improbable as candidates, up to k."""
    width = chosen.groups.shape[1]
    if width == k:
        return chosen
    _, m, n = parameters.phi.shape
    c = ((x - reconstruction(parameters, chosen)) @ parameters.atoms.mT).unflatten(1, (m, n))
    gain = parameters.gain(c).scatter_(1, chosen.groups, -torch.inf)
    likely = gain.topk(k - width, dim=1)
    more = int((likely.values > _LEAST_GAIN).sum(dim=1).max())
    if not more:
        return chosen
    new = likely.indices[:, :more]
    here = c.gather(1, new[..., None].expand(-1, -1, n))
    return Candidates(
        torch.cat([chosen.groups, new], dim=1),
        torch.cat([chosen.inclusion, chosen.inclusion.new_zeros(new.shape)], dim=1),
        torch.cat([chosen.correlations, here], dim=1),
        torch.cat([chosen.means, parameters.shrinkage[new] * here], dim=1),
    )


def sweep(x: Samples, parameters: FactorParameters, candidates: Candidates, sweeps: int) -> Candidates:
    """Improve q(s_i) and q(a_i | s_i) of the candidates by coordinate ascent; the bound of no sample falls."""
    groups = candidates.groups
    n = parameters.phi.shape[2]
    own = parameters.atoms.unflatten(0, (-1, n))[groups]
    products = (own.flatten(1, 2) @ x[..., None])[..., 0].unflatten(1, (-1, n))
    sweeper = _Sweeper(parameters, products, groups, _blocks(parameters, groups))
    means, inclusion = candidates.means.clone(), candidates.inclusion.clone()
    correlations = torch.empty_like(means)
    for _ in range(sweeps):
        sweeper(means, inclusion, correlations, fixed=False)
    return Candidates(groups, inclusion, correlations, means)


def infer(x: Samples, parameters: FactorParameters, k: int, sweeps: int) -> Candidates:
    """Search candidates and improve their posterior."""
    return sweep(x, parameters, search(x, parameters, k), sweeps)


def expected_error(x: Samples, parameters: FactorParameters, candidates: Candidates) -> Float[Tensor, " batch"]:
    """Compute E‖x − Σ_i s_i Φ_i a_i‖² under the posterior of each sample."""
    q, means = candidates.inclusion, candidates.means
    spread = q * (1 - q) * means.square().sum(dim=2) + q * parameters.posterior_variances[candidates.groups].sum(dim=2)
    return (x - reconstruction(parameters, candidates)).square().sum(dim=1) + spread.sum(dim=1)


def bound(x: Samples, parameters: FactorParameters, candidates: Candidates) -> Float[Tensor, " batch"]:
    r"""Compute the variational lower bound of log p(x) for each sample.

    The posterior variances of the coefficients are those of the parameters, v σ²/(v + σ²).

    Returns:
        E[log p(x, s, a)] − E[log q(s, a)].
    """
    groups, q = candidates.groups, candidates.inclusion
    v = parameters.variances
    used = v > 0
    ratio = torch.where(used, parameters.noise / (v + parameters.noise), 1.0)  # posterior over prior variance
    constant = (ratio - 1 - ratio.log()).sum(dim=1)
    inverse = torch.where(used, 1 / v, 0.0)
    divergence = 0.5 * ((candidates.means.square() * inverse[groups]).sum(dim=2) + constant[groups])
    prior = parameters.pi.log() - torch.log1p(-parameters.pi)
    entropy = -(torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q))
    terms = (q * (prior[groups] - divergence) + entropy).sum(dim=1)
    error = expected_error(x, parameters, candidates)
    return terms - error / (2 * parameters.noise) + parameters.log_off - parameters.log_normalizer
