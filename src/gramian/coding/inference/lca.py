"""The subspace locally competitive algorithm (LCA): inference as the dynamics of a neural network."""

import torch

from gramian.coding.inference.base import Inference, Steps, check_stop, majorize_minimize, until_certified
from gramian.coding.model import Codes
from gramian.coding.priors import GroupLaplace, Prior
from gramian.coding.synthesis import Samples, Synthesis, as_synthesis
from gramian.typing import Phi

__all__ = ["lca"]


def lca(
    x: Samples,
    phi: Phi | Synthesis,
    *,
    lam: float,
    prior: str | Prior = "group_laplace",
    max_iter: int = 2000,
    tol: float | None = 1e-4,
    start: Codes | None = None,
) -> Inference:
    r"""Infer the codes of samples with the subspace LCA.

    The membrane potentials u follow u ← u + η(Φᵀx − u − (ΦᵀΦ − I)a): a leak, an input Φᵀx, and competition through the
    Gram matrix of the atoms. The codes are a = prox_λ(u), which shortens the potentials of each group by λ.

    The rate is η = min(1, 1.9/L) with L the largest eigenvalue of ΦᵀΦ: a rate that suits one dictionary diverges for
    another.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.
        lam: Group threshold λ > 0.
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
        Each iteration costs as much as one of `fista`; more iterations are needed.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> lca(torch.randn(10, 32), phi, lam=1.0).converged
        True

    References:
        Rozell, Johnson, Baraniuk and Olshausen, "Sparse coding via thresholding and local competition in neural
        circuits", 2008; for groups, Paiton et al., "Subspace locally competitive algorithms", 2020.
    """
    synthesis = as_synthesis(phi)
    check_stop(max_iter, tol)
    with torch.no_grad():
        synthesis.zeros(x)
        rate = min(1.0, 1.9 / synthesis.bound(x))

        def solve(prior: GroupLaplace, start: Codes) -> Inference:
            steps = _dynamics(x, synthesis, prior, lam, rate, start)
            return until_certified(steps, x, synthesis, prior, lam=lam, start=start, max_iter=max_iter, tol=tol)

        return majorize_minimize(solve, x, synthesis, lam=lam, prior=prior, start=start)


def _dynamics(  # noqa: PLR0917
    x: Samples, synthesis: Synthesis, prior: GroupLaplace, lam: float, rate: float, codes: Codes
) -> Steps:
    descent = synthesis.descent(x, 1.0)
    # A potential whose codes are the initial codes.
    potential = prior.inverse_prox(codes, lam)
    while True:
        potential = torch.lerp(potential, descent(codes), rate)
        codes = prior.prox(potential, lam)
        rows = yield codes
        if rows is not None:
            x, codes, potential, prior = x[rows], codes[rows], potential[rows], prior.select(rows)
            descent = synthesis.descent(x, 1.0)
            yield codes
