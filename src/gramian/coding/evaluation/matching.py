"""Stability: which subspaces of one dictionary come back in another, compared with random subspaces."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gramian.coding.evaluation.subspaces import Subspaces, as_groups, overlaps, random_subspaces, subspaces
from gramian.errors import DataError, OptionError, ShapeError
from gramian.layout import Layout
from gramian.options import real_number, whole_number
from gramian.tables import aligned

__all__ = ["SubspaceMatch", "match"]

_QUANTILE = 0.99
"""A group comes back if its overlap is above this quantile of the null."""

_RANDOM_PAIRS = 1000
_FEWEST_DRAWS = 3

_FINEST = 1e-6
"""The smallest singular value, relative to the largest, that the Gram matrices resolve."""

_ENOUGH = 100
"""Number of random pairs of the same dimensions that suffices to estimate their distribution."""


@dataclass(frozen=True, eq=False, repr=False)
class SubspaceMatch:
    """The matched subspaces of two dictionaries, and how random subspaces match.

    Attributes:
        pairs: Indices of the matched groups in the first and in the second dictionary.
        dimensions: Dimensions of their subspaces.
        overlap: Mean squared cosine of the principal angles of each pair, from 0 to 1.
        angle: Largest principal angle of each pair, in degrees.
        p_value: Probability that a matched pair of random subspaces overlaps at least as much.
        null_quantile: 99th percentile of the overlap of matched random subspaces of these dimensions.
        null_overlap: Overlap of every matched pair of random subspaces, over all draws.
        live: Number of groups of either dictionary that are not 0; only these are matched.
    """

    pairs: Int[Tensor, "pairs 2"]
    dimensions: Int[Tensor, "pairs 2"]
    overlap: Float[Tensor, " pairs"]
    angle: Float[Tensor, " pairs"]
    p_value: Float[Tensor, " pairs"]
    null_quantile: Float[Tensor, " pairs"]
    null_overlap: Float[Tensor, " random"]
    live: tuple[int, int]

    @property
    def returned(self) -> Bool[Tensor, " pairs"]:
        """Whether the overlap of a pair is above the 99th percentile of the null."""
        return self.overlap > self.null_quantile

    @property
    def share(self) -> float:
        """Fraction of the live groups of the first dictionary that come back in the second; 0.01 by chance."""
        return int(self.returned.sum()) / self.live[0]

    def table(self, limit: int | None = 20) -> str:
        """Format the pairs as a table, the largest overlap first.

        Args:
            limit: Largest number of rows; None for all.
        """
        order = self.overlap.argsort(descending=True, stable=True)[:limit].tolist()
        rows = [("first", "second", "dimensions", "overlap", "largest angle", "null, 99 %", "p")]
        for k in order:
            (i, j), (r, s) = self.pairs[k].tolist(), self.dimensions[k].tolist()
            numbers = (f"{self.overlap[k]:.3f}", f"{self.angle[k]:.1f}°", f"{self.null_quantile[k]:.3f}")
            rows.append((str(i), str(j), f"{r}, {s}", *numbers, f"{self.p_value[k]:.2g}"))
        more = len(self.overlap) - len(order)
        return "\n".join([*aligned(rows), *([f"and {more} more pairs"] if more else [])])

    def __repr__(self) -> str:
        return (
            f"SubspaceMatch({int(self.returned.sum())} of {self.live[0]} groups come back, mean overlap "
            f"{self.overlap.mean():.3f}, of random subspaces {self.null_overlap.mean():.3f})"
        )


def match(
    phi_a: Any,
    phi_b: Any,
    *,
    layout: Layout | str | None = None,
    layout_b: Layout | str | None = None,
    covariance: Float[Tensor, "l l"] | None = None,
    tol: float = 1e-4,
    draws: int | None = None,
    seed: int = 0,
) -> SubspaceMatch:
    r"""Match the subspaces of two dictionaries one to one by principal angles, and compare with random subspaces.

    The principal angles θ_1 ≤ θ_2 ≤ … of two subspaces with orthonormal bases U and V are the arccosines of the
    singular values of UᵀV. The overlap of a pair is the mean of cos²θ over the dimensions of the smaller subspace: 1 if
    one contains the other, and max(dimensions)/l on average for random subspaces. The matching maximises the sum of the
    overlaps. It does not depend on the order of groups or on the basis of a group. For groups of one vector the overlap
    is the squared cosine of two directions.

    Random subspaces overlap too, and matching selects the pairs that overlap most. So independent random subspaces of
    the same dimensions are matched in the same way, `draws` times. The p-value of a pair is its rank among the random
    pairs of the same two dimensions, or, if fewer than 100 of these were drawn, among all random pairs, with overlaps
    standardised by the mean and the standard deviation of a pair of random subspaces.

    Two dictionaries of the same data share its directions of large variance. Uniform subspaces do not, so overlaps look
    significant too easily if the data are far from white. Pass the covariance of the samples for a null of subspaces
    spanned by random samples of that covariance.

    Args:
        phi_a: The first dictionary, an array or tensor Φ[l, m, n]; need not be orthonormal.
        phi_b: The second dictionary, on the same l; its numbers of groups and of vectors in a group may differ.
        layout: Which axes of the dictionaries are vector, group and member; `"m n l -> l m n"` for arrays [groups,
            size, length], and `"m l -> l m ()"` for arrays [directions, length].
        layout_b: The layout of `phi_b`, if it differs from that of `phi_a`.
        covariance: Covariance of the samples, for the random subspaces; None for uniform ones.
        tol: Directions whose singular value is at most this fraction of the largest in the dictionary are dead; the
            subspace of a group is the span of its other directions. At least 1e-6.
        draws: Number of random pairs of dictionaries; by default at least 3, and enough for 1000 pairs of subspaces.
        seed: Seed of the random subspaces.

    Returns:
        The pairs in the order of the groups of the first dictionary, min(m, m') of them. `match(phi_b, phi_a)` gives
        the same pairs, reversed.

    Raises:
        ShapeError: If the vectors of the two differ in length, or the covariance is not l × l.
        LayoutError: If an array does not fit its layout.
        DtypeError: If a dictionary does not hold real floating-point numbers.
        DataError: If a number is not finite, or all groups of a dictionary are dead.
        OptionError: If an option is out of range.

    Cost:
        For m groups of n in both, 2·l·(m·n)² flops in float32 and O(m³) operations for the assignment, once and again
        in each draw; memory for 8·m² bytes, the bases in float64 and blocks of 64 MiB.

    Examples:
        >>> import torch
        >>> phi = torch.randn(64, 10, 3, generator=torch.Generator().manual_seed(0))
        >>> turned = phi.flip(1) @ torch.linalg.qr(torch.randn(3, 3)).Q
        >>> match(phi, turned)
        SubspaceMatch(10 of 10 groups come back, mean overlap 1.000, of random subspaces 0.077)
        >>> match(phi, turned).pairs[0].tolist()
        [0, 9]

    References:
        Björck and Golub, "Numerical methods for computing angles between linear subspaces", 1973,
        doi:10.1090/S0025-5718-1973-0348991-3; "Unstable features, reproducible subspaces", arXiv 2606.12138; Song et
        al., "Mechanistic interpretability should prioritize feature consistency in SAEs", arXiv 2505.20254.
    """
    tol = real_number(tol, name="tol", attempt="1e-4")
    if not _FINEST <= tol < 1:
        raise OptionError(f"tol must be at least {_FINEST:g} and less than 1; got {tol:g}; try tol=1e-4")
    first = as_groups(phi_a, layout, name="phi_a")
    second = as_groups(phi_b, layout if layout_b is None else layout_b, name="phi_b").to(first.device)
    length = len(first)
    if len(second) != length:
        raise ShapeError(
            f"the vectors of both dictionaries must have the same length; got {length} and {len(second)}, from shapes "
            f"{list(first.shape)} and {list(second.shape)} of phi[l, m, n]; try layout='m n l -> l m n' for an array "
            "[groups, size, length]"
        )
    factor = None if covariance is None else _factor(covariance, length)
    a, b = _live(first, tol, "phi_a"), _live(second, tol, "phi_b")
    if draws is None:
        draws = max(_FEWEST_DRAWS, math.ceil(_RANDOM_PAIRS / min(len(a), len(b))))
    draws, seed = whole_number(draws, name="draws"), whole_number(seed, name="seed", least=0)
    matched = _matched(a, b)
    null = _null(a, b, draws, seed, factor)
    p_value, quantile = _compare(matched, null, length)
    return SubspaceMatch(
        pairs=matched.index,
        dimensions=matched.dimensions,
        overlap=matched.overlap,
        angle=matched.angle,
        p_value=p_value,
        null_quantile=quantile,
        null_overlap=null.overlap,
        live=(len(a), len(b)),
    )


@dataclass(frozen=True)
class _Pairs:
    """Matched subspaces: their indices in the dictionaries, dimensions, overlap and largest angle in degrees."""

    index: Int[Tensor, "pairs 2"]
    dimensions: Int[Tensor, "pairs 2"]
    overlap: Float[Tensor, " pairs"]
    angle: Float[Tensor, " pairs"]


def _live(phi: Tensor, tol: float, name: str) -> Subspaces:
    spans = subspaces(phi, tol)
    if not len(spans):
        raise DataError(f"{name} must have a group that is not 0; got {phi.shape[1]} groups of zeros")
    return spans


def _factor(covariance: Tensor, length: int) -> Tensor:
    """Compute F with FFᵀ equal to the covariance."""
    if covariance.shape != (length, length):
        raise ShapeError(f"covariance must be of shape [{length}, {length}]; got {list(covariance.shape)}")
    exact = covariance.detach().double().cpu()
    if not bool(exact.isfinite().all()):
        raise DataError("covariance must be finite; got NaN or infinite entries; try samples without them")
    values, vectors = torch.linalg.eigh(exact)
    if not float(values[-1]) > 0:
        raise DataError("covariance must have a positive eigenvalue; got none; try the covariance of the samples")
    return vectors * values.clamp_min(0).sqrt()


def _matched(a: Subspaces, b: Subspaces) -> _Pairs:
    costs = overlaps(a, b)
    costs *= -1  # in place: the option to maximise would copy the matrix
    rows, columns = (torch.as_tensor(each, device=a.bases.device) for each in linear_sum_assignment(costs))
    del costs
    U, V = a.bases[:, rows].permute(1, 2, 0), b.bases[:, columns].permute(1, 0, 2)
    cosines = torch.linalg.svdvals(U @ V).clamp_max(1)
    dimensions = torch.stack([a.dimensions[rows], b.dimensions[columns]], dim=1)
    fewest = dimensions.amin(dim=1)
    least = cosines.gather(1, fewest[:, None] - 1)[:, 0]
    index = torch.stack([a.index[rows], b.index[columns]], dim=1)
    return _Pairs(index, dimensions, cosines.square().sum(dim=1) / fewest, torch.rad2deg(least.acos()))


def _null(a: Subspaces, b: Subspaces, draws: int, seed: int, factor: Tensor | None) -> _Pairs:
    """Match random subspaces; the draws are the same whichever dictionary comes first."""
    sizes = [sorted(each.dimensions.tolist()) for each in (a, b)]
    turned = (len(sizes[0]), sizes[0]) > (len(sizes[1]), sizes[1])
    generator = torch.Generator().manual_seed(seed)
    found: list[_Pairs] = []
    for _ in range(draws):
        drawn = [
            random_subspaces(len(a.bases), each, generator, factor).to(a.bases.device)
            for each in sorted(sizes, key=_by_length)
        ]
        found.append(_matched(*(reversed(drawn) if turned else drawn)))
    parts = [[getattr(pairs, name) for pairs in found] for name in ("index", "dimensions", "overlap", "angle")]
    return _Pairs(*(torch.cat(part) for part in parts))


def _by_length(sizes: list[int]) -> tuple[int, list[int]]:
    return len(sizes), sizes


def _compare(pairs: _Pairs, null: _Pairs, length: int) -> tuple[Tensor, Tensor]:
    """Compute the p-value of each pair, and the quantile of the null at its dimensions."""
    mean, spread = _moments(pairs.dimensions, length)
    scores = (pairs.overlap - mean) / spread
    null_mean, null_spread = _moments(null.dimensions, length)
    null_scores = (null.overlap - null_mean) / null_spread
    p_value, quantile = torch.empty_like(scores), torch.empty_like(scores)
    for kind in pairs.dimensions.unique(dim=0):
        here = (pairs.dimensions == kind).all(dim=1)
        same = null_scores[(null.dimensions == kind).all(dim=1)]
        reference = (same if len(same) >= _ENOUGH else null_scores).sort().values
        larger = len(reference) - torch.searchsorted(reference, scores[here].contiguous())
        p_value[here] = (1.0 + larger.double()) / (1 + len(reference))
        rank = min(len(reference) - 1, math.ceil(_QUANTILE * len(reference)))
        quantile[here] = torch.where(spread[here].isinf(), mean[here], reference[rank] * spread[here] + mean[here])
    return p_value, quantile.clamp_max(1)


def _moments(dimensions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Compute the mean and the standard deviation of the overlap of two uniform subspaces, not matched.

    The trace of the product of their projections has mean rs/l and variance 2rs(l − r)(l − s)/(l²(l − 1)(l + 2)).
    """
    r, s = dimensions.double().unbind(dim=1)
    fewest = torch.minimum(r, s)
    variance = 2 * r * s * (length - r) * (length - s) / (length**2 * max(1, length - 1) * (length + 2))
    # Where one is the whole space, every overlap is 1.
    return r * s / length / fewest, torch.where(variance > 0, variance.sqrt() / fewest, torch.inf)
