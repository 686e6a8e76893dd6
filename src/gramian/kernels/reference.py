r"""The reference kernel: one batched Gram product and one batched product with G, for any tensor and penalty.

It holds one [m, n, n] matrix at a time and costs 2·2·m·l·n² flops. Other kernels inherit the methods that they do not
improve, and use its functions.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.kernels.base import Kernel
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = [
    "REFERENCE",
    "SMALL",
    "Reference",
    "apply",
    "combine",
    "compute_dtype",
    "cross_gram",
    "full_precision",
    "group_matrices",
    "half_gram",
    "invalidate_groups_",
    "residual",
    "scaled_subgradient",
    "symmetrize_",
]

SMALL = 15
"""Largest n for which a product with P is computed transposed."""

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which Gram products of `dtype` are formed: float32 for the 16-bit formats."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the products of a tensor: in 16 bits their error exceeds any useful residual."""
    device = tensor.device.type
    # A list and not torch.amp.is_autocast_available, which the compiler of torch 2.6 cannot trace.
    if device in _AUTOCAST and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def group_matrices(phi: Phi) -> Tensor:
    """Return the groups P as a batch [m, l, n] in the compute dtype: a view, or a copy for the 16-bit formats."""
    if phi.dtype in (torch.bfloat16, torch.float16):
        phi = phi.to(torch.float32)
    return phi.permute(1, 0, 2)


def residual(phi: Phi) -> GroupMatrices:
    """Form X = PᵀP − I for every group, in the compute dtype, exactly symmetric. Differentiable."""
    P = group_matrices(phi)
    half = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device) / 2
    with full_precision(P):
        H = torch.baddbmm(half, P.mT, P, beta=-1, alpha=0.5)
    return H + H.mT


def half_gram(P: Tensor) -> Tensor:
    """Form H = ½PᵀP of a batch [m, l, n], outside autocast; `H + H.mT` is then exactly symmetric.

    For some sizes and dtypes a library's product is symmetric to rounding only: it sums X_jk and X_kj in different
    orders. A penalty on the largest entry would then select one of the two. The factor ½ is exact.
    """
    return torch.baddbmm(P.new_empty(()), P.mT, P, beta=0, alpha=0.5)


def symmetrize_(block: Tensor) -> None:
    """Make a square block on the diagonal of PᵀP exactly symmetric, in place."""
    half = block / 2
    torch.add(half, half.mT, out=block)


def scaled_subgradient(X: GroupMatrices, values: GroupScalars, penalty: Penalty, beta: float) -> GroupMatrices:
    """Return 2βG(X), all NaN for a group whose value μ(X) is not finite."""
    # sign(NaN) is 0 in torch: without this factor a NaN would be missing from most rows of the gradient.
    one_or_nan = 1 + 0 * values
    return penalty.subgradient(X) * (2 * beta * one_or_nan)[:, None, None]


def invalidate_groups_(grad: Phi, values: GroupScalars) -> None:
    """Set the gradient of every group whose value is not finite to NaN."""
    if values.device.type != "cpu":
        grad.add_((0 * values)[:, None])  # another pass over the gradient, instead of waiting for the device
    elif not math.isfinite(values.sum().item()):
        grad[:, ~torch.isfinite(values)] = torch.nan


def apply(phi: Phi, M: GroupMatrices) -> Phi:
    """Multiply every group by its matrix, P M, in the compute dtype.

    The strides of the result differ from those of `phi`: small groups are computed as (MᵀPᵀ)ᵀ, whose rows are long.
    """
    P = group_matrices(phi)
    with full_precision(phi):
        if M.shape[-1] <= SMALL:
            # Up to five times as fast as P M where a row of P M is a few numbers; slower from n = 16 on.
            return torch.bmm(M.mT, P.mT).permute(2, 0, 1)
        return torch.bmm(P, M).permute(1, 0, 2)


def cross_gram(phi: Phi, Q: Tensor) -> Float[Tensor, "m k n"]:
    """Form QᵀP of every group, for a Q [l, m, k], or [l, 1, k] that is the same for all groups. Differentiable.

    Args:
        phi: Φ[l, m, n] in its compute dtype.
        Q: Columns of the same dtype.
    """
    _, m, n = phi.shape
    with full_precision(phi):
        if Q.shape[1] == 1:  # one product for all groups
            return (Q[:, 0].mT @ phi.flatten(1)).reshape(Q.shape[2], m, n).permute(1, 0, 2)
        return torch.bmm(Q.permute(1, 2, 0), phi.permute(1, 0, 2))


def combine(Q: Tensor, Y: Float[Tensor, "m k n"], *, rows: bool = False) -> Phi:
    """Form Q Y of every group, a tensor [l, m, n], for a Q as in `cross_gram`.

    Args:
        Q: Columns.
        Y: Their coefficients.
        rows: Whether vectors are stored as rows, as in a Linear weight; so are those of the result.
    """
    m, k, n = Y.shape
    with full_precision(Y):
        if Q.shape[1] == 1:
            flat = Y.permute(1, 0, 2).reshape(k, m * n)
            return ((flat.mT @ Q[:, 0].mT).mT if rows else Q[:, 0] @ flat).reshape(Q.shape[0], m, n)
        if rows:
            return torch.bmm(Y.mT, Q.permute(1, 2, 0)).permute(2, 0, 1)
        return torch.bmm(Q.permute(1, 0, 2), Y).permute(1, 0, 2)


class Reference(Kernel):
    """Two batched products, for any tensor and penalty. Differentiable."""

    name = "reference"

    def residual(self, phi: Phi) -> GroupMatrices:
        return residual(phi)

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        return apply(phi, M)

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        phi.add_(self.apply(phi, M))

    def finite(self, phi: Phi) -> Bool[Tensor, " m"]:
        return phi.isfinite().all(dim=2).all(dim=0)

    def cross_gram(self, phi: Phi, Q: Tensor) -> Float[Tensor, "m k n"]:
        return cross_gram(phi, Q)

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        return penalty.value(self.residual(phi))

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        X = self.residual(phi)
        values = penalty.value(X)
        return beta * values, self.apply(phi, scaled_subgradient(X, values, penalty, beta)).to(phi.dtype)


REFERENCE = Reference()
"""The reference kernel, which has no state."""
