"""Estimate the likelihood by annealed importance sampling from the factorised posterior to the true one."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.factors.inference import Candidates, reconstruction
from gramian.coding.factors.parameters import FactorParameters
from gramian.coding.factors.posterior import dense

__all__ = ["annealed_log_likelihood"]

_LEAST = 1e-6
"""The least probability of "on" and of "off" in the initial distribution, which must reach every state."""


def annealed_log_likelihood(
    x: Float[Tensor, "batch l"],
    parameters: FactorParameters,
    candidates: Candidates,
    *,
    chains: int,
    steps: int,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    r"""Estimate log p(x) of each sample.

    The distributions are q(s, a)^(1−β) p(x, s, a)^β for β from 0 to 1, with a Gibbs sweep over all groups at each. With
    orthonormal frames the conditional of a group is closed: given that it is on, its coefficients have the variances
    V = v σ²/(v + σ²) at every β, and the mean (1 − β)μ + β v/(v + σ²) c. The mean of the weights is unbiased for p(x),
    so the expectation of the estimate is at most log p(x).

    Args:
        x: Centred samples.
        parameters: Parameters.
        candidates: The factorised posterior of these samples.
        chains: Number of chains for each sample, over which weights are averaged.
        steps: Number of intermediate distributions.
        generator: Source of random numbers.

    Returns:
        The logarithm of the mean weight.

    Cost:
        4·batch·chains·steps·l·m·n flops.

    References:
        Neal, "Annealed importance sampling", 2001, doi:10.1023/A:1008923215028.
    """
    batch = len(x)
    m = parameters.phi.shape[1]
    x = x.double()
    phi, noise = parameters.phi.double(), parameters.noise
    v = parameters.variances.double()
    used = v > 0
    shrinkage = v / (v + noise)
    spread = noise * shrinkage
    precision = torch.where(used, 1 / spread, 0.0)
    log_ratio = torch.where(used, (spread / v).log(), 0.0).sum(dim=1)
    log_spread = torch.where(used, spread.log(), 0.0)
    log_v = torch.where(used, v.log(), 0.0)
    inverse_v = torch.where(used, 1 / v, 0.0)
    logit_pi = parameters.pi.double().log() - torch.log1p(-parameters.pi.double())

    residual = x - reconstruction(parameters, candidates).double()
    inclusion, means = dense(parameters, candidates)
    inclusion, means = inclusion.double(), means.double()
    c = torch.einsum("bl,lmn->bmn", residual, phi)
    taken = torch.zeros(batch, m, dtype=torch.bool, device=x.device).scatter_(1, candidates.groups, value=True)
    gain = 0.5 * (c.square() * shrinkage / noise).sum(dim=2) + logit_pi + 0.5 * log_ratio
    inclusion = torch.where(taken, inclusion, gain.sigmoid()).clamp(_LEAST, 1 - _LEAST)
    means = torch.where(taken[..., None], means, shrinkage * c)

    x, inclusion, means = (each.repeat_interleave(chains, dim=0) for each in (x, inclusion, means))
    logit_q, quadratic_q = inclusion.logit(), 0.5 * (means.square() * precision).sum(dim=2)

    def normal() -> Tensor:
        return torch.randn(len(x), v.shape[1], generator=generator, dtype=torch.float64, device="cpu").to(x)

    def uniform() -> Tensor:
        return torch.rand(len(x), generator=generator, dtype=torch.float64, device="cpu").to(x)

    on = torch.stack([uniform() for _ in range(m)], dim=1) < inclusion
    a = torch.stack([normal() for _ in range(m)], dim=1) * spread.sqrt() + means
    a = torch.where(on[..., None], a, 0.0)
    rest = x - torch.einsum("bmn,lmn->bl", a, phi)

    def log_weight() -> Tensor:
        """Compute log p(x, s, a) − log q(s, a)."""
        prior = torch.where(on, logit_pi, 0.0).sum(dim=1) + torch.log1p(-parameters.pi.double()).sum()
        prior = prior - 0.5 * (on * (log_v.sum(dim=1) + (a.square() * inverse_v).sum(dim=2))).sum(dim=1)
        q = torch.where(on, logit_q, 0.0).sum(dim=1) + torch.log1p(-inclusion).sum(dim=1)
        q = q - 0.5 * (on * (log_spread.sum(dim=1) + ((a - means).square() * precision).sum(dim=2))).sum(dim=1)
        return prior - q - 0.5 * rest.square().sum(dim=1) / noise - parameters.log_normalizer

    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for step in range(1, steps + 1):
        total += log_weight() / steps
        beta = step / steps
        if step == steps:
            break
        for i in range(m):
            correlation = rest @ phi[:, i] + a[:, i]
            mean = (1 - beta) * means[:, i] + beta * shrinkage[i] * correlation
            odds = (1 - beta) * (logit_q[:, i] - quadratic_q[:, i]) + beta * (logit_pi[i] + 0.5 * log_ratio[i])
            odds = odds + 0.5 * (mean.square() * precision[i]).sum(dim=1)
            on[:, i] = uniform() < odds.sigmoid()
            new = torch.where(on[:, i, None], mean + spread[i].sqrt() * normal(), 0.0)
            rest += (a[:, i] - new) @ phi[:, i].mT
            a[:, i] = new
    return total.unflatten(0, (batch, chains)).logsumexp(dim=1) - math.log(chains)
