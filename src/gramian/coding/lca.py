"""The subspace locally competitive algorithm: inference as the dynamics of a network."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.inference import Inference, Steps, check_stop, in_rounds, until_certified
from gramian.coding.prior import Codes, GroupLaplace, Prior, as_prior, group_norms
from gramian.coding.synthesis import Samples, Synthesis, as_synthesis
from gramian.errors import OptionError
from gramian.typing import Phi

__all__ = ["Trace", "lca", "trace_lca"]


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
    r"""Infer the codes of samples by the subspace LCA.

    Membrane potentials u leak, are driven by Φᵀx, and compete through the Gram matrix of the atoms,
    u ← u + η(Φᵀx − u − (ΦᵀΦ − I)a), while each group fires with a = shrink_λ(u): group amplitude above the threshold,
    in the direction of the potentials.

    The rate is η = min(1, 1.9/L) with L the largest eigenvalue of ΦᵀΦ: a fixed rate that suits one dictionary diverges
    on another.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n], or a `Synthesis`.
        lam: Group threshold λ > 0.
        prior: Name or `Prior`.
        max_iter: Most iterations; 0 certifies the codes to start from.
        tol: A sample is done when its duality gap is at most this fraction of its energy, looked at every 10
            iterations; 0 runs all iterations, None too, and without a certificate.
        start: Codes to start from; default 0.

    Returns:
        Codes, iterations and the certified gap.

    Raises:
        ShapeError: If `x` or `start` does not fit the dictionary.
        OptionError: If λ is not positive, or `max_iter` or `tol` is negative or no number.

    Cost:
        That of `fista`, for each of more iterations.

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

        def one(prior: GroupLaplace, start: Codes) -> Inference:
            steps = _dynamics(x, synthesis, prior, lam, rate, start)
            return until_certified(steps, x, synthesis, prior, lam=lam, start=start, max_iter=max_iter, tol=tol)

        return in_rounds(one, x, synthesis, lam=lam, prior=prior, start=start)


@dataclass(frozen=True)
class Trace:
    """The dynamics of the subspace LCA over time.

    Attributes:
        times: In units of the time constant of a membrane.
        amplitudes: Amplitudes ‖a_i‖ [times, batch, m].
        energy: Energy of the codes [times, batch].
    """

    times: Float[Tensor, " times"]
    amplitudes: Float[Tensor, "times batch m"]
    energy: Float[Tensor, "times batch"]


def trace_lca(
    x: Samples, phi: Phi, *, lam: float, prior: str | Prior = "group_laplace", duration: float = 10.0, dt: float = 0.01
) -> Trace:
    r"""Follow the LCA in continuous time, τ du/dt = Φᵀx − u − (ΦᵀΦ − I)a, for a picture of its dynamics.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n].
        lam: Group threshold λ > 0.
        prior: Name or `Prior`; log-concave.
        duration: In time constants τ.
        dt: Time between two points, in time constants; to be small beside 1/L, L the largest eigenvalue of ΦᵀΦ.

    Returns:
        The trace from u = 0 on.

    Raises:
        ShapeError: If `x` does not fit the dictionary.
        OptionError: If λ is not positive, time steps are too long for the dictionary, or the prior goes by rounds.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> trace = trace_lca(torch.randn(2, 32), phi, lam=1.0, duration=5.0)
        >>> trace.amplitudes.shape
        torch.Size([501, 2, 8])
    """
    synthesis, prior = as_synthesis(phi), as_prior(prior)
    if not isinstance(prior, GroupLaplace):
        raise OptionError(f"a trace needs a log-concave prior; got {prior!r}; try 'group_laplace'")
    with torch.no_grad():
        codes = synthesis.zeros(x)
        stable = 1.9 / synthesis.bound(x)
        if not (lam > 0 and 0 < dt <= min(1.0, stable) and duration > 0):
            raise OptionError(
                f"lam, duration and dt must be positive, and dt at most {min(1.0, stable):.3g} for this dictionary; "
                f"got {lam!r}, {duration!r} and {dt!r}"
            )
        steps = _dynamics(x, synthesis, prior, lam, dt, codes)
        count = round(duration / dt)
        amplitudes, energies = [], []
        for _ in range(count + 1):
            amplitudes.append(group_norms(codes))
            error = x - synthesis.synthesise(codes)
            energies.append(0.5 * error.square().flatten(1).sum(dim=1) + prior.value(codes, lam))
            codes = next(steps)
    return Trace(dt * torch.arange(count + 1), torch.stack(amplitudes), torch.stack(energies))


def _dynamics(  # noqa: PLR0917
    x: Samples, synthesis: Synthesis, prior: GroupLaplace, lam: float, rate: float, codes: Codes
) -> Steps:
    force = synthesis.descent(x, 1.0)
    # The potential of which the codes are the firing.
    potential = prior.grow(codes, lam)
    while True:
        potential = torch.lerp(potential, force(codes), rate)
        codes = prior.shrink(potential, lam)
        kept = yield codes
        if kept is not None:
            x, codes, potential, prior = x[kept], codes[kept], potential[kept], prior.take(kept)
            force = synthesis.descent(x, 1.0)
            yield codes
