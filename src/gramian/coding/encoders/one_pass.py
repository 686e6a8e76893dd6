r"""One-pass encoders: pre-codes u_i = W_i x + b_i of all groups, before some of them are selected."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.coding.encoders.products import Rows

__all__ = ["LinearEncoder", "OnePass", "PreCodes", "TiedEncoder"]


class PreCodes(NamedTuple):
    """The parts of the pre-codes u_i = W_i x + b_i of a batch.

    Attributes:
        x: The samples, scaled by the encoder.
        rows: W[m, n, l].
        bias: b[m, n]; None for 0.
    """

    x: Float[Tensor, "batch l"]
    rows: Rows
    bias: Float[Tensor, "m n"] | None


class OnePass(nn.Module, ABC):
    """An encoder that computes all pre-codes by one linear map."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "batch l"], frames: Rows) -> PreCodes:
        """Return the parts from which the pre-codes are computed.

        Args:
            x: Samples [batch, l].
            frames: The frames of the dictionary, [m, n, l].
        """

    @abstractmethod
    def reset_(self, groups: Tensor, frames: Rows) -> None:
        """Reinitialise the encoder of some groups from their frames."""


class LinearEncoder(OnePass):
    r"""u_i = W_i x + b_i with free W and b, which start as Φ_iᵀ and 0.

    With orthonormal frames, Φ_iᵀx is the least-squares code of a single group, so the initial weights need no scale.

    Args:
        frames: The frames to start from, [m, n, l].
    """

    def __init__(self, frames: Rows) -> None:
        super().__init__()
        self.weight = nn.Parameter(frames.detach().clone())
        self.bias = nn.Parameter(frames.new_zeros(frames.shape[:2]))

    def forward(self, x: Float[Tensor, "batch l"], frames: Rows) -> PreCodes:
        return PreCodes(x, self.weight, self.bias)

    @torch.no_grad()
    def reset_(self, groups: Tensor, frames: Rows) -> None:
        self.weight[groups] = frames[groups]
        self.bias[groups] = 0


class TiedEncoder(OnePass):
    r"""u_i = γ Φ_iᵀx with one learned γ > 0, stored as its logarithm in a tensor of one number, as FSDP2 requires.

    Args:
        frames: The frames of the dictionary, [m, n, l]; only their type and device matter.
    """

    def __init__(self, frames: Rows) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(frames.new_zeros(1))

    def forward(self, x: Float[Tensor, "batch l"], frames: Rows) -> PreCodes:
        return PreCodes(x * self.log_gain.exp(), frames, None)

    def reset_(self, groups: Tensor, frames: Rows) -> None:
        """Do nothing: the encoder follows the frames."""
