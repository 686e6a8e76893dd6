"""The base class of priors over codes, and the group Laplace prior, which serves as majorizer of other priors."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gramian.coding.model import Codes, group_norms
from gramian.coding.priors.radial import directions, gamma, log_sphere
from gramian.errors import OptionError

__all__ = ["GroupLaplace", "Prior", "group_soft_threshold"]


def group_soft_threshold(codes: Codes, threshold: float | Tensor) -> Codes:
    r"""Apply group soft thresholding, the prox of θ Σ_i ‖a_i‖₂: shorten every group by the threshold.

    Args:
        codes: Coefficients [batch, m, n].
        threshold: Length θ ≥ 0 subtracted from each ‖a_i‖: one number, or a tensor of the shape of the amplitudes.
            Groups shorter than θ become exactly 0.

    Returns:
        A new tensor of the shape of `codes`.

    Cost:
        Memory-bound: O(batch·m·n).

    Examples:
        >>> import torch
        >>> group_soft_threshold(torch.tensor([[[3.0, 4.0], [0.3, 0.4]]]), 1.0).tolist()
        [[[2.4..., 3.2...], [0.0, 0.0]]]

    References:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    """
    lengths = group_norms(codes)
    # Not codes·(1 − θ/s): rounding gives ±6e-8 instead of 0, and then every group counts as active.
    scale = (lengths - threshold).clamp_min(0) / lengths.clamp_min(torch.finfo(codes.dtype).tiny)
    return codes * scale.unsqueeze(2)


class Prior(ABC):
    """A prior p(a) ∝ exp(−value(a)), independent over groups, that prefers few active groups.

    The larger λ is, the fewer groups are active. Two kinds of inference are possible:

    - If `has_majorizer`, `fista`, `lca` and `coordinate_descent` solve one group lasso, or a sequence of them for a
      prior that is not log-concave: each round uses the group Laplace prior that `majorizer` returns for the codes
      of the previous round.
    - `block_iht` applies `prox`, which every prior has.

    Attributes:
        rounds: Number of rounds of inference with the majorizer; 1 for a log-concave prior.
        has_majorizer: Whether `majorizer` exists. A prior with a jump at 0 has none.
        counts_groups: Whether the prior has a price for every active group, so that `block_omp` can minimise it.
    """

    rounds: int = 1
    has_majorizer: bool = True
    counts_groups: bool = False

    @abstractmethod
    def value(self, codes: Codes, lam: float) -> Float[Tensor, " batch"]:
        """Compute −log p(a) up to a constant; 0 at a = 0."""

    @abstractmethod
    def prox(self, codes: Codes, lam: float, step: float | Tensor = 1.0) -> Codes:
        """Return the codes a that minimise ½‖codes − a‖² + step·value(a).

        Args:
            codes: Any codes.
            lam: Sparsity λ.
            step: Step size, one number, or one for each sample in a shape that broadcasts with the amplitudes.
        """

    def majorizer(self, codes: Codes, lam: float) -> "GroupLaplace":  # noqa: ARG002
        """Return the group Laplace prior whose −log p equals that of this prior at the codes and is nowhere smaller.

        Raises:
            OptionError: If there is none.
        """
        raise OptionError(
            f"prior must have a group Laplace majorizer for this method; got {self!r}; try infer='block_omp' or "
            "'block_iht'"
        )

    @abstractmethod
    def log_normalizer(self, m: int, n: int, lam: float) -> float:
        """Compute log ∫exp(−value(a)) da for one sample.

        Raises:
            OptionError: If the integral is infinite.
        """

    @abstractmethod
    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:
        """Draw codes [count, m, n] in float64."""


@dataclass(frozen=True, eq=False)
class GroupLaplace(Prior):
    r"""p(a) ∝ exp(−λ Σ_i w_i ‖a_i‖₂): the prior of the group lasso.

    Args:
        weights: w_i > 0, of shape [m] or [batch, m], by default 1; a group with a larger weight is active less often.
        nonnegative: If true, coefficients must not be negative.

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
        if self.weights is None:
            return
        invalid = self.weights[~((self.weights > 0) & self.weights.isfinite())]
        if len(invalid):
            raise OptionError(
                f"weights of groups must be positive and finite; got {float(invalid[0]):g}; try a small positive "
                "weight, or remove the group"
            )

    def check(self, codes: Codes) -> None:
        """Check that the weights fit the shape of the codes.

        Raises:
            OptionError: If they do not.
        """
        if self.weights is None:
            return
        batch, m = codes.shape[:2]
        allowed = [(m,), (batch, m), (batch, m, *codes.shape[3:])]
        if tuple(self.weights.shape) not in allowed:
            raise OptionError(
                f"weights must have shape {[m]}, one for each group, or {[batch, m]}, one for each sample and group; "
                f"got {list(self.weights.shape)}"
            )

    def value(self, codes: Codes, lam: float) -> Float[Tensor, " batch"]:
        total = lam * (group_norms(codes) * self._weights(codes)).flatten(1).sum(dim=1)
        if self.nonnegative:
            total = total.masked_fill((codes < 0).flatten(1).any(dim=1), torch.inf)
        return total

    def majorizer(self, codes: Codes, lam: float) -> "GroupLaplace":  # noqa: ARG002
        return self

    def prox(self, codes: Codes, lam: float, step: float | Tensor = 1.0) -> Codes:
        threshold = lam * step
        if self.nonnegative:
            codes = codes.clamp_min(0)
        if codes.shape[2] == 1 and self.weights is None and not isinstance(threshold, Tensor):
            return functional.softshrink(codes, threshold)  # the same result, in one pass
        return group_soft_threshold(codes, threshold if self.weights is None else threshold * self._weights(codes))

    def select(self, indices: Int[Tensor, " selected"]) -> "GroupLaplace":
        """Return the prior of the samples at these indices."""
        if self.weights is None or self.weights.ndim == 1:
            return self
        return GroupLaplace(self.weights[indices], self.nonnegative)

    def inverse_prox(self, codes: Codes, threshold: float) -> Codes:
        """Compute a point that `prox` maps to these codes: it lengthens active groups by the threshold."""
        lengths = group_norms(codes)
        factor = torch.where(lengths > 0, threshold * self._weights(codes) / lengths, 0)
        return codes * (1 + factor).unsqueeze(2)

    def lambda_max(self, correlations: Codes, slack: Float[Tensor, " batch"] | None = None) -> Float[Tensor, " batch"]:
        """Compute the smallest λ for which zero codes are optimal, for each sample.

        Args:
            correlations: Φᵀx.
            slack: For each sample, an upper bound on the rounding error of every ‖Φ_iᵀx‖; it is added to them.
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
        return float((log_sphere(n) + math.lgamma(n) - n * (lam * weights).log() - orthant).sum())

    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:
        vectors = directions(count, m, n, generator)
        lengths = gamma(n, (count, m), generator) / (lam * self._per_group(m))
        return (vectors.abs() if self.nonnegative else vectors) * lengths[..., None]

    def _weights(self, codes: Codes) -> Tensor | float:
        if self.weights is None:
            return 1.0
        weights = self.weights.to(codes)
        # The weights of a convolution: one for each group, the same at all places, or one for each group and place.
        return weights if weights.ndim > 2 else weights.reshape(*weights.shape, *[1] * (codes.ndim - 3))

    def _per_group(self, m: int) -> Tensor:
        weights = torch.ones(m, device="cpu") if self.weights is None else self.weights
        if weights.shape != (m,):
            raise OptionError(
                f"weights of a density must have shape {[m]}, one for each group; got {list(weights.shape)}"
            )
        return weights.cpu().double()
