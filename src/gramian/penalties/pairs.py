"""Penalties with a number for each pair of vectors: a weight, or the inner product that the pair should have."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError, ShapeError
from gramian.penalties.base import Penalty, WrappedPenalty, derived
from gramian.typing import Entries, GroupMatrix

__all__ = ["TargetGram", "Weighted"]

_MATRIX, _MATRICES = 2, 3


class _WithPairs(WrappedPenalty):
    """A wrapped penalty with a field of symmetric matrices: [n, n] for all groups, or [m, n, n] for each group."""

    _field: ClassVar[str]
    """Name of the field."""

    n_groups = derived(lambda self: len(self._pairs) if self._pairs.ndim == _MATRICES else self.penalty.n_groups)

    @property
    def _pairs(self) -> Tensor:
        return getattr(self, self._field)

    def _validate_pairs(self) -> None:
        """Replace the field by a detached tensor of floating-point numbers.

        Raises:
            OptionError: If the matrices are not symmetric and finite, of shape [n, n] or [m, n, n].
        """
        name = self._field
        pairs = torch.as_tensor(self._pairs).detach()
        if not pairs.is_floating_point():
            pairs = pairs.float()
        if pairs.ndim not in (_MATRIX, _MATRICES) or pairs.shape[-1] != pairs.shape[-2]:
            raise OptionError(f"{name} must be of shape [n, n] or [m, n, n]; got {list(pairs.shape)}")
        if not bool(torch.isfinite(pairs).all()):
            raise OptionError(f"{name} must be finite; got NaN or infinite entries")
        if not torch.equal(pairs, pairs.mT):
            raise OptionError(
                f"{name} must be symmetric, because a pair has one inner product; got entries that differ by up to "
                f"{(pairs - pairs.mT).abs().max().item():.3g}; try ({name} + {name}.mT) / 2"
            )
        object.__setattr__(self, name, pairs)

    def select_groups(self, which: slice | Tensor) -> Penalty:
        """Return the penalty of some of the groups."""
        if self.n_groups is None:
            return self
        pairs = self._pairs[which] if self._pairs.ndim == _MATRICES else self._pairs
        return self._replace(penalty=self.penalty.select_groups(which), **{self._field: pairs})

    def check_sizes(self, m: int, n: int) -> None:
        """Check that the matrices, and the parameters of the wrapped penalty, are for m groups of n vectors."""
        pairs, name = self._pairs, self._field
        if n != pairs.shape[-1] or (pairs.ndim == _MATRICES and m != len(pairs)):
            raise ShapeError(
                f"{name} of shape {list(pairs.shape)} must be for the groups of the parameter; got {m} of {n} vectors; "
                f"try {name} of shape [{n}, {n}], or [{m}, {n}, {n}] to have a matrix for each group"
            )
        super().check_sizes(m, n)

    def _pairs_like(self, X: GroupMatrix) -> Tensor:
        """Return the matrices in the dtype and on the device of X.

        Raises:
            ShapeError: If they are for other sizes.
        """
        self.check_sizes(X.shape[-3] if X.ndim >= _MATRICES else 1, X.shape[-1])
        return self._pairs.to(X)


@dataclass(frozen=True, eq=False)
class Weighted(_WithPairs):
    r"""μ(X) = Σ_jk W_jk h(X_jk) for μ(X) = Σ_jk h(X_jk): G = W∘h'(X), and C_τ of each entry is that of h at τW_jk.

    Args:
        penalty: An elementwise penalty with one function h for all entries: l1, huber, squared_frobenius,
            `Elementwise`, or a sum of those.
        weights: W ≥ 0, symmetric, [n, n], or [m, n, n] with a matrix for each group. A pair of weight 0 is free; a
            diagonal of zeros leaves lengths free.

    Raises:
        OptionError: If the penalty is of another kind, or the weights are not symmetric, finite and at least 0.
        ShapeError: When it is used, if n or m is not that of Φ.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1, Weighted
        >>> W = torch.ones(3, 3)
        >>> W[0, 1] = W[1, 0] = 0  # any inner product is allowed for this pair
        >>> result = gramian.orthogonalize(torch.randn(16, 1, 3), penalty=Weighted(L1(), W))
        >>> X = gramian.residual(result.phi)[0].abs()
        >>> (X[0, 1] > 1e-3).item(), (X[0, 2] < 1e-6).item()
        (True, True)
    """

    penalty: Penalty
    weights: Tensor = field(repr=False)

    _field = "weights"
    elementwise = True
    accepts_blocks = False
    diagonal = derived(lambda self: bool(self.weights.diagonal(dim1=-2, dim2=-1).any()))

    def __post_init__(self) -> None:
        if not self.penalty.accepts_blocks:
            raise OptionError(
                f"the penalty of weights must be elementwise and include the diagonal; got {self.penalty!r}; try "
                "Weighted(L1(), weights), with a diagonal of zeros to leave lengths free"
            )
        self._validate_pairs()
        if (self.weights < 0).any():
            raise OptionError(f"weights must be at least 0; got {self.weights.min().item():.3g}")

    def penalized(self, X: Entries) -> Entries:
        """Return X with zeros where the weight is 0."""
        return torch.where(self._pairs_like(X) > 0, X, 0)

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return (self._pairs_like(X) * self.penalty.value(X[..., None, None])).sum(dim=(-2, -1))

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        return self._pairs_like(X) * self.penalty.subgradient(X)

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        W = self._pairs_like(X)
        return self.penalty.prox_residual(X, torch.where(W > 0, tau * W, 0).to(X.dtype))


@dataclass(frozen=True, eq=False)
class TargetGram(_WithPairs):
    r"""μ(PᵀP − T) for a Gram matrix T in the place of I: G and C_τ are those of μ at X − (T − I).

    T_jj are the squared lengths and T_jk the inner products that the vectors should have: those of a tight frame, for
    example, or of a known dictionary.

    Args:
        penalty: μ, with its minimum at 0.
        gram: T, symmetric and positive semidefinite, [n, n], or [m, n, n] with a matrix for each group.

    Raises:
        OptionError: If T is not such a matrix, or μ is a `TargetGram` or a `Cosine`.
        ShapeError: When it is used, if n or m is not that of Φ.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import L1, TargetGram
        >>> T = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # 60° apart
        >>> result = gramian.orthogonalize(torch.randn(16, 3, 2), penalty=TargetGram(L1(), T))
        >>> torch.allclose(result.phi[:, 0].mT @ result.phi[:, 0], T, atol=1e-5)
        True
    """

    penalty: Penalty
    gram: Tensor = field(repr=False)

    _field = "gram"
    minimal_at_zero = False

    def __post_init__(self) -> None:
        if not self.penalty.minimal_at_zero:
            raise OptionError(f"the penalty of a target must have its minimum at 0; got {self.penalty!r}")
        self._validate_pairs()
        least = torch.linalg.eigvalsh(self.gram.double()).amin().item() if self.gram.numel() else 0.0
        if least < -1e-5 * max(1.0, self.gram.abs().max().item() if self.gram.numel() else 0.0):
            raise OptionError(
                f"gram must be positive semidefinite, as PᵀP is; got an eigenvalue of {least:.3g}; try to set negative "
                "eigenvalues to 0"
            )
        if self.penalty.n_groups not in (None, self.n_groups):
            raise OptionError(
                f"gram and the penalty of a target must be for the same groups; got {self.n_groups} groups and "
                f"{self.penalty.n_groups}"
            )

    def penalized(self, X: Entries) -> Entries:
        """Return PᵀP − T where μ penalises it."""
        return self.penalty.penalized(self._difference(X))

    def value(self, X: GroupMatrix) -> Float[Tensor, "..."]:
        return self.penalty.value(self._difference(X))

    def subgradient(self, X: GroupMatrix) -> GroupMatrix:
        return self.penalty.subgradient(self._difference(X))

    def prox_residual(self, X: GroupMatrix, tau: Tensor) -> GroupMatrix:
        return self.penalty.prox_residual(self._difference(X), tau)

    def _difference(self, X: GroupMatrix) -> GroupMatrix:
        """Return PᵀP − T."""
        T = self._pairs_like(X)
        return X - (T - torch.eye(X.shape[-1], dtype=X.dtype, device=X.device))
