"""The interface of a kernel: an implementation of the loss, its gradient and the products that the rules need."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.kernels.gpu import epilogues
from gramian.penalties import Penalty
from gramian.torch_internals import is_transformed
from gramian.typing import GroupMatrices, GroupScalars, Phi, Scalar

__all__ = ["FusedStep", "Kernel", "KernelSpec", "is_plain"]


_PLAIN = (Tensor, torch.nn.Parameter)


class KernelSpec(NamedTuple):
    """The properties of Φ and of the penalty by which a kernel is chosen."""

    shape: tuple[int, int, int]
    strides: tuple[int, int, int]
    dtype: torch.dtype
    device: str
    accepts_blocks: bool
    """Whether the penalty is a sum over the entries of X."""
    epilogue: bool
    """Whether the GPU kernels implement the penalty."""

    @classmethod
    def of(cls, phi: Phi, penalty: Penalty) -> "KernelSpec":
        """Describe a tensor and a penalty."""
        length, m, n = phi.shape
        known = epilogues.epilogue(penalty) is not None
        return cls((length, m, n), phi.stride(), phi.dtype, phi.device.type, penalty.accepts_blocks, known)  # pyright: ignore[reportArgumentType]


class FusedStep(NamedTuple):
    """The result of `Kernel.proximal_step`."""

    values: GroupScalars
    """μ(X) of every group before the step, in the compute dtype."""
    out: Phi
    """Φ after the step, or its change, which is new memory."""
    failed: list[slice]
    """Groups whose step was neither computed nor written, because one of their Gram matrices is not finite."""
    total: Scalar | None = None
    """The sum of the values, where a launch computed it too."""


def is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is plain memory: neither batched by vmap, nor sharded, fake or a subclass."""
    return type(tensor) in _PLAIN and not is_transformed(tensor)


class Kernel(ABC):
    """One implementation of the loss and its gradient.

    All kernels agree up to rounding; they differ in time and memory. The reference kernel alone can be differentiated,
    vmapped and compiled. The compute dtype is `reference.compute_dtype` of the dtype of Φ.
    """

    name: ClassVar[str]
    """The name for `gramian.kernels.use` and `gramian.kernels.watch`."""

    splits_groups: ClassVar[bool] = True
    """Whether the groups of Φ may be passed in several calls; False where all processes must make the same calls."""

    streams_residual: ClassVar[bool] = False
    """Whether the kernel has `stream` and `residual_columns`, which never hold X."""

    widens: ClassVar[bool] = False
    """Whether `value_and_grad_into` writes a gradient in the compute dtype for a Φ of 16 bits, rounding nothing."""

    def unsupported_reason(self, problem: KernelSpec) -> str | None:  # noqa: ARG002
        """Return why the kernel cannot compute this, or None if it can. All but the reference get plain memory."""
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:  # noqa: ARG002
        """Return why a later kernel of the ladder is faster here, or None if none is."""
        return None

    @abstractmethod
    def residual(self, phi: Phi) -> GroupMatrices:
        """Form X = PᵀP − I of every group, a new tensor in the compute dtype, exactly symmetric."""

    @abstractmethod
    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        """Multiply every group by its matrix, P M, in the compute dtype."""

    @abstractmethod
    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        """Add P M to every group P, in place; Φ must have its compute dtype."""

    @abstractmethod
    def finite(self, phi: Phi) -> Bool[Tensor, " m"]:
        """Tell for every group whether all its entries are finite."""

    @abstractmethod
    def cross_gram(self, phi: Phi, Q: Tensor) -> Float[Tensor, "m k n"]:
        """Form QᵀP of every group, in the compute dtype; Q is [l, m, k], or [l, 1, k] for all groups."""

    @abstractmethod
    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        """Compute μ(X) of every group, in the compute dtype."""

    @abstractmethod
    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        """Compute βμ(X) of every group in the compute dtype, and 2βPG in the dtype of `phi`.

        Where μ(X) is not finite, the whole gradient of that group is NaN.
        """

    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        """Compute the same, with the gradient in `out`, which has the shape and dtype of `phi` and other memory."""
        values, grad = self.value_and_grad(phi, penalty, beta)
        out.copy_(grad)
        return values

    def proximal_step(
        self,
        phi: Phi,  # noqa: ARG002
        penalty: Penalty,  # noqa: ARG002
        tau: float,  # noqa: ARG002
        *,
        in_place: bool,  # noqa: ARG002
        rate: Scalar | None = None,  # noqa: ARG002
    ) -> FusedStep | None:
        """Compute the step of `gramian.rules.proximal` without writing matrices to memory.

        Args:
            phi: Φ[l, m, n], in its dtype.
            penalty: The penalty.
            tau: τ = 4ηβ for w = 1; 4β with a `rate`.
            in_place: Whether Φ is stepped; otherwise its change is returned.
            rate: η, on the device of Φ, which is not read by the host; only where Φ is on a device.

        Returns:
            The step, or None if the kernel has none for the penalty; then nothing is written.
        """
        return None

    def residual_columns(self, P: Tensor, columns: Tensor) -> Tensor:
        """Form some columns of PᵀP − I of one group P[l, n]: a tensor [n, k]. Needs `streams_residual`."""
        raise NotImplementedError

    def stream(
        self, P: Tensor, out: Tensor, penalty: Penalty, factor: Callable[[int, Tensor], Tensor], scale: float
    ) -> Tensor:
        """Write scale·PM to `out` for a symmetric M, an entry-wise function of X. Needs `streams_residual`.

        Args:
            P: One group, [l, n].
            out: The result, [l, n]; it must not share memory with P.
            penalty: The penalty, a sum over the entries of X.
            factor: A function of the first index of a block I, and X[I, i:], which it may overwrite; returns M[I, i:].
            scale: A number.

        Returns:
            μ(X), a 0-dimensional tensor.
        """
        raise NotImplementedError
