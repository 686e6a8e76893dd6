r"""The dense kernel: one batched Gram product and one batched product with G.

The plainest of the ways to make the numbers. It holds one [m, n, n] matrix at a time and costs 2·2·m·l·n² flops.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = [
    "SMALL",
    "apply",
    "compute_dtype",
    "full_precision",
    "group_matrices",
    "half_gram",
    "lose_",
    "residual",
    "scaled_dual",
    "symmetrize_",
    "value",
    "value_and_grad",
]

SMALL = 15
"""The n up to which a product with P is computed transposed."""

_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype in which Gram products of `dtype` are formed: float32 for the 16-bit formats."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Keep autocast away from the products of a tensor: it would form them in 16 bits, below any useful residual."""
    device = tensor.device.type
    # A list and not torch.amp.is_autocast_available, which the compiler of torch 2.6 cannot trace.
    if device in _AUTOCAST and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def group_matrices(phi: Phi) -> Tensor:
    """Give the groups P as a batch [m, l, n] in the compute dtype: a view, but for the 16-bit formats."""
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
    """Form ½PᵀP of a batch [m, l, n], away from autocast: what `H + H.mT` makes exactly symmetric.

    A product of a library is symmetric to rounding only, in some sizes and dtypes: X_jk and X_kj are added up in
    different orders. A penalty that looks for the largest entry would then find one of the two. ½ is exact.
    """
    return torch.baddbmm(P.new_empty(()), P.mT, P, beta=0, alpha=0.5)


def symmetrize_(block: Tensor) -> None:
    """Make a square block on the diagonal of PᵀP exactly symmetric, in place."""
    half = block / 2
    torch.add(half, half.mT, out=block)


def value(phi: Phi, penalty: Penalty) -> GroupScalars:
    """Give μ(X) of every group, in the compute dtype. Differentiable."""
    return penalty.value(residual(phi))


def value_and_grad(phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
    """Give βμ(X) of every group and 2βPG: the first in the compute dtype, the second in that of `phi`.

    Where μ(X) is not finite, the whole of that group's gradient is NaN. Differentiable.
    """
    X = residual(phi)
    values = penalty.value(X)
    return beta * values, apply(phi, scaled_dual(X, values, penalty, beta)).to(phi.dtype)


def scaled_dual(X: GroupMatrices, values: GroupScalars, penalty: Penalty, beta: float) -> GroupMatrices:
    """Give 2βG(X), all NaN for a group whose value μ(X) is not finite."""
    # sign(NaN) is 0 in torch: without this factor a NaN would be silent in most rows of the gradient.
    poison = 1 + 0 * values
    return penalty.dual(X) * (2 * beta * poison)[:, None, None]


def lose_(grad: Phi, values: GroupScalars) -> None:
    """Replace the gradient of every group whose value is not finite by NaN: it is looked at on the CPU."""
    if not math.isfinite(values.sum().item()):
        grad[:, ~torch.isfinite(values)] = torch.nan


def apply(phi: Phi, M: GroupMatrices) -> Phi:
    """Multiply every group by its own matrix, P M, in the compute dtype.

    The strides of the result are not those of `phi`: small groups are computed as (MᵀPᵀ)ᵀ, whose rows are long.
    """
    P = group_matrices(phi)
    with full_precision(phi):
        if M.shape[-1] <= SMALL:
            # Up to five times as fast as P M where a row of P M is a few numbers; slower from n = 16 on.
            return torch.bmm(M.mT, P.mT).permute(2, 0, 1)
        return torch.bmm(P, M).permute(1, 0, 2)
