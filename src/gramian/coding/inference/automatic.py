"""Choose the inference method by the prior and the dictionary."""

import math

from gramian.coding.inference.base import Inference
from gramian.coding.inference.coordinate_descent import coordinate_descent, fallback_reason
from gramian.coding.inference.fista import fista
from gramian.coding.inference.greedy import block_omp
from gramian.coding.inference.thresholding import block_iht
from gramian.coding.model import Codes
from gramian.coding.priors import Prior, as_prior
from gramian.coding.synthesis import Dense, Samples, Synthesis, as_synthesis
from gramian.options import real_number
from gramian.typing import Phi

__all__ = ["infer"]

_MANY = 2**20
"""Number of codes, batch·m·n, from which compiled loops are used: FISTA needs about a second for so many."""


def infer(
    x: Samples,
    phi: Phi | Synthesis,
    *,
    lam: float,
    prior: str | Prior = "group_laplace",
    max_iter: int = 500,
    tol: float | None = 1e-4,
    start: Codes | None = None,
) -> Inference:
    """Infer the codes of samples with a method that is chosen by the prior and the dictionary.

    A prior with a price for every active group is minimised by `block_omp` if atoms are as long as samples, otherwise
    by `block_iht`. Every other prior is minimised by `fista`; if the batch has at least 2²⁰ coefficients and `tol` asks
    for a certified gap, by `coordinate_descent` where that is compiled, to the same gap.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.
        lam: Sparsity λ > 0.
        prior: Name or `Prior`.
        max_iter: Maximal number of iterations, for methods other than `block_omp`.
        tol: Tolerance, as in these methods.
        start: Initial codes; by default 0. `block_omp` does not use them.

    Returns:
        The codes, with what is certified about them.

    Raises:
        ShapeError: If `x` or `start` does not fit the dictionary.
        OptionError: If an option is out of range.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> infer(torch.randn(10, 32), phi, lam=1.0).certified
        'minimum'
        >>> infer(torch.randn(10, 32), phi, lam=8.0, prior="group_l0").certified
        'support'
    """
    prior = as_prior(prior)
    synthesis = as_synthesis(phi)
    if not prior.counts_groups:
        compiled = tol is not None and _coefficients(x, synthesis) >= _MANY and fallback_reason(x, synthesis) is None
        convex = coordinate_descent if compiled else fista
        return convex(x, synthesis, lam=lam, prior=prior, max_iter=max_iter, tol=tol, start=start)
    lam = real_number(lam, name="lam")
    method = block_omp if isinstance(synthesis, Dense) else block_iht
    return method(x, synthesis, lam=lam, prior=prior, max_iter=max_iter, tol=tol, start=start)


def _coefficients(x: Samples, synthesis: Synthesis) -> int:
    return len(x) * math.prod(synthesis.groups) if isinstance(synthesis, Dense) and x.ndim == 2 else 0
