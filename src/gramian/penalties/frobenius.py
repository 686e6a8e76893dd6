"""The Frobenius norm: all pairs of a group together are zero, or none."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.penalties.base import Penalty
from gramian.typing import GroupMatrix

__all__ = ["Frobenius"]


@dataclass(frozen=True)
class Frobenius(Penalty):
    r"""μ(X) = ‖X‖_F, G = X/‖X‖_F, C_τ(X) = X·min(1, τ/‖X‖_F). Its one kink is at X = 0, where G = 0.

    Args:
        diagonal: Whether lengths are penalised, or angles alone.

    References:
        Zhang et al., "AdaLoRA: adaptive budget allocation for parameter-efficient fine-tuning", ICLR 2023, and PEFT,
        whose regulariser is this norm of AAᵀ − I and BᵀB − I.
    """

    diagonal: bool = True

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return torch.linalg.vector_norm(self.seen(X), dim=(-2, -1))

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        size = self.value(X)[..., None, None]
        return self.seen(X) / torch.where(size > 0, size, 1)

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        size = self.value(X)[..., None, None]
        return self.seen(X) * torch.where(size > tau, tau / size, 1)
