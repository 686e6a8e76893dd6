"""The Laplacian scale mixture: a group Laplace prior with a random scale for each group."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.model import Codes, group_norms
from gramian.coding.priors.prior import GroupLaplace, Prior
from gramian.coding.priors.radial import directions, gamma, log_sphere
from gramian.errors import OptionError

__all__ = ["LaplacianScaleMixture"]


@dataclass(frozen=True)
class LaplacianScaleMixture(Prior):
    r"""A group Laplace prior with a random scale for each group: fewer active groups, with larger amplitudes.

    p(a_i) = ∫ p(a_i | λ_i) p(λ_i) dλ_i with λ_i Gamma-distributed of mean λ, which gives
    −log p(a_i) = (s + n) log(1 + λ‖a_i‖/s) up to a constant. This prior is not log-concave, so inference solves a
    sequence of group lassos. Each uses the expected scales given the previous codes, λ_i = λ(1 + n/s)/(1 + λ‖a_i‖/s).
    The certificate is that of the last round.

    Args:
        shape: Shape s > 0 of the Gamma distribution; the larger s is, the closer the prior is to `GroupLaplace`.
        rounds: Number of rounds of inference.

    Raises:
        OptionError: If `shape` is not positive or `rounds` is less than 1.

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

    def prox(self, codes: Codes, lam: float, step: float | Tensor = 1.0) -> Codes:
        # With the length r of a group and v that of its codes, stationarity r + step·(s + n)λ/(s + λr) = v is a
        # quadratic equation; its larger root is a minimum, and the objective decides between it and 0.
        lengths, n = group_norms(codes), codes.shape[2]
        offset = self.shape / lam
        weight = step * (self.shape + n)
        discriminant = (lengths + offset).square() - 4 * weight
        root = (0.5 * (lengths - offset + discriminant.clamp_min(0).sqrt())).clamp_min(0)
        cost = 0.5 * (root - lengths).square() + weight * (root / offset).log1p()
        root = torch.where((discriminant >= 0) & (cost < 0.5 * lengths.square()), root, 0)
        return codes * (root / lengths.clamp_min(torch.finfo(codes.dtype).tiny)).unsqueeze(2)

    def majorizer(self, codes: Codes, lam: float) -> GroupLaplace:
        amplitudes = group_norms(codes).nan_to_num(0.0, 0.0)  # codes of samples that are not finite
        return GroupLaplace((1 + codes.shape[2] / self.shape) / (1 + lam / self.shape * amplitudes))

    def log_normalizer(self, m: int, n: int, lam: float) -> float:
        s = self.shape
        radial = math.lgamma(n) + math.lgamma(s) - math.lgamma(s + n) + n * math.log(s / lam)
        return m * (log_sphere(n) + radial)

    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:
        scales = lam / self.shape * gamma(self.shape, (count, m), generator)
        lengths = gamma(n, (count, m), generator) / scales
        return directions(count, m, n, generator) * lengths[..., None]
