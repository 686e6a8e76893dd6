"""Expected moments of samples and codes, which the maximisation step needs, in bounded memory."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.factors.inference import Candidates, expected_error
from gramian.coding.factors.parameters import FactorParameters

__all__ = ["Moments", "moments"]


@dataclass
class Moments:
    """Sums over samples of posterior expectations.

    Attributes:
        count: Number of samples, or the sum of their weights.
        on: Σ q(s_i = 1), [m].
        x: Σ x, [l].
        a: Σ E[s_i a_i], [m, n].
        xa: Σ x E[s_i a_i]ᵀ, [l, m, n].
        aa: Σ E[s_i a_i s_j a_jᵀ], [m, n, m, n].
        cc: Σ q(s_i = 1) c_i c_iᵀ of the correlations, [m, n, n].
        error: Σ E‖x − Σ_i s_i Φ_i a_i‖².
    """

    count: float
    on: Float[Tensor, " m"]
    x: Float[Tensor, " l"]
    a: Float[Tensor, "m n"]
    xa: Float[Tensor, "l m n"]
    aa: Float[Tensor, "m n m n"]
    cc: Float[Tensor, "m n n"]
    error: float

    def add_(self, other: "Moments", *, keep: float = 1.0) -> None:
        """Add other moments after these are multiplied by `keep`."""
        self.count = keep * self.count + other.count
        self.error = keep * self.error + other.error
        for name in ("on", "x", "a", "xa", "aa", "cc"):
            getattr(self, name).mul_(keep).add_(getattr(other, name))

    def rotate_(self, rotations: Float[Tensor, "m n n"]) -> None:
        """Express the moments in the axes that are the columns of a rotation of each group."""
        r = rotations.to(self.xa)
        self.a = torch.einsum("mi,mij->mj", self.a, r)
        self.xa = torch.einsum("lmi,mij->lmj", self.xa, r)
        self.aa = torch.einsum("miqk,qkl,mij->mjql", self.aa, r, r)
        self.cc = r.mT @ self.cc @ r


def moments(x: Tensor, parameters: FactorParameters, candidates: Candidates) -> Moments:
    """Sum the expected moments of a batch of centred samples.

    Cost:
        2·batch·(m·n)² flops, and (m·n)² numbers.
    """
    _, m, n = parameters.phi.shape
    groups, q, means = candidates.groups, candidates.inclusion, candidates.means
    codes = x.new_zeros(len(x), m, n)
    index = groups[..., None].expand(-1, -1, n)
    codes.scatter_(1, index, candidates.codes)
    flat = codes.flatten(1)
    aa = (flat.mT @ flat).unflatten(0, (m, n)).unflatten(2, (m, n))
    on = x.new_zeros(m).index_add_(0, groups.flatten(), q.flatten())
    outer = (q[..., None] * means)[..., :, None] * means[..., None, :]
    own = x.new_zeros(m, n, n).index_add_(0, groups.flatten(), outer.flatten(0, 1))
    own += torch.diag_embed(on[:, None] * parameters.posterior_variances)
    aa[range(m), :, range(m)] = own
    c = candidates.correlations
    outer = (q[..., None] * c)[..., :, None] * c[..., None, :]
    cc = x.new_zeros(m, n, n).index_add_(0, groups.flatten(), outer.flatten(0, 1))
    error = float(expected_error(x, parameters, candidates).double().sum())
    return Moments(len(x), on, x.sum(dim=0), codes.sum(dim=0), (x.mT @ flat).unflatten(1, (m, n)), aa, cc, error)
