"""Find the λ for which a given number of groups is active when inference runs until it has converged."""

import math

from gramian.coding.inference import InferenceMethod
from gramian.coding.priors import Prior
from gramian.coding.synthesis import Samples
from gramian.typing import Phi

__all__ = ["calibrated_lam"]

_SAMPLES = 1024
_TRIALS = 24
_CLOSE = 0.01
_STEP = 2.0


def calibrated_lam(
    x: Samples,
    phi: Phi,
    *,
    lam: float,
    prior: Prior,
    infer: InferenceMethod,
    target: float,
    max_iter: int,
    tol: float,
    most: int = _SAMPLES,
) -> float:
    """Find λ for which the mean number of active groups is the target, by bisection.

    Inference in a learning step makes few iterations, after which the number of active groups differs from that after
    convergence for the same λ.

    Args:
        x: Samples.
        phi: Dictionary Φ[l, m, n].
        lam: λ to start from.
        prior: The prior.
        infer: Inference method.
        target: Mean number of active groups.
        max_iter: Iterations of inference.
        tol: Tolerance of inference.
        most: Largest number of samples that are used.

    Returns:
        λ for which the mean is within 1 % of the target, or the closest one found; the number of active groups can
        jump. The initial λ, if no other is closer.

    Cost:
        At most 24 times the inference of these samples.
    """
    x = x[:most]
    low, high = 0.0, math.inf
    best, distance = lam, math.inf
    for _ in range(_TRIALS):
        codes = infer(x, phi, lam=lam, prior=prior, max_iter=max_iter, tol=tol)
        excess = float(codes.support.flatten(1).sum(dim=1).double().mean()) / target - 1
        if abs(excess) < distance:
            best, distance = lam, abs(excess)
        if distance <= _CLOSE:
            break
        if excess > 0:
            low = lam
        else:
            high = lam
        if low == 0.0:
            lam /= _STEP
        else:
            lam = lam * _STEP if high == math.inf else math.sqrt(low * high)
    return best
