"""Measure the invariance of group amplitudes, with random groups and single coefficients as controls."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.inference import InferenceMethod, as_method
from gramian.coding.model import Codes, group_norms
from gramian.coding.priors import Prior
from gramian.typing import Phi

__all__ = ["Control", "PhaseResponse", "correlation", "gratings", "phase_response", "random_groups", "shift_control"]


@dataclass(frozen=True)
class Control:
    """One measure of invariance, for learned groups and for both controls.

    Attributes:
        learned: Measure of the amplitudes of the learned groups.
        random_groups: Measure of the amplitudes of random groups of the same atoms and coefficients: the effect of
            pooling alone.
        single: Measure of the absolute values of single coefficients.
    """

    learned: float
    random_groups: float
    single: float


@dataclass(frozen=True)
class PhaseResponse:
    """The responses to gratings of every phase.

    Attributes:
        phases: Phases in radians.
        amplitude: Amplitude of the example group over phase.
        coefficient: Absolute value of that group's strongest coefficient over phase.
        variation: Standard deviation over phase divided by the mean, median over groups, and its controls.
    """

    phases: Float[Tensor, " phases"]
    amplitude: Float[Tensor, " phases"]
    coefficient: Float[Tensor, " phases"]
    variation: Control


def random_groups(codes: Codes, *, seed: int) -> Codes:
    """Regroup coefficients at random, as a control for the effect of pooling alone.

    Args:
        codes: Codes [batch, m, n].
        seed: Seed of the permutation of coefficients.

    Returns:
        Codes of the same shape, with the same permutation for every sample.

    Examples:
        >>> import torch
        >>> codes = torch.arange(6.0).reshape(1, 3, 2)
        >>> sorted(random_groups(codes, seed=0).flatten().tolist())
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    _, m, n = codes.shape
    order = torch.randperm(m * n, generator=torch.Generator().manual_seed(seed), device="cpu").to(codes.device)
    return codes.flatten(1)[:, order].unflatten(1, (m, n))


def correlation(a: Float[Tensor, "samples units"], b: Float[Tensor, "samples units"]) -> float:
    """Return the correlation of two sets of responses over samples, averaged over the units that respond.

    Examples:
        >>> import torch
        >>> a = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
        >>> round(correlation(a, 3 * a + 1), 6)
        1.0
    """
    a, b = a.double() - a.double().mean(dim=0), b.double() - b.double().mean(dim=0)
    power = (a.square().sum(dim=0) * b.square().sum(dim=0)).sqrt()
    alive = power > 0
    return float(((a * b).sum(dim=0)[alive] / power[alive]).mean()) if bool(alive.any()) else math.nan


def shift_control(codes: Codes, shifted: Codes, *, seed: int = 0) -> Control:
    """Correlate responses to patches with responses to the shifted patches.

    Args:
        codes: Codes of patches.
        shifted: Codes of the same patches, shifted.
        seed: Seed of the random groups.

    Returns:
        Mean correlation of the amplitudes of learned groups, of random groups, and of single |coefficients|.
    """
    return Control(
        learned=correlation(group_norms(codes), group_norms(shifted)),
        random_groups=correlation(
            group_norms(random_groups(codes, seed=seed)), group_norms(random_groups(shifted, seed=seed))
        ),
        single=correlation(codes.flatten(1).abs(), shifted.flatten(1).abs()),
    )


def gratings(
    size: int, frequency: float, orientation: float, phases: Float[Tensor, " phases"]
) -> Float[Tensor, "phases pixels"]:
    """Return sinusoidal gratings of unit variance, one for each phase.

    Args:
        size: Side of the patch, pixels.
        frequency: Spatial frequency, cycles per pixel.
        orientation: Direction of the wave vector, radians.
        phases: Phases, radians.

    Returns:
        The gratings as rows, [phases, size²].

    Examples:
        >>> import torch
        >>> gratings(16, 0.2, 0.5, torch.zeros(1)).std().item()
        1.0...
    """
    axis = torch.arange(size, dtype=phases.dtype, device=phases.device) - (size - 1) / 2
    along = math.cos(orientation) * axis[None, :] + math.sin(orientation) * axis[:, None]
    waves = torch.cos(2 * math.pi * frequency * along.flatten()[None, :] + phases[:, None])
    waves = waves - waves.mean(dim=1, keepdim=True)
    return waves / waves.std(dim=1, keepdim=True)


def phase_response(
    phi: Phi,
    *,
    lam: float,
    prior: str | Prior = "group_laplace",
    infer: str | InferenceMethod = "auto",
    phases: int = 24,
    channels: int = 1,
    seed: int = 0,
) -> PhaseResponse:
    """Measure how responses vary with the phase of a grating of each group's best frequency and orientation.

    A unit's best grating has the largest mean response over phase; the variation is the standard deviation of that
    response over phase divided by its mean. The example is the group whose variation is the median.

    Args:
        phi: Dictionary Φ[l, m, n], l a square times the channels.
        lam: Sparsity λ of inference.
        prior: Name or `Prior`.
        infer: Name or `InferenceMethod`.
        phases: Number of phases.
        channels: Channels of a pixel; gratings are equal in all of them.
        seed: Seed of the random groups.

    Returns:
        The curves of the example, and the median variation with its controls.

    Cost:
        Inference on 72·phases gratings.
    """
    size = math.isqrt(phi.shape[0] // channels)
    angles = torch.arange(phases, dtype=phi.dtype, device=phi.device) * (2 * math.pi / phases)
    stimuli = [(f, math.pi * k / 12) for f in (0.06, 0.1, 0.14, 0.19, 0.25, 0.32) for k in range(12)]
    x = torch.cat([gratings(size, frequency, orientation, angles) for frequency, orientation in stimuli])
    x = x.repeat_interleave(channels, dim=1)
    codes = as_method(infer)(x, phi, lam=lam, prior=prior, max_iter=1000, tol=1e-3).codes
    shape = (len(stimuli), phases)
    learned = group_norms(codes).unflatten(0, shape)
    pooled = group_norms(random_groups(codes, seed=seed)).unflatten(0, shape)
    single = codes.flatten(1).abs().unflatten(0, shape)
    variation, best = _variation_at_best(learned)
    alive = torch.isfinite(variation)
    example = int(variation[alive].median(dim=0).indices) if bool(alive.any()) else 0
    group = int(alive.nonzero()[example]) if bool(alive.any()) else 0
    members = codes.abs().unflatten(0, shape)[best[group], :, group]
    return PhaseResponse(
        phases=angles,
        amplitude=learned[best[group], :, group],
        coefficient=members[:, members.mean(dim=0).argmax()],
        variation=Control(
            learned=float(variation.nanmedian()),
            random_groups=float(_variation_at_best(pooled)[0].nanmedian()),
            single=float(_variation_at_best(single)[0].nanmedian()),
        ),
    )


def _variation_at_best(
    responses: Float[Tensor, "stimuli phases units"],
) -> tuple[Float[Tensor, " units"], Tensor]:
    mean = responses.mean(dim=1)
    best = mean.argmax(dim=0)
    chosen = responses[best, :, torch.arange(responses.shape[2], device=best.device)]
    return chosen.std(dim=1, correction=0) / chosen.mean(dim=1), best
