"""Moves that change the number of groups: split a group that holds several factors, merge groups that hold one."""

from dataclasses import dataclass, replace
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.factors.inference import Candidates, bound, infer
from gramian.coding.factors.parameters import FactorParameters

__all__ = ["Move", "accept_moves", "merges", "splits"]

_COFIRING = 0.35
"""Directions whose normalised E[y_j² y_k²] is below this do not fire together; for points on one manifold it is at
least 1/2 (a circle), for two independent factors about twice the probability of one."""

_TOGETHER = 0.7
"""Two groups are merged if both are on in at least this fraction of the samples of the more frequent one."""

_OVERLAP = 0.8
"""Two groups are merged if at least this fraction of the smaller subspace lies within the larger."""

_ANGLES = torch.arange(1, 36, dtype=torch.float64, device="cpu") * (torch.pi / 72)


@dataclass(frozen=True)
class Move:
    """A proposal to replace some groups by others.

    Attributes:
        old: Indices of the groups to remove.
        phi: Frames of the new groups, [l, new, n].
        pi: Their probabilities.
        variances: Their variances, [new, n].
    """

    old: tuple[int, ...]
    phi: Float[Tensor, "l new n"]
    pi: Float[Tensor, " new"]
    variances: Float[Tensor, "new n"]


def fourth_moments(parameters: FactorParameters, candidates: Candidates) -> Tensor:
    """Compute E[y⊗y⊗y⊗y | on] of the whitened coefficients y = a/√v of every group, [m, n, n, n, n]."""
    _, m, n = parameters.phi.shape
    groups, q = candidates.groups.flatten(), candidates.inclusion.flatten()
    scale = torch.where(parameters.variances > 0, parameters.variances.rsqrt(), 0.0)
    y = candidates.means.flatten(0, 1) * scale[groups]
    pairs = (y[:, :, None] * y[:, None, :]).flatten(1)
    outer = ((q[:, None] * pairs)[:, :, None] * pairs[:, None, :]).flatten(1)
    sums = outer.new_zeros(m, n**4).index_add_(0, groups, outer)
    on = q.new_zeros(m).index_add_(0, groups, q)
    return (sums / on.clamp_min(1e-12)[:, None]).unflatten(1, (n, n, n, n)).double()


