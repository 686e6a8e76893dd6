"""FISTA with group soft thresholding, the default inference method."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.inference.base import Inference, Steps, check_stop, majorize_minimize, until_certified
from gramian.coding.model import Codes
from gramian.coding.priors import GroupLaplace, Prior
from gramian.coding.synthesis import Samples, Synthesis, as_synthesis
from gramian.typing import Phi

__all__ = ["fista"]


def fista(
    x: Samples,
    phi: Phi | Synthesis,
    *,
    lam: float,
    prior: str | Prior = "group_laplace",
    max_iter: int = 500,
    tol: float | None = 1e-4,
    start: Codes | None = None,
) -> Inference:
    r"""Infer the codes of samples with accelerated proximal gradient descent.

    a ← prox_λ/L(y + Φᵀ(x − Φy)/L), y ← a + momentum, with L the largest eigenvalue of ΦᵀΦ. If the momentum of a sample
    points uphill, it restarts from 0: without restarts, codes oscillate near their optimum.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.
        lam: Sparsity λ > 0.
        prior: Name or `Prior`.
        max_iter: Maximal number of iterations; 0 certifies the initial codes.
        tol: A sample is done when its duality gap is at most this fraction of its energy; this is checked every 10
            iterations. 0 runs all iterations, and None runs all iterations without a certificate.
        start: Initial codes; by default 0.

    Returns:
        The codes, the number of iterations, and the certified gap.

    Raises:
        ShapeError: If `x` or `start` does not fit the dictionary.
        OptionError: If λ is not positive, or `max_iter` or `tol` is negative or not a number.

    Cost:
        2·batch·m·n·min(m·n, 2l) flops per iteration; memory for a few tensors of the size of the codes.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> result = fista(torch.randn(10, 32), phi, lam=1.0)
        >>> result.codes.shape, result.converged
        (torch.Size([10, 8, 4]), True)

    References:
        Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", 2009;
        O'Donoghue and Candès, "Adaptive restart for accelerated gradient schemes", 2015.
    """
    synthesis = as_synthesis(phi)
    check_stop(max_iter, tol)
    with torch.no_grad():
        synthesis.zeros(x)
        L = synthesis.bound(x)

        def solve(prior: GroupLaplace, start: Codes) -> Inference:
            steps = _steps(x, synthesis, prior, lam, L, start)
            return until_certified(steps, x, synthesis, prior, lam=lam, start=start, max_iter=max_iter, tol=tol)

        return majorize_minimize(solve, x, synthesis, lam=lam, prior=prior, start=start)


def _steps(x: Samples, synthesis: Synthesis, prior: GroupLaplace, lam: float, L: float, codes: Codes) -> Steps:  # noqa: PLR0917
    descent = synthesis.descent(x, 1 / L)
    extrapolated = codes
    factors = _FACTORS.to(codes)
    age = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    while True:
        previous, codes = codes, prior.prox(descent(extrapolated), lam / L)
        change = codes - previous
        uphill = synthesis.total(torch.linalg.vecdot((extrapolated - codes).flatten(1), change.flatten(1))) > 0
        age = age.masked_fill_(uphill, 0)
        extrapolated = torch.addcmul(codes, factors[age].view(-1, *[1] * (codes.ndim - 1)), change)
        age = (age + 1).clamp_max_(len(factors) - 1)
        rows = yield codes
        if rows is not None:
            x, codes, extrapolated, age, prior = x[rows], codes[rows], extrapolated[rows], age[rows], prior.select(rows)
            descent = synthesis.descent(x, 1 / L)
            yield codes


def _momentum(count: int) -> Float[Tensor, " steps"]:
    """Compute the factors (t_k − 1)/t_{k+1} with t_1 = 1 and t_{k+1} = (1 + √(1 + 4t_k²))/2."""
    factors, t = [], 1.0
    for _ in range(count):
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        factors.append((t - 1) / t_next)
        t = t_next
    return torch.tensor(factors, dtype=torch.float64)


_FACTORS = _momentum(1000)
"""Momentum by the number of steps since the last restart; later factors exceed 0.997 and are taken as constant."""
