"""Towards another Gram matrix than I."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty
from gramian.penalties.pairs import check_pairs, check_sizes, for_groups, of_groups
from gramian.typing import Entries, GroupMatrix

__all__ = ["Target"]


@dataclass(frozen=True, eq=False)
class Target(Penalty):
    r"""μ(PᵀP − T) for a Gram matrix T: G = ∂μ at X − (T − I), C_τ the shrink there.

    T_jj are the squared lengths and T_jk the inner products that are wanted: of vectors in a tight frame, say, or of a
    dictionary that is known.

    Args:
        penalty: μ, one that is least at 0.
        gram: T, symmetric and positive semi-definite, [n, n], or [m, n, n] for groups of their own.

    Raises:
        OptionError: If T is not such a matrix, or μ is a `Target` or `Cosine` itself.
        ShapeError: When it is used, if n or m is not that of Φ.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1, Target
        >>> T = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # 60° apart
        >>> found = gramian.orthogonalize(torch.randn(16, 3, 2), penalty=Target(L1(), T))
        >>> torch.allclose(found.phi[:, 0].mT @ found.phi[:, 0], T, atol=1e-5)
        True
    """

    penalty: Penalty
    gram: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        if not self.penalty.centred:
            raise OptionError(f"the penalty of a target must be least at 0; got {self.penalty!r}")
        gram = check_pairs(self.gram, "gram")
        least = torch.linalg.eigvalsh(gram.double()).amin().item() if gram.numel() else 0.0
        if least < -1e-5 * max(1.0, gram.abs().max().item() if gram.numel() else 0.0):
            raise OptionError(
                f"gram must be positive semi-definite, as PᵀP is; got an eigenvalue of {least:.3g}; try to round its "
                "eigenvalues up to 0"
            )
        if gram.ndim > 2 and self.penalty.groups not in (None, len(gram)):
            raise OptionError(
                f"gram and the penalty of a target must be for the same groups; got {len(gram)} groups and "
                f"{self.penalty.groups}"
            )
        object.__setattr__(self, "gram", gram)

    @property
    def diagonal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether lengths are penalised."""
        return self.penalty.diagonal

    @property
    def centred(self) -> bool:
        """Whether it is least at X = 0."""
        return False

    @property
    def has_shrink(self) -> bool:
        """Whether C_τ is known: where that of μ is."""
        return self.penalty.has_shrink

    @property
    def groups(self) -> int | None:
        """How many groups it has targets for."""
        own = for_groups(self.gram)
        return self.penalty.groups if own is None else own

    def of_groups(self, which: slice | Tensor) -> Penalty:
        """Give the penalty of some of the groups."""
        if self.groups is None:
            return self
        return Target(self.penalty.of_groups(which), self.gram[which] if self.gram.ndim > 2 else self.gram)

    def check_sizes(self, m: int, n: int) -> None:
        """Refuse m groups of n vectors if the targets, or the parameters of μ, are for others."""
        check_sizes(self.gram, m, n, "gram")
        self.penalty.check_sizes(m, n)

    def seen(self, X: Entries) -> Entries:
        """Give what is left of PᵀP − T."""
        return self.penalty.seen(self._left(X))

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return self.penalty.value(self._left(X))

    def dual(self, X: GroupMatrix) -> GroupMatrix:
        return self.penalty.dual(self._left(X))

    def shrink(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        return self.penalty.shrink(self._left(X), tau)

    def _left(self, X: GroupMatrix) -> GroupMatrix:
        T = of_groups(self.gram, X, "gram")
        return X - (T - torch.eye(X.shape[-1], dtype=X.dtype, device=X.device))
