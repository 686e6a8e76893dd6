"""The squared Frobenius norm: soft orthogonality, the smooth peer of l1."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gramian.penalties.base import ElementwisePenalty
from gramian.typing import Block, Entries

__all__ = ["SquaredFrobenius"]


@dataclass(frozen=True)
class SquaredFrobenius(ElementwisePenalty):
    r"""μ(X) = ‖X‖²_F, G = 2X, C_τ(X) = 2τX/(1 + 2τ). It has no kink, and makes no entry exactly zero.

    Args:
        diagonal: Whether lengths are penalised, or angles alone.

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations in training deep networks?",
        NeurIPS 2018 ("soft orthogonality"); without lengths, Brock, Donahue and Simonyan, "Large scale GAN training
        for high fidelity natural image synthesis", ICLR 2019.
    """

    diagonal: bool = True

    def value(self, X: Block) -> Float[Tensor, "..."]:
        return self.seen(X).square().sum(dim=(-2, -1))

    def dual(self, X: Entries) -> Entries:
        return 2 * self.seen(X)

    def shrink(self, X: Entries, tau: Tensor) -> Entries:
        # 2τ/(1 + 2τ) written so that τ = 0 gives 0, τ = ∞ gives X, and a tiny τ loses no digits.
        return self.seen(X) / (1 + 0.5 / tau)
