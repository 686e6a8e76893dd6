r"""Frozen vectors to which other vectors are kept orthogonal: an orthonormal basis of their span.

The penalty of vectors φ_k against frozen vectors is the l1 of a cross-Gram matrix, β Σ_jk |q_jᵀφ_k|, where q_j are the
columns of an orthonormal basis Q of the span of the frozen vectors. Being orthogonal to all q_j is the same as being
orthogonal to all frozen vectors b_j. The basis makes three things simple:

- β is the largest gradient of a task along one q_j, |q_jᵀ∂task/∂φ_k|, for which q_jᵀφ_k stays zero. With the b_j
  themselves this bound would be β|b_j|: it would be larger for long vectors, and add up for nearly parallel ones. With
  the basis it does not depend on the lengths, the angles or the number of the frozen vectors, nor on n.
- The prox is a formula, because QᵀQ = I: φ ← φ − Q(y − soft(y, ηβ)) with y = Qᵀφ; see `gramian.rules.against`.
- A step costs one product with Q and one with Qᵀ.

The basis is that of Gram and Schmidt: q_j is the direction that b_j adds to the span of those before it. If the frozen
vectors are orthogonal, as those of a task trained with the penalty are, q_j is b_j of length 1. Appending vectors does
not change the basis of those before them.
"""

from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import DataError, DtypeError, LayoutError, OptionError, ShapeError
from gramian.layout import Layout, as_layout
from gramian.typing import FLOATING_DTYPES

__all__ = ["FrozenBasis", "FrozenVectors", "as_frozen"]

Basis = Float[Tensor, "l groups rank"]
"""Orthonormal columns for each group, or with groups = 1 the same for all."""


class FrozenBasis:
    r"""An orthonormal basis Q of the span of frozen vectors, computed once.

    Q is a copy: frozen vectors that change later do not change it. A vector counts as linearly dependent, and adds
    nothing, if its part outside the span of those before it is at most ε of its length, where ε is the spacing of its
    number format.

    Args:
        vectors: [l, k], whose columns are k vectors for all groups, or [l, m, k] with k vectors for each group; or any
            tensor with a layout; or several of these, such as one for each earlier task.
        layout: Which axes are vector, group and member, as in the parameter that is kept orthogonal to the vectors.

    Attributes:
        Q: [l, m, k] or, if all groups have the same, [l, 1, k]; float32, or float64 if some vectors are. A group whose
            vectors are dependent has columns of zeros at the end.
        rank: Largest dimension of the span of a group.

    Raises:
        OptionError: If there are no vectors.
        DtypeError: If something is not a dense tensor of a real floating-point dtype.
        LayoutError: If a tensor does not fit the layout.
        ShapeError: If the tensors have different l, or m that differ and are not 1; or if the vectors span the whole
            space, so that only 0 is orthogonal to them.
        DataError: If a vector is not finite, or all are zero.

    Cost:
        4·m·l·k² flops, once; twice that and k small steps if vectors are linearly dependent.

    Examples:
        >>> import torch
        >>> basis = FrozenBasis([torch.eye(4)[:, :1], torch.tensor([[1.0], [2.0], [0.0], [0.0]])])
        >>> torch.equal(basis.Q[:, 0], torch.eye(4)[:, :2])  # the second vector adds the second direction
        True

    References:
        Giraud, Langou, Rozložník and van den Eshof, "Rounding error analysis of the classical Gram-Schmidt
        orthogonalization process", 2005, for two passes.
    """

    def __init__(self, vectors: "Tensor | Sequence[Tensor]", *, layout: Layout | str | None = None) -> None:
        given = [vectors] if isinstance(vectors, Tensor) else list(vectors)
        if not given:
            raise OptionError("there must be at least one tensor of frozen vectors; got none; try against=None")
        with torch.no_grad():
            phis = [_phi_of(each, layout) for each in given]
            columns = _orthonormal(_together(phis), _spacings(phis))
        wide = any(phi.dtype == torch.float64 for phi in phis)
        self.Q: Basis = columns.to(torch.float64 if wide else torch.float32)
        self.rank = self.Q.shape[2]
        if self.rank == 0:
            raise DataError("frozen vectors must not all be zero; got zeros only; try against=None")
        if self.rank >= self.Q.shape[0]:
            raise ShapeError(
                f"frozen vectors must leave directions that are orthogonal to all of them; got vectors that span all "
                f"l = {self.Q.shape[0]} dimensions; try fewer of them"
            )
        self._converted = self.Q

    def __repr__(self) -> str:
        length, groups, rank = self.Q.shape
        return f"FrozenBasis({rank} of {length} dimensions{'' if groups == 1 else f', {groups} groups'})"

    def like(self, phi: Float[Tensor, "..."]) -> Basis:
        """Return Q in the dtype and on the device of a tensor; the last conversion is kept."""
        for known in (self.Q, self._converted):
            if known.dtype == phi.dtype and known.device == phi.device:
                return known
        self._converted = self.Q.to(phi.device, phi.dtype)
        return self._converted

    def part(self, *, coordinates: Tensor | None = None, groups: "slice | Tensor | None" = None) -> "FrozenBasis":
        """Return the basis restricted to some coordinates, whose columns are not orthonormal, or to some groups."""
        columns = self.Q
        if coordinates is not None:
            columns = columns[coordinates.to(columns.device)]
        if groups is not None and columns.shape[1] > 1:
            columns = columns[:, groups if isinstance(groups, slice) else groups.to(columns.device)]
        part = copy(self)
        vars(part).update(Q=columns, _converted=columns)
        return part

    def check(self, shape: Sequence[int], *, hard: bool = False) -> None:
        """Check that a Φ of shape (l, m, n) can be kept orthogonal to these vectors.

        Args:
            shape: (l, m, n).
            hard: Whether the n vectors of each group must also be orthonormal.

        Raises:
            ShapeError: If l or m differ; or, if `hard`, fewer than n dimensions are left.
        """
        length, m, n = shape
        l_frozen, groups, rank = self.Q.shape
        if l_frozen != length or groups not in (1, m):
            raise ShapeError(
                f"frozen vectors must have the length l = {length} of the parameter's vectors, the same ones for all "
                f"groups or some for each of its m = {m} groups; got l = {l_frozen}, m = {groups}; try the layout of "
                "the parameter"
            )
        if hard and rank + n > length:
            raise ShapeError(
                f"orthonormal groups need n <= l - k dimensions that are orthogonal to the frozen vectors; got n = {n},"
                f" l = {length}, k = {rank}; try a finite beta, or fewer vectors"
            )