def separate(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate every group to the axes whose fourth moments are largest, by Jacobi rotations of pairs of axes.

    Returns:
        The rotations R[m, n, n] of y = R z, and E[z_j² z_k²], [m, n, n].
    """
    m, n = moments.shape[:2]
    t, rotation = moments, torch.eye(n, dtype=moments.dtype, device=moments.device).expand(m, n, n).clone()
    angles = _ANGLES.to(moments.device)
    cos, sin = angles.cos(), angles.sin()
    for _ in range(4):
        for j, k in combinations(range(n), 2):
            a, b, c = t[:, j, j, j, j], t[:, j, j, j, k], t[:, j, j, k, k]
            d, e = t[:, j, k, k, k], t[:, k, k, k, k]

            def fourth(x: Tensor, y: Tensor, terms: tuple[Tensor, ...] = (a, b, c, d, e)) -> Tensor:
                weights = (x**4, 4 * x**3 * y, 6 * x**2 * y**2, 4 * x * y**3, y**4)
                return sum((term[:, None] * w for term, w in zip(terms, weights, strict=True)), torch.zeros_like(x))

            total = fourth(cos, sin) + fourth(-sin, cos)
            best = total.max(dim=1)
            better = best.values > (a + e) * (1 + 1e-9)
            angle = torch.where(better, angles[best.indices], 0.0)
            r = torch.eye(n, dtype=t.dtype, device=t.device).expand(m, n, n).clone()
            r[:, j, j], r[:, k, j], r[:, j, k], r[:, k, k] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
            t = torch.einsum("mabcd,mai,mbj,mck,mdl->mijkl", t, r, r, r, r)
            rotation = rotation @ r
    return rotation, torch.einsum("mjjkk->mjk", t)


def _components(linked: Tensor, axes: list[int]) -> list[list[int]]:
    parts: list[list[int]] = []
    for axis in axes:
        joined = [part for part in parts if any(bool(linked[axis, other]) for other in part)]
        parts = [part for part in parts if part not in joined] + [[axis, *(each for part in joined for each in part)]]
    return parts


def splits(parameters: FactorParameters, candidates: Candidates, room: int) -> list[Move]:
    """Propose to split groups in which some directions do not fire together, into at most `room` more groups."""
    n = parameters.phi.shape[2]
    rotation, together = separate(fourth_moments(parameters, candidates))
    moves: list[Move] = []
    live = parameters.variances > 0
    for i in range(len(live)):
        d = int(live[i].sum())
        if d < 2 or room <= 0:
            continue
        # Axes are sorted by variance, so that the live ones come first.
        strength = together[i].diagonal()
        axes = [j for j in range(n) if strength[j] > 1e-6]
        parts = _components((together[i] > _COFIRING) | (together[i].mT > _COFIRING), axes)
        if len(parts) < 2:
            continue
        parts = [*parts[:room], sum(parts[room:], [])] if len(parts) > room + 1 else parts  # noqa: RUF017
        room -= len(parts) - 1
        root = parameters.variances[i].double().sqrt()[:, None] * rotation[i]
        frame = parameters.phi[:, i].double()
        phi, variances = [], []
        for part in parts:
            u, s, _ = torch.linalg.svd(root[:, part], full_matrices=True)
            phi.append(frame @ u)
            v = torch.zeros(n, dtype=torch.float64, device=s.device)
            v[: len(part)] = s.square() * len(parts)
            variances.append(v)
        pi = parameters.pi[i].expand(len(parts)) / len(parts)
        moves.append(
            Move((i,), torch.stack(phi, dim=1).to(frame).to(parameters.phi), pi, torch.stack(variances).to(pi))
        )
    return moves


def merges(parameters: FactorParameters, candidates: Candidates) -> list[Move]:
    """Propose to merge groups that fire together, and groups of the same subspace."""
    _, m, n = parameters.phi.shape
    q = candidates.inclusion.new_zeros(len(candidates.groups), m).scatter_(1, candidates.groups, candidates.inclusion)
    joint = (q.mT @ q) / len(q)
    on = q.mean(dim=0)
    live = (parameters.variances > 0).to(q)
    size = live.sum(dim=1)
    gram = parameters.gram.unflatten(0, (m, m))
    overlap = torch.einsum("ijab,ia,jb->ij", gram.square(), live, live)
    share = overlap / torch.minimum(size[:, None], size).clamp_min(1)
    together = joint / torch.maximum(on[:, None], on).clamp_min(1e-12)
    together = torch.where(size[:, None] + size - overlap <= n + 0.5, together, 0.0)
    score = torch.maximum(together / _TOGETHER, share / _OVERLAP).triu(diagonal=1)
    moves: list[Move] = []
    busy: set[int] = set()
    for flat in score.flatten().argsort(descending=True).tolist()[:m]:
        i, j = divmod(flat, m)
        if score[i, j] < 1:
            break
        if i in busy or j in busy:
            continue
        busy |= {i, j}
        pi = on[i] + on[j] - joint[i, j]
        parts = [
            parameters.phi[:, g].double() * (parameters.variances[g].double() * on[g] / pi.clamp_min(1e-12)).sqrt()
            for g in (i, j)
        ]
        u, s, _ = torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False)
        moves.append(
            Move((i, j), u[:, :n, None].mT.to(parameters.phi), pi[None].clamp(1e-6, 0.99), s[None, :n].square().to(pi))
        )
    return moves


def apply_moves(parameters: FactorParameters, moves: list[Move]) -> FactorParameters:
    """Replace groups; the new groups come last, in the order of the moves."""
    keep = torch.ones(len(parameters.pi), dtype=torch.bool, device=parameters.pi.device)
    for move in moves:
        keep[list(move.old)] = False
    return replace(
        parameters,
        phi=torch.cat([parameters.phi[:, keep], *(move.phi for move in moves)], dim=1),
        pi=torch.cat([parameters.pi[keep], *(move.pi for move in moves)]),
        variances=torch.cat([parameters.variances[keep], *(move.variances for move in moves)]),
    )


def accept_moves(
    x: Tensor, parameters: FactorParameters, candidates: Candidates, moves: list[Move], *, k: int, sweeps: int
) -> tuple[FactorParameters, list[Move]]:
    """Apply those moves that raise the bound of the samples in which their groups are on.

    All moves are tried at once. The change of the bound of a sample counts for each move whose groups are on in it.

    Returns:
        The parameters, and the moves that were accepted.
    """
    if not moves:
        return parameters, []
    tried = apply_moves(parameters, moves)
    after = infer(x, tried, k, sweeps)
    change = bound(x, tried, after) - bound(x, parameters, candidates)
    m, first = len(parameters.pi), len(tried.pi) - sum(len(move.pi) for move in moves)
    before_on = change.new_zeros(len(x), m).scatter_(1, candidates.groups, candidates.inclusion)
    after_on = change.new_zeros(len(x), len(tried.pi)).scatter_(1, after.groups, after.inclusion)
    accepted: list[Move] = []
    for move in moves:
        new = slice(first, first + len(move.pi))
        first += len(move.pi)
        rows = torch.maximum(before_on[:, list(move.old)].amax(dim=1), after_on[:, new].amax(dim=1)) > 0.5
        if float(change[rows].sum()) > 0:
            accepted.append(move)
    return apply_moves(parameters, accepted), accepted
