"""The group Laplace distribution: the prior of the group lasso, for the codes of one group."""

# torch declares arg_constraints and support as properties; its distributions replace them by class attributes.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints
from torch.distributions.utils import broadcast_all

from gramian.coding.priors.radial import log_sphere
from gramian.options import whole_number

__all__ = ["GroupLaplace"]


class GroupLaplace(Distribution):
    r"""p(a) = exp(−λ‖a‖₂)/Z on Rⁿ, with Z = area(Sⁿ⁻¹) Γ(n) / λⁿ; for n = 1 the Laplace distribution.

    The length of a sample has a Gamma(n, λ) distribution, and its direction is uniform. `rsample` is differentiable in
    the rate. The gradient of `log_prob` in the value is the subgradient 0 at a = 0.

    A product over groups is the prior `gramian.coding.GroupLaplace`: `Independent(GroupLaplace(lam * weights, n), 1)`
    has −log p = value + log_normalizer of `gramian.coding.GroupLaplace(weights)`.

    Args:
        rate: λ > 0, one number or a tensor; its shape is the batch shape, its dtype and device are those of samples.
        group_size: Number n of coefficients of a group; the event shape is [n].
        validate_args: Whether to check parameters and values, as for all distributions of torch.

    Raises:
        OptionError: If `group_size` is not a positive whole number.
        ValueError: If arguments are validated and a rate is not positive.

    Cost:
        O(n) for each sample or density.

    Examples:
        >>> import torch
        >>> prior = GroupLaplace(torch.tensor([1.0, 2.0]), group_size=4)
        >>> prior.rsample((10,)).shape, prior.log_prob(torch.zeros(4)).shape
        (torch.Size([10, 2, 4]), torch.Size([2]))
        >>> prior.variance[:, 0].tolist()
        [5.0, 1.25]

    References:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006; Gómez, Gómez-Villegas
        and Marín, "A multivariate generalization of the power exponential family of distributions", 1998, for β = 1/2.
    """

    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012  # as in torch
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, rate: Tensor | float, group_size: int, validate_args: bool | None = None) -> None:  # noqa: FBT001
        self.group_size = whole_number(group_size, name="group_size")
        (self.rate,) = broadcast_all(rate)
        super().__init__(self.rate.shape, torch.Size([self.group_size]), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "GroupLaplace":
        """Return the distribution with its batch expanded to this shape; a view of the rate."""
        new = cast("GroupLaplace", self._get_checked_instance(GroupLaplace, _instance))
        new.group_size = self.group_size
        new.rate = self.rate.expand(torch.Size(batch_shape))
        super(GroupLaplace, new).__init__(new.rate.shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Float[Tensor, "*batch n"]:
        """The mean, 0."""
        return torch.zeros_like(self.variance)

    @property
    def mode(self) -> Float[Tensor, "*batch n"]:
        """The mode, 0."""
        return self.mean

    @property
    def variance(self) -> Float[Tensor, "*batch n"]:
        """The variance of each coefficient, (n + 1)/λ²; different coefficients are uncorrelated."""
        return ((self.group_size + 1) / self.rate.square()).unsqueeze(-1).expand(self._extended_shape())

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*samples n"]:
        """Draw codes [*sample_shape, *batch, n], differentiable in the rate."""
        vectors = torch.randn(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.rate.dtype, device=self.rate.device
        )
        norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        # In float32, one in 2²⁴ normal variates is exactly 0, and for n = 1 it would have no direction.
        directions = torch.where(norms > 0, vectors / norms, self.group_size**-0.5)
        lengths = Gamma(torch.full_like(self.rate, self.group_size), self.rate, validate_args=False)
        return directions * lengths.rsample(torch.Size(sample_shape)).unsqueeze(-1)

    def log_prob(self, value: Float[Tensor, "*samples n"]) -> Float[Tensor, "..."]:
        """Compute log p of codes [*samples, n]; the result has the shape of samples and batch, broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        return -self.rate * torch.linalg.vector_norm(value, dim=-1) - self._log_normalizer()

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Compute the differential entropy n + log Z."""
        return self.group_size + self._log_normalizer()

    def _log_normalizer(self) -> Float[Tensor, "*batch"]:
        return log_sphere(self.group_size) + math.lgamma(self.group_size) - self.group_size * self.rate.log()
