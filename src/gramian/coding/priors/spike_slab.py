"""Priors with a cost for every active group: group ℓ0, and a spike at zero with a slab."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.coding.model import Codes, group_norms
from gramian.coding.priors.prior import Prior, group_soft_threshold
from gramian.coding.priors.radial import directions, gamma, log_sphere
from gramian.errors import OptionError
from gramian.options import real_number

__all__ = ["SLABS", "GroupL0", "SpikeSlab"]

SLABS = ("gaussian", "laplace")
"""The densities of the codes of an active group."""


@dataclass(frozen=True)
class GroupL0(Prior):
    r"""−log p(a) = λ‖a‖₂,₀: every active group costs λ, whatever its codes are.

    The prior does not shrink: the codes on the support are those of least squares. It is a spike at 0 with a flat
    slab, which has no density, so it cannot be sampled and has no normaliser.

    A group is worth its price if it lowers ½‖x − Φa‖² by more than λ. For noise of unit variance a group of n atoms
    that is not in the sample lowers it by n/2 on average.

    Examples:
        >>> import torch
        >>> prior = GroupL0()
        >>> prior.value(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), lam=2.0).tolist()
        [2.0]
        >>> prior.prox(torch.tensor([[[3.0, 4.0], [0.3, 0.4]]]), lam=2.0).tolist()
        [[[3.0, 4.0], [0.0, 0.0]]]

    References:
        Blumensath and Davies, "Iterative thresholding for sparse approximations", 2008.
    """

    has_majorizer = False
    counts_groups = True

    @property
    def ridge(self) -> float | None:
        """The precision ρ of the slab if its −log density is ½ρ‖a‖², so that codes on a support are least squares."""
        return 0.0

    def value(self, codes: Codes, lam: float) -> Float[Tensor, " batch"]:
        lengths = group_norms(codes)
        return torch.where(lengths > 0, lam + self.slab_value(lengths), 0).flatten(1).sum(dim=1)

    def prox(self, codes: Codes, lam: float, step: float | Tensor = 1.0) -> Codes:
        return torch.where((self.gain(codes, step) > lam * step).unsqueeze(2), self.slab_prox(codes, step), 0)

    def slab_value(self, lengths: Tensor) -> Tensor:
        """Compute the −log density of an active group, up to a constant, from its length."""
        return torch.zeros_like(lengths)

    def slab_prox(self, codes: Codes, step: float | Tensor) -> Codes:
        """Apply the prox of step·slab."""
        del step
        return codes

    def gain(self, codes: Codes, step: float | Tensor) -> Tensor:
        """Compute, for each group, how much lower the objective is at the prox of the slab than at 0."""
        lengths = group_norms(codes)
        shorter = group_norms(self.slab_prox(codes, step))
        return 0.5 * lengths.square() - 0.5 * (lengths - shorter).square() - step * self.slab_value(shorter)

    def log_normalizer(self, m: int, n: int, lam: float) -> float:  # noqa: ARG002
        raise OptionError(
            "a prior must have a density that integrates to 1; 'group_l0' has a flat slab; try SpikeSlab('gaussian')"
        )

    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:  # noqa: ARG002
        raise OptionError("a prior must have a density to be sampled; 'group_l0' has none; try SpikeSlab('gaussian')")


@dataclass(frozen=True)
class SpikeSlab(GroupL0):
    r"""A group is 0 with probability 1 − π; otherwise its codes have a Gaussian or a Laplace density, the slab.

    With respect to the measure δ₀ + da of each group, −log p(a) = Σ_{a_i ≠ 0} (λ + slab(a_i)) up to a constant, with
    slab(a) = ‖a‖²/2s² or ‖a‖/s. λ is the price of an active group: λ = log((1 − π)/π) + log ∫exp(−slab(a))da.

    Args:
        slab: 'gaussian' or 'laplace'.
        scale: Scale s of the slab, in units of the standard deviation of the noise.

    Raises:
        OptionError: If the slab is unknown, or the scale is not positive.

    Examples:
        >>> prior = SpikeSlab(scale=2.0)
        >>> lam = prior.price(0.1, n=2)
        >>> round(prior.rate(lam, n=2), 6), round(lam, 3)
        (0.1, 5.421)

    References:
        Mitchell and Beauchamp, "Bayesian variable selection in linear regression", 1988.
    """

    slab: str = "gaussian"
    scale: float = 3.0

    def __post_init__(self) -> None:
        if self.slab not in SLABS:
            raise OptionError(
                f"slab must be one of {', '.join(map(repr, SLABS))}; got {self.slab!r}; for a flat slab try GroupL0()"
            )
        real_number(self.scale, name="scale")

    @property
    def ridge(self) -> float | None:
        return self.scale**-2 if self.slab == "gaussian" else None

    def slab_value(self, lengths: Tensor) -> Tensor:
        scaled = lengths / self.scale
        return 0.5 * scaled.square() if self.slab == "gaussian" else scaled

    def slab_prox(self, codes: Codes, step: float | Tensor) -> Codes:
        if self.slab == "laplace":
            return group_soft_threshold(codes, step / self.scale)
        factor = 1 / (1 + step * self.scale**-2)
        return codes * (factor.unsqueeze(2) if isinstance(factor, Tensor) else factor)

    def log_mass(self, n: int) -> float:
        """Compute log Z = log ∫exp(−slab(a)) da over a group of n coefficients."""
        if self.slab == "gaussian":
            return n / 2 * math.log(2 * math.pi * self.scale**2)
        return log_sphere(n) + math.lgamma(n) + n * math.log(self.scale)

    def rate(self, lam: float, n: int) -> float:
        """Compute the probability π that a group is active, from its price λ."""
        excess = lam - self.log_mass(n)
        odds = math.exp(-abs(excess))  # no overflow, and no cancellation for a small π
        return (odds if excess > 0 else 1.0) / (1 + odds)

    def price(self, rate: float, n: int) -> float:
        """Compute the price λ of an active group, from the probability π that it is active.

        Raises:
            OptionError: If π is not between 0 and 1, or so large that λ is not positive.
        """
        if not 0 < rate < 1:
            raise OptionError(f"rate must be between 0 and 1; got {rate!r}; try rate=0.05")
        lam = math.log((1 - rate) / rate) + self.log_mass(n)
        if lam <= 0:
            raise OptionError(f"rate and scale must give a positive price λ; got λ = {lam:.3g}; try a smaller rate")
        return lam

    def log_normalizer(self, m: int, n: int, lam: float) -> float:
        return m * float(torch.tensor(self.log_mass(n) - lam, dtype=torch.float64, device="cpu").exp().log1p())

    def sample(self, count: int, m: int, n: int, lam: float, *, generator: torch.Generator) -> Codes:
        uniform = torch.rand(count, m, generator=generator, dtype=torch.float64, device="cpu")
        active: Bool[Tensor, "count m"] = uniform < self.rate(lam, n)
        if self.slab == "gaussian":
            codes = self.scale * torch.randn(count, m, n, generator=generator, dtype=torch.float64, device="cpu")
        else:
            lengths = self.scale * gamma(n, (count, m), generator)
            codes = directions(count, m, n, generator) * lengths[..., None]
        return codes * active[..., None]
