"""The Huber function: the absolute value with its kink rounded off over a width δ."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import ElementwisePenalty
from gramian.typing import Block, Entries

__all__ = ["Huber"]


@dataclass(frozen=True)
class Huber(ElementwisePenalty):
    r"""μ(X) = Σ_jk h_δ(X_jk) with h_δ(x) = x²/2δ for |x| ≤ δ and |x| − δ/2 beyond; G = clip(X/δ, −1, 1).

    It is the Moreau envelope of the absolute value: smooth, and within δ/2 of it. Its own shrink is
    C_τ(X) = clip(Xτ/(τ + δ), −τ, τ).

    Args:
        delta: Width δ > 0 of the rounded part, in units of X.
        diagonal: Whether lengths are penalised, or angles alone.

    Raises:
        OptionError: If δ is not a positive finite number.

    References:
        Huber, "Robust estimation of a location parameter", 1964.
    """

    delta: float = 0.1
    diagonal: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise OptionError(f"delta must be a positive finite number; got {self.delta!r}; try delta=0.1")

    def value(self, X: Block) -> Float[Tensor, "..."]:
        # |x|·c − δc²/2 with c = min(|x|/δ, 1) is both branches at once, without an overflow of x² for large x.
        size = self.seen(X).abs()
        slope = (size / self.delta).clamp_max(1)
        return (slope * (size - 0.5 * self.delta * slope)).sum(dim=(-2, -1))

    def dual(self, X: Entries) -> Entries:
        return (self.seen(X) / self.delta).clamp(-1, 1)

    def shrink(self, X: Entries, tau: Tensor) -> Entries:
        # τ/(τ + δ) written so that τ = 0 gives 0 and τ = ∞ gives 1.
        slope = 1 / (1 + self.delta / tau)
        return (self.seen(X) * slope).clamp(-tau, tau)
