"""A spike at zero with a slab: the codes of one group, which are exactly zero with a given probability."""

# torch declares arg_constraints and support as properties; its distributions replace them by class attributes.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal, constraints
from torch.distributions.utils import broadcast_all

from gramian.coding.priors.spike_slab import SLABS
from gramian.distributions.group_laplace import GroupLaplace
from gramian.errors import OptionError
from gramian.options import whole_number

__all__ = ["SpikeSlab"]


class SpikeSlab(Distribution):
    r"""A group of n codes is exactly 0 with probability 1 − π; otherwise its codes have the density of the slab.

    The slab is N(0, s²I), or ∝ exp(−‖a‖₂/s). There is no density with respect to da alone. `log_prob` is the density
    with respect to the measure δ₀ + da on Rⁿ, a unit mass at the point 0 plus Lebesgue measure:

        log p(0) = log(1 − π)    and    log p(a) = log π + log slab(a) for a ≠ 0.

    So log p(0) is the log of a probability, and log p(a) the log of a density, which depends on the units of a. The
    maximum of `log_prob` over a compares the two: it is a choice of prior, as is the price λ of
    `gramian.coding.SpikeSlab`. For a price λ and groups of n, that prior has the probability `prior.rate(lam, n)` and
    the same scale: then −log p of independent groups = value + log_normalizer.

    Samples are not differentiable in π: there is no `rsample`. `log_prob` is differentiable in π, in s, and in a where
    a ≠ 0.

    Args:
        probs: Probability π in [0, 1] that a group is not 0; one number or a tensor.
        scale: Scale s > 0 of the slab; one number or a tensor. The batch shape is that of `probs` and `scale`,
            broadcast.
        group_size: Number n of coefficients of a group; the event shape is [n].
        slab: 'gaussian' or 'laplace'.
        validate_args: Whether to check parameters and values, as for all distributions of torch.

    Raises:
        OptionError: If `group_size` is not a positive whole number, or the slab is unknown.
        ValueError: If arguments are validated and a probability or a scale is out of range.

    Cost:
        O(n) for each sample or density.

    Examples:
        >>> import torch
        >>> codes = SpikeSlab(0.25, scale=2.0, group_size=3)
        >>> codes.log_prob(torch.zeros(3)).exp()
        tensor(0.7500)
        >>> codes.sample((5,)).shape, codes.variance.tolist()
        (torch.Size([5, 3]), [1.0, 1.0, 1.0])

    References:
        Mitchell and Beauchamp, "Bayesian variable selection in linear regression", 1988.
    """

    arg_constraints = {"probs": constraints.unit_interval, "scale": constraints.positive}  # noqa: RUF012  # as in torch
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        probs: Tensor | float,
        scale: Tensor | float,
        group_size: int,
        slab: str = "gaussian",
        validate_args: bool | None = None,  # noqa: FBT001
    ) -> None:
        if slab not in SLABS:
            raise OptionError(f"slab must be one of {', '.join(map(repr, SLABS))}; got {slab!r}; try slab='gaussian'")
        self.slab = slab
        self.group_size = whole_number(group_size, name="group_size")
        self.probs, self.scale = broadcast_all(probs, scale)
        super().__init__(self.probs.shape, torch.Size([self.group_size]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "SpikeSlab":
        """Return the distribution with its batch expanded to this shape; a view of the parameters."""
        new = cast("SpikeSlab", self._get_checked_instance(SpikeSlab, _instance))
        new.slab, new.group_size = self.slab, self.group_size
        new.probs = self.probs.expand(torch.Size(batch_shape))
        new.scale = self.scale.expand(torch.Size(batch_shape))
        super(SpikeSlab, new).__init__(new.probs.shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """The mean, 0."""
        return torch.zeros_like(self.variance)

    @property
    def variance(self) -> Float[Tensor, "*batch n"]:
        """The variance of each coefficient, π times that of the slab: πs², or π(n + 1)s² for the Laplace slab."""
        return self.probs.unsqueeze(-1) * self._slab().variance

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*samples n"]:
        """Draw codes [*sample_shape, *batch, n]."""
        shape = torch.Size(sample_shape)
        active = Bernoulli(self.probs, validate_args=False).sample(shape)
        return torch.where(active.bool().unsqueeze(-1), self._slab().sample(shape), 0)

    def log_prob(self, value: Float[Tensor, "*samples n"]) -> Float[Tensor, "..."]:
        """Compute log p of codes [*samples, n] with respect to δ₀ + da, see the class."""
        if self._validate_args:
            self._validate_sample(value)
        at_zero = (value == 0).all(dim=-1)
        # The argument of each logarithm is replaced where the other one counts, so that no gradient is 0·∞.
        spike = (-torch.where(at_zero, self.probs, 0)).log1p()
        active = torch.where(at_zero, 1, self.probs).log()
        return spike + active + torch.where(at_zero, 0, self._slab().log_prob(value))

    def _slab(self) -> Distribution:
        if self.slab == "laplace":
            return GroupLaplace(1 / self.scale, self.group_size, validate_args=False)
        scale = self.scale.unsqueeze(-1).expand(self._extended_shape())
        return Independent(Normal(torch.zeros_like(scale), scale, validate_args=False), 1, validate_args=False)