FrozenVectors = Tensor | Sequence[Tensor] | FrozenBasis
"""Frozen vectors, as tensors in the layout of the parameter or as their basis."""


def as_frozen(against: FrozenVectors, layout: Layout | str | None) -> FrozenBasis:
    """Turn an `against` argument into a basis.

    Args:
        against: Frozen vectors, or a basis of them.
        layout: The layout of the parameter.

    Raises:
        DataError, DtypeError, LayoutError, OptionError, ShapeError: As for `FrozenBasis`.
    """
    return against if isinstance(against, FrozenBasis) else FrozenBasis(against, layout=layout)


def _phi_of(vectors: Tensor, layout: Layout | str | None) -> Float[Tensor, "l groups k"]:
    if not isinstance(vectors, Tensor) or vectors.dtype not in FLOATING_DTYPES or vectors.layout != torch.strided:  # pyright: ignore[reportUnnecessaryIsInstance]
        got = vectors.dtype if isinstance(vectors, Tensor) else type(vectors).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DtypeError(
            f"frozen vectors must be dense tensors of dtype float64, float32, bfloat16 or float16; got {got}"
        )
    try:
        resolved = as_layout(layout, vectors.ndim)
        return vectors.detach() if resolved is None else resolved.to_phi(vectors.detach())
    except LayoutError as error:
        raise LayoutError(f"frozen vectors: {error}") from None


def _together(phis: Sequence[Tensor]) -> Float[Tensor, "l groups k"]:
    """Concatenate vectors in float64; those that are the same for all groups are repeated if others are not."""
    length, groups = phis[0].shape[0], max(phi.shape[1] for phi in phis)
    for phi in phis:
        if phi.shape[0] != length or phi.shape[1] not in (1, groups):
            raise ShapeError(
                f"frozen vectors must have the same length l, and the same number of groups or one; got l = {length}, "
                f"m = {groups}, and l = {phi.shape[0]}, m = {phi.shape[1]}"
            )
    together = torch.cat([phi.to(torch.float64).expand(-1, groups, -1) for phi in phis], dim=2)
    if not bool(together.isfinite().all()):
        raise DataError("frozen vectors must be finite; got NaN or infinite entries")
    return together


def _spacings(phis: Sequence[Tensor]) -> Float[Tensor, " k"]:
    """Return, for each vector, how large a part outside a span rounding alone can cause, relative to its length.

    Rounding a vector to a format of spacing ε moves it by at most ε/2 of its length. Float64, in which the basis is
    computed, has nothing wider, so there the error of the computation counts.
    """
    length, device = phis[0].shape[0], phis[0].device
    least = length * torch.finfo(torch.float64).eps
    spacings = [max(torch.finfo(phi.dtype).eps, least) for phi in phis for _ in range(phi.shape[2])]
    return torch.tensor(spacings, dtype=torch.float64, device=device)


def _orthonormal(vectors: Float[Tensor, "l groups k"], spacings: Float[Tensor, " k"]) -> Basis:
    """Compute the basis of Gram and Schmidt of each group: by Householder's reflections where all are independent."""
    U = vectors.permute(1, 0, 2)
    lengths = torch.linalg.vector_norm(U, dim=1, keepdim=True)
    units = U / torch.where(lengths > 0, lengths, 1)
    if U.shape[2] <= U.shape[1]:
        Q, R = torch.linalg.qr(units)
        added = R.diagonal(dim1=1, dim2=2)  # up to its sign the part of each vector outside of the span before it
        if bool((added.abs() > spacings).all()):
            return (Q * added.sign()[:, None]).permute(1, 0, 2).contiguous()
    return _gram_schmidt(units, spacings).permute(1, 0, 2).contiguous()


def _gram_schmidt(U: Float[Tensor, "groups l k"], spacings: Float[Tensor, " k"]) -> Float[Tensor, "groups l rank"]:
    """Orthonormalise one vector after the other, and leave out dependent ones.

    Householder reflections would give a dependent vector an arbitrary direction, and remove that direction from those
    after it.
    """
    groups, length, k = U.shape
    Q = U.new_zeros(groups, length, min(length, k))
    rank = torch.zeros(groups, dtype=torch.long, device=U.device)
    for j in range(k):
        v = U[:, :, j, None]
        for _ in range(
            2
        ):  # one pass loses orthogonality to rounding times the condition number, the second restores it
            v = v - torch.bmm(Q, torch.bmm(Q.mT, v))
        added = torch.linalg.vector_norm(v[:, :, 0], dim=1)
        adds = ((added > spacings[j]) & (rank < length)).nonzero()[:, 0]
        Q[adds, :, rank[adds]] = v[adds, :, 0] / added[adds, None]
        rank[adds] += 1
    return Q[:, :, : int(rank.max()) if groups else 0]
