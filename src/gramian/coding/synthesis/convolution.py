"""The synthesis of atoms smaller than samples, placed at every position."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from gramian.coding.model import Codes
from gramian.coding.synthesis.base import TF32, Samples, Synthesis, longest_atom
from gramian.errors import ShapeError
from gramian.typing import Phi

__all__ = ["Convolution"]


class Convolution(Synthesis):
    """The synthesis of atoms smaller than samples: x sums all atoms at all positions, times coefficients.

    Args:
        weight: Kernels [m·n, channels, height, width], ordered by group, in the layout of `torch.nn.Conv2d`.
        group_size: Number n of atoms in a group.
        stride: Distance between neighbouring positions.

    Raises:
        ShapeError: If the kernels do not divide into groups, or the stride is less than 1.

    Examples:
        >>> import torch
        >>> atoms = Convolution(torch.randn(8, 1, 5, 5), group_size=2)
        >>> atoms.analyse(torch.randn(3, 1, 20, 20)).shape  # [batch, m, n, rows, columns]
        torch.Size([3, 4, 2, 16, 16])
    """

    def __init__(self, weight: Float[Tensor, "atoms channels height width"], group_size: int, stride: int = 1) -> None:
        if weight.ndim != 4 or weight.shape[0] % group_size:
            raise ShapeError(
                f"kernels must have shape [m·n, channels, height, width] with groups of {group_size}; got "
                f"{list(weight.shape)}"
            )
        if stride < 1:
            raise ShapeError(f"stride must be at least 1; got {stride}")
        self.weight = weight
        self.groups = (weight.shape[0] // group_size, group_size)
        self.stride = stride

    @classmethod
    def of(cls, phi: Phi, kernel: tuple[int, int, int], stride: int = 1) -> "Convolution":
        """Create the convolution with the atoms of Φ[l, m, n].

        Args:
            phi: The atoms; each is a kernel, flattened to a vector.
            kernel: Shape of an atom, (channels, height, width).
            stride: Distance between neighbouring positions.

        Raises:
            ShapeError: If the length of an atom is not the number of entries of a kernel.

        Examples:
            >>> import torch
            >>> Convolution.of(torch.randn(25, 4, 2), (1, 5, 5)).weight.shape
            torch.Size([8, 1, 5, 5])
        """
        length, m, n = phi.shape
        if math.prod(kernel) != length:
            raise ShapeError(f"kernels of shape {list(kernel)} have {math.prod(kernel)} numbers; got atoms of {length}")
        return cls(phi.permute(1, 2, 0).reshape(m * n, *kernel), n, stride)

    def zeros(self, x: Samples) -> Codes:
        channels, *kernel = self.weight.shape[1:]
        if x.ndim != 4 or x.shape[1] != channels or min(a - b for a, b in zip(x.shape[2:], kernel, strict=True)) < 0:
            raise ShapeError(
                f"samples must have shape [batch, {channels}, height, width], at least {kernel[0]} × {kernel[1]}; got "
                f"{list(x.shape)}"
            )
        if any((a - b) % self.stride for a, b in zip(x.shape[2:], kernel, strict=True)):
            raise ShapeError(
                f"kernels with a stride of {self.stride} must cover a sample without a remainder; got samples of "
                f"{list(x.shape[2:])} and kernels of {kernel}; try stride=1, or crop the samples"
            )
        positions = [(a - b) // self.stride + 1 for a, b in zip(x.shape[2:], kernel, strict=True)]
        return x.new_zeros((x.shape[0], *self.groups, *positions))

    def synthesise(self, codes: Codes) -> Samples:
        return functional.conv_transpose2d(codes.flatten(1, 2), self.weight, stride=self.stride)

    def analyse(self, x: Samples) -> Codes:
        return functional.conv2d(x, self.weight, stride=self.stride).unflatten(1, self.groups)

    def longest(self, x: Samples) -> float:  # noqa: ARG002
        return longest_atom(self.weight)

    def roundoff(self, x: Samples) -> float:
        coarse = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
        return TF32 if coarse else super().roundoff(x)

    def gradient(self, error: Samples, codes: Codes) -> Phi:
        gradient = conv2d_weight(error, list(self.weight.shape), codes.flatten(1, 2), stride=self.stride)
        gradient /= error.numel() / self.weight[0].numel()
        return gradient.view(*self.groups, -1).permute(2, 0, 1).contiguous()
