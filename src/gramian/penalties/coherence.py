"""The largest inner product of two vectors of a group: mutual coherence, for vectors of length 1."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gramian.penalties.base import Penalty, off_diagonal, symmetric
from gramian.penalties.spectrum import largest, onto_l1_ball
from gramian.typing import GroupMatrix

__all__ = ["Coherence"]


@dataclass(frozen=True)
class Coherence(Penalty):
    r"""μ(X) = max_{j≠k}|X_jk|, G = sign(X_jk) at the largest pair, half in each of its two places.

    Lengths are free. Where several pairs are largest, G is their mean, the member of least norm. C_τ(X) is the
    projection of the off-diagonal part on the l1 ball of radius τ.

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations in training deep networks?",
        NeurIPS 2018 ("mutual coherence", MC); Donoho and Huo, "Uncertainty principles and ideal atomic
        decomposition", 2001.
    """

    diagonal = False

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return largest(off_diagonal(symmetric(X)).abs().flatten(-2))

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        off = off_diagonal(symmetric(X))
        sizes = off.abs()
        top = largest(sizes.flatten(-2))[..., None, None]
        tied = (sizes >= top) & (top > 0)
        return off.sign() * tied / tied.sum(dim=(-2, -1), keepdim=True).clamp_min(1)

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        off = off_diagonal(symmetric(X))
        radius = tau if tau.ndim == 0 else tau[..., 0]
        return onto_l1_ball(off.flatten(-2), radius).unflatten(-1, X.shape[-2:])
