"""The numbers that check the derivation of the gradient: one group P, its X and G, and a direction dP."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gramian.calculus.gradients import residual
from gramian.errors import OptionError, ShapeError
from gramian.options import check_beta
from gramian.penalties import LogDet, Penalty, as_penalty

__all__ = ["Setting"]

_MAX_ENTRIES, _MAX_JACOBIAN = 2**12, 2**20
"""Largest number of entries of Φ, and of the largest matrix that is formed: a few seconds of plain loops."""


@dataclass(frozen=True)
class Setting:
    """Random numbers, in float64, on which every step of the derivation is checked.

    Args:
        length: l.
        m: Number of groups.
        n: Vectors in a group.
        penalty: Name or `Penalty`.
        a: Index of the group P.
        b: Index of the vector in the group.
        seed: Seed of the random numbers.
        beta: Strength β > 0.

    Raises:
        ShapeError: If a size is below 1, the sizes are too large for dense matrices, or a or b is out of range.
        OptionError: If the penalty is infinite for linearly dependent vectors (logdet, n > l), torch does not accept
            the seed, or β is not a positive finite number.
    """

    length: int
    m: int
    n: int
    penalty: str | Penalty = "l1"
    a: int = 0
    b: int = 0
    seed: int = 0
    beta: float = 1.0
    phi: Tensor = field(init=False, repr=False)
    dP: Tensor = field(init=False, repr=False)  # noqa: N815

    def __post_init__(self) -> None:
        if min(self.length, self.m, self.n) < 1:
            raise ShapeError(f"l, m and n must be at least 1; got {self.length}, {self.m}, {self.n}")
        entries, jacobian = self.length * self.m * self.n, self.n**3 * max(self.length, self.n)
        if entries > _MAX_ENTRIES or jacobian > _MAX_JACOBIAN:
            raise ShapeError(
                f"l·m·n must be at most {_MAX_ENTRIES} and n³·max(l, n) at most {_MAX_JACOBIAN}, because every matrix "
                f"is formed; got {self.length}, {self.m}, {self.n} for l, m and n; try smaller ones"
            )
        if not (0 <= self.a < self.m and 0 <= self.b < self.n):
            raise ShapeError(
                f"the vector must be one of {self.m} groups of {self.n}, from 0; got group {self.a}, vector {self.b}"
            )
        if isinstance(self.mu, LogDet) and self.n > self.length:
            raise OptionError(f"logdet is infinite for n > l; got n = {self.n}, l = {self.length}; try fewer vectors")
        if not -(2**63) <= self.seed < 2**64 - 1:
            raise OptionError(f"the seed must be from -2⁶³ to 2⁶⁴ - 2; got {self.seed}")
        if not check_beta(self.beta) > 0:
            raise OptionError(f"beta must be positive, or there is nothing to derive; got {self.beta}; try beta=1")
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.length, self.m, self.n)
        scale = 0.8 / self.length**0.5
        object.__setattr__(
            self, "phi", scale * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        )
        object.__setattr__(
            self, "dP", torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")[:, self.a]
        )

    @property
    def mu(self) -> Penalty:
        """The penalty."""
        return as_penalty(self.penalty)

    @property
    def P(self) -> Tensor:  # noqa: N802
        """Group a, [l, n]."""
        return self.phi[:, self.a]

    @property
    def X(self) -> Tensor:  # noqa: N802
        """Its Gram residual, [n, n]."""
        return residual(self.P)

    @property
    def G(self) -> Tensor:  # noqa: N802
        """A member of ∂μ(X), [n, n]."""
        return self.mu.subgradient(self.X)

    @property
    def dX(self) -> Tensor:  # noqa: N802
        """PᵀdP + dPᵀP, [n, n]."""
        half = self.P.mT @ self.dP
        return half + half.mT

    @property
    def Q(self) -> Tensor:  # noqa: N802
        """Orthonormal columns that span those of P, [l, n]; n ≤ l."""
        return torch.linalg.qr(self.P).Q

    def value(self, P: Tensor) -> Tensor:
        """Compute βμ(PᵀP − I), the part of L that depends on one group."""
        return self.beta * self.mu.value(residual(P))

    def loss(self, phi: Tensor) -> Tensor:
        """Compute L = β Σ_i μ(Φ_iᵀΦ_i − I), group by group."""
        return torch.stack([self.value(phi[:, i]) for i in range(self.m)]).sum()

    def autograd(self) -> Tensor:
        """Compute ∂L/∂Φ by automatic differentiation of the loss as it is defined."""
        leaf = self.phi.clone().requires_grad_()
        return torch.autograd.grad(self.loss(leaf), leaf)[0]
