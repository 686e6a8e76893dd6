r"""Priors over codes a of m groups of n coefficients: which groups are likely to be used, and how strongly."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gramian.errors import OptionError
from gramian.typing import Phi

__all__ = [
    "PRIORS",
    "Codes",
    "Energy",
    "GroupLaplace",
    "LaplacianScaleMixture",
    "Prior",
    "as_prior",
    "dictionary_matrix",
    "energy",
    "group_norms",
    "group_shrink",
    "reconstruct",
]

Codes = Float[Tensor, "batch m n *places"]
"""Coefficients: for each sample, n numbers in each of m groups; of a convolutional code, at every place."""

Amplitudes = Float[Tensor, "batch m *places"]


@dataclass(frozen=True)
class Energy:
    """The two terms of the negative log joint density, one number for each sample.

    Attributes:
        reconstruction: ½‖x − Σ_i Φ_i a_i‖².
        sparsity: −log p(a) up to a constant; λ Σ_i ‖a_i‖ for the group Laplace prior.
    """

    reconstruction: Float[Tensor, " batch"]
    sparsity: Float[Tensor, " batch"]

    @property
    def total(self) -> Float[Tensor, " batch"]:
        """The sum of the terms."""
        return self.reconstruction + self.sparsity


def group_norms(codes: Codes) -> Amplitudes:
    """Give the amplitudes ‖a_i‖₂ of the groups.

    Examples:
        >>> import torch
        >>> group_norms(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).tolist()
        [[5.0, 0.0]]
    """
    return torch.linalg.vector_norm(codes, dim=2)


def group_shrink(codes: Codes, threshold: float | Tensor) -> Codes:
    r"""Shorten every group by the threshold: the prox of θ Σ_i ‖a_i‖₂, group soft thresholding.

    Args:
        codes: Coefficients [batch, m, n].
        threshold: Length θ ≥ 0 taken off each ‖a_i‖, one for all or of the shape of the amplitudes; shorter groups
            become exactly 0.

    Returns:
        A new tensor of the shape of `codes`.

    Cost:
        Memory-bound: O(batch·m·n).

    Examples:
        >>> import torch
        >>> group_shrink(torch.tensor([[[3.0, 4.0], [0.3, 0.4]]]), 1.0).tolist()
        [[[2.4..., 3.2...], [0.0, 0.0]]]

    References:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    """
    lengths = group_norms(codes)
    # Not codes·(1 − θ/s): its rounding leaves ±6e-8 where there must be 0, and every group counts as active.
    kept = (lengths - threshold).clamp_min(0) / lengths.clamp_min(torch.finfo(codes.dtype).tiny)
    return codes * kept.unsqueeze(2)


class Prior(ABC):
    """A prior p(a) ∝ exp(−value(a)), independent over groups, that prefers few active groups.

    λ scales all of them: the larger, the fewer groups are active. A prior that is not log-concave is inferred with by
    rounds, in each of which `around` gives a group Laplace prior that bounds it from above at the codes of the last.

    Attributes:
        rounds: How many rounds inference takes; 1 for a log-concave prior.
    """

    rounds: int = 1

    @abstractmethod
    def value(self, codes: Codes, lam: float) -> Float[Tensor, " batch"]:
        """Give −log p(a) up to a constant, 0 at a = 0."""

    @abstractmethod
    def around(self, codes: Codes, lam: float) -> "GroupLaplace":
        """Give the group Laplace prior that touches this one at some codes and is nowhere above it in probability."""

    @abstractmethod
    def log_normalizer(self, m: int, n: int, lam: float) -> float:
        """Give log ∫exp(−value(a)) da for one sample."""

    @abstractmethod
    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:
        """Draw codes [count, m, n], float64."""


@dataclass(frozen=True, eq=False)
class GroupLaplace(Prior):
    r"""p(a) ∝ exp(−λ Σ_i w_i ‖a_i‖₂): the prior of the group lasso.

    Args:
        weights: w_i > 0, [m], or for each sample [batch, m]: larger for groups that should be used less. Default 1.
        nonnegative: Whether coefficients must not be negative.

    Raises:
        OptionError: If a weight is not positive.

    Examples:
        >>> import torch
        >>> prior = GroupLaplace(torch.tensor([1.0, 2.0]))
        >>> prior.value(torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]), lam=1.0).tolist()
        [7.0]

    References:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    """

    weights: Tensor | None = None
    nonnegative: bool = False

    def __post_init__(self) -> None:
        if self.weights is not None and not bool(((self.weights > 0) & self.weights.isfinite()).all()):
            raise OptionError(
                f"weights of groups must be positive and finite; the least is {float(self.weights.min()):g}; leave "
                "groups out, or try a small weight"
            )

    def check(self, codes: Codes) -> None:
        """Check that there is a weight for each group of such codes.

        Raises:
            OptionError: If there is not.
        """
        if self.weights is None:
            return
        batch, m = codes.shape[:2]
        allowed = [(m,), (batch, m), (batch, m, *codes.shape[3:])]
        if tuple(self.weights.shape) not in allowed:
            raise OptionError(
                f"weights must be one for each of {m} groups, or for each of {batch} samples and {m} groups; got the "
                f"shape {list(self.weights.shape)}"
            )

    def value(self, codes: Codes, lam: float) -> Float[Tensor, " batch"]:
        total = lam * (group_norms(codes) * self._weights(codes)).flatten(1).sum(dim=1)
        if self.nonnegative:
            total = total.masked_fill((codes < 0).flatten(1).any(dim=1), torch.inf)
        return total

    def around(self, codes: Codes, lam: float) -> "GroupLaplace":  # noqa: ARG002
        return self

    def shrink(self, codes: Codes, threshold: float) -> Codes:
        """Give the prox of threshold·Σ w_i‖a_i‖."""
        if self.nonnegative:
            codes = codes.clamp_min(0)
        if codes.shape[2] == 1 and self.weights is None:
            return functional.softshrink(codes, threshold)  # the same, in one pass
        return group_shrink(codes, threshold if self.weights is None else threshold * self._weights(codes))

    def take(self, samples: Int[Tensor, " kept"]) -> "GroupLaplace":
        """Give the prior of some of the samples."""
        if self.weights is None or self.weights.ndim == 1:
            return self
        return GroupLaplace(self.weights[samples], self.nonnegative)

    def grow(self, codes: Codes, threshold: float) -> Codes:
        """Give a point that `shrink` takes to these codes: active groups longer by the threshold."""
        lengths = group_norms(codes)
        longer = torch.where(lengths > 0, threshold * self._weights(codes) / lengths, 0)
        return codes * (1 + longer).unsqueeze(2)

    def steepest(self, correlations: Codes, slack: Float[Tensor, " batch"] | None = None) -> Float[Tensor, " batch"]:
        """Give the least λ at which codes of zero would be best, for correlations Φᵀx of samples.

        Args:
            correlations: Φᵀx.
            slack: By how much ‖Φ_iᵀx‖ may be larger than it seems, for each sample.
        """
        if self.nonnegative:
            correlations = correlations.clamp_min(0)
        lengths = group_norms(correlations)
        if slack is not None:
            lengths = lengths + slack.reshape(-1, *[1] * (lengths.ndim - 1))
        return (lengths / self._weights(correlations)).flatten(1).amax(dim=1)

    def log_normalizer(self, m: int, n: int, lam: float) -> float:
        weights = self._per_group(m)
        orthant = n * math.log(2) if self.nonnegative else 0.0
        return float((_log_sphere(n) + math.lgamma(n) - n * (lam * weights).log() - orthant).sum())

    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:
        directions = _directions(count, m, n, generator)
        lengths = _gamma(n, (count, m), generator) / (lam * self._per_group(m))
        return (directions.abs() if self.nonnegative else directions) * lengths[..., None]

    def _weights(self, codes: Codes) -> Tensor | float:
        if self.weights is None:
            return 1.0
        weights = self.weights.to(codes)
        # Of a convolution: one for each group at all places, or one for each place.
        return weights if weights.ndim > 2 else weights.reshape(*weights.shape, *[1] * (codes.ndim - 3))

    def _per_group(self, m: int) -> Tensor:
        weights = torch.ones(m, device="cpu") if self.weights is None else self.weights
        if weights.shape != (m,):
            raise OptionError(
                f"the density needs one weight for each of {m} groups; got the shape {list(weights.shape)}"
            )
        return weights.cpu().double()


@dataclass(frozen=True)
class LaplacianScaleMixture(Prior):
    r"""A group Laplace prior whose scale is itself random, group by group: fewer and stronger active groups.

    p(a_i) = ∫ p(a_i | λ_i) p(λ_i) dλ_i with λ_i Gamma-distributed of mean λ, which gives
    −log p(a_i) = (s + n) log(1 + λ‖a_i‖/s). Not log-concave: inference goes by rounds of the group lasso, each with
    the expected scale given the last codes, λ_i = λ(1 + n/s)/(1 + λ‖a_i‖/s). A certificate is that of the last round.

    Args:
        shape: Shape s > 0 of the Gamma distribution; the larger, the nearer to `GroupLaplace`.
        rounds: Rounds of inference.

    Raises:
        OptionError: If the shape is not positive, or there is no round.

    Examples:
        >>> import torch
        >>> far = torch.tensor([[[30.0, 40.0]]])
        >>> LaplacianScaleMixture(1.0).value(far, lam=1.0) < GroupLaplace().value(far, lam=1.0)
        tensor([True])

    References:
        Garrigues and Olshausen, "Group sparse coding with a Laplacian scale mixture prior", 2010.
    """

    shape: float = 3.0
    rounds: int = 4

    def __post_init__(self) -> None:
        if not (self.shape > 0 and self.rounds >= 1):
            raise OptionError(f"shape must be positive and rounds at least 1; got {self.shape:g} and {self.rounds}")

    def value(self, codes: Codes, lam: float) -> Float[Tensor, " batch"]:
        n = codes.shape[2]
        return (self.shape + n) * (lam / self.shape * group_norms(codes)).log1p().flatten(1).sum(dim=1)

    def around(self, codes: Codes, lam: float) -> GroupLaplace:
        amplitudes = group_norms(codes)
        return GroupLaplace((1 + codes.shape[2] / self.shape) / (1 + lam / self.shape * amplitudes))

    def log_normalizer(self, m: int, n: int, lam: float) -> float:
        s = self.shape
        radial = math.lgamma(n) + math.lgamma(s) - math.lgamma(s + n) + n * math.log(s / lam)
        return m * (_log_sphere(n) + radial)

    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:
        scales = lam / self.shape * _gamma(self.shape, (count, m), generator)
        lengths = _gamma(n, (count, m), generator) / scales
        return _directions(count, m, n, generator) * lengths[..., None]


PRIORS: dict[str, Prior] = {
    "group_laplace": GroupLaplace(),
    "nonnegative": GroupLaplace(nonnegative=True),
    "scale_mixture": LaplacianScaleMixture(),
}
"""The priors that have a name."""


def as_prior(prior: str | Prior) -> Prior:
    """Turn a name or a `Prior` into a `Prior`.

    Raises:
        OptionError: If there is no prior of that name.
    """
    if isinstance(prior, Prior):
        return prior
    if not isinstance(prior, str) or prior not in PRIORS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"prior must be one of {', '.join(map(repr, PRIORS))} or a Prior; got {prior!r}")
    return PRIORS[prior]


def dictionary_matrix(phi: Phi) -> Float[Tensor, "l atoms"]:
    """Give Φ[l, m, n] as one matrix of all atoms, group by group: a view where strides allow."""
    return phi.reshape(phi.shape[0], -1)


def reconstruct(phi: Phi, codes: Codes) -> Float[Tensor, "batch l"]:
    """Give Σ_i Φ_i a_i for every sample."""
    return codes.flatten(1) @ dictionary_matrix(phi).mT


def energy(
    x: Float[Tensor, "batch l"], phi: Phi, codes: Codes, lam: float, prior: Prior = PRIORS["group_laplace"]
) -> Energy:
    """Give the energy −log p(x, a), up to constants, of unit noise and a prior.

    Examples:
        >>> import torch
        >>> phi = torch.eye(2)[:, None, :]
        >>> energy(torch.tensor([[3.0, 4.0]]), phi, torch.tensor([[[3.0, 4.0]]]), lam=2.0).total.tolist()
        [10.0]
    """
    error = x - reconstruct(phi, codes)
    return Energy(0.5 * error.square().sum(dim=-1), prior.value(codes, lam))


def _log_sphere(n: int) -> float:
    """Give the log of the area of the sphere of vectors of length 1 in n dimensions."""
    return math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2)


def _directions(count: int, m: int, n: int, generator: torch.Generator) -> Codes:
    drawn = torch.randn(count, m, n, generator=generator, dtype=torch.float64, device="cpu")
    return drawn / torch.linalg.vector_norm(drawn, dim=2, keepdim=True)


def _gamma(shape: float, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).standard_gamma(shape, size))
