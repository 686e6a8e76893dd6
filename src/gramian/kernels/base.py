"""What a kernel is: the Gram residual of every group, and the product of every group with a matrix of its own."""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from gramian.kernels import chunks, dense, device
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Dense", "Kernel", "Problem", "is_plain"]


_PLAIN = (Tensor, torch.nn.Parameter)


class Problem(NamedTuple):
    """What a kernel is chosen by."""

    shape: tuple[int, int, int]
    strides: tuple[int, int, int]
    dtype: torch.dtype
    device: str
    entrywise: bool
    """Whether the penalty is a sum over the entries of X."""
    epilogue: bool
    """Whether device code knows the penalty."""

    @classmethod
    def of(cls, phi: Phi, penalty: Penalty) -> "Problem":
        """Describe a tensor and a penalty."""
        length, m, n = phi.shape
        known = device.epilogue(penalty) is not None
        return cls((length, m, n), phi.stride(), phi.dtype, phi.device.type, penalty.entrywise, known)  # pyright: ignore[reportArgumentType]


def is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is memory to read: not batched by vmap, sharded, fake, or of another such subclass."""
    return type(tensor) in _PLAIN and not is_functorch_wrapped_tensor(tensor)


class Kernel:
    """One way to make the numbers. All kernels agree up to rounding; they differ in time and in memory.

    The methods here are the dense ones, and what follows from them for any penalty; a subclass overrides what it
    does better. Only the dense kernel can be differentiated, vmapped and compiled.
    """

    name: ClassVar[str]
    """By which it is forced and reported."""

    piece: ClassVar[int] = chunks.NUMBERS
    """Numbers of X that are worked on at a time."""

    def cannot(self, problem: Problem) -> str | None:  # noqa: ARG002
        """Say why the kernel cannot do this, or None if it can. Only plain memory comes to any but the dense one."""
        return None

    def loses(self, problem: Problem) -> str | None:  # noqa: ARG002
        """Say why a kernel further down the ladder is better here, or None if none is."""
        return None

    def residual(self, phi: Phi) -> GroupMatrices:
        """Form X = PᵀP − I of every group, a new tensor in the compute dtype."""
        return dense.residual(phi)

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        """Multiply every group by its own matrix, P M, in the compute dtype."""
        return dense.apply(phi, M)

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        """Add P M to every group P, in place; Φ is of its compute dtype."""
        phi.add_(self.apply(phi, M))

    def finite(self, phi: Phi) -> Bool[Tensor, " m"]:
        """Tell of every group whether all its entries are finite."""
        return phi.isfinite().all(dim=2).all(dim=0)

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        """Give μ(X) of every group, in the compute dtype."""
        return penalty.value(self.residual(phi))

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        """Give βμ(X) of every group and 2βPG: the first in the compute dtype, the second in that of `phi`.

        Where μ(X) is not finite, the whole of that group's gradient is NaN.
        """
        X = self.residual(phi)
        values = penalty.value(X)
        return beta * values, self.apply(phi, dense.scaled_dual(X, values, penalty, beta)).to(phi.dtype)


class Dense(Kernel):
    """Two batched products. It takes everything."""

    name = "dense"
