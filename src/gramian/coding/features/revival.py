r"""Replace groups that are never active, if the dictionary misses a subspace of the data.

A group that is never active is not needed if the other groups explain the samples. So a group is replaced only if the
errors of some samples lie in a subspace of its size that explains as much as an active group does.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gramian.coding.encoders import OnePass
from gramian.coding.features.module import BlockSparseAutoencoder
from gramian.distributed.sharded import is_sharded
from gramian.errors import OptionError

__all__ = ["missed_subspaces", "revive_"]

_INSIDE = 0.5
"""A subspace explains an error if at least this fraction of the error's power lies in it."""
_SAME = 0.5
"""Mean squared cosine at which two subspaces count as the same."""
_ROUNDS = 4
_WORTH = 0.25
"""Fraction of the mean power of an active group that a new group must explain."""
_TRIALS = 4
"""Number of rejected subspaces after which the search ends."""


@torch.no_grad()
def missed_subspaces(
    error: Float[Tensor, "batch l"], size: int, count: int, *, worth: float
) -> list[Float[Tensor, "size l"]]:
    """Find subspaces in which the errors of some samples lie.

    Each search starts from the largest error, and takes a few times the principal subspace of the errors that lie
    largely in the last one. Then the subspace is projected out of the errors that it explains.

    Args:
        error: Errors x − Φa of samples.
        size: Dimension of the subspaces.
        count: Largest number of subspaces.
        worth: Power Σ‖Pe‖² over samples that a subspace must explain.

    Returns:
        Orthonormal bases as rows; there may be none.

    Cost:
        A singular value decomposition of at most 256 errors for each round and subspace.
    """
    error = error.clone()
    found: list[Tensor] = []
    rejected = 0
    while len(found) < count and rejected < _TRIALS:
        power = error.square().sum(dim=1)
        worst = int(power.argmax())
        if not power[worst] > 0:
            break
        basis = error[worst : worst + 1] / power[worst].sqrt()
        explained, inside = power, power > 0
        for _ in range(_ROUNDS):
            explained = (error @ basis.mT).square().sum(dim=1)
            inside = (explained > _INSIDE * power) & (power > 0)
            rows = error[inside]
            rows = rows[rows.square().sum(dim=1).topk(min(256, len(rows))).indices]
            basis = torch.linalg.svd(rows, full_matrices=False).Vh[:size]
        new = all(float((basis @ other.mT).square().sum()) < _SAME * size for other in found)
        if float(explained[inside].sum()) >= worth and len(basis) == size and new:
            found.append(basis)
        else:
            rejected += 1
        error[inside] -= error[inside] @ basis.mT @ basis
        error[worst] = 0
    return found


@torch.no_grad()
def revive_(
    model: BlockSparseAutoencoder, x: Float[Tensor, "batch l"], *, patience: int, optimizer: Optimizer | None = None
) -> int:
    """Replace idle groups by subspaces that the dictionary misses.

    Args:
        model: The model; a group is idle if it has not been active for `patience` training batches.
        x: Samples to search for missed subspaces; a thousand or more.
        patience: Number of batches without activity.
        optimizer: The optimiser, whose moments of the replaced groups are set to 0.

    Returns:
        The number of replaced groups; 0 if none is idle or none is missed.

    Raises:
        OptionError: If the parameters are sharded.
    """
    if is_sharded(model.frames):
        raise OptionError("the parameters must be whole to revive groups; got sharded ones; try patience=None")
    idle = (model.idle >= patience).nonzero()[:, 0]
    if not len(idle):
        return 0
    training = model.training
    model.eval()
    codes = model.encode(x)
    error = x - model.decode(codes)
    model.train(training)
    power = float(codes.values.square().sum()) / max(1, int(codes.groups[codes.active].unique().numel()))
    bases = missed_subspaces(error, model.frames.shape[1], len(idle), worth=_WORTH * power)
    if not bases:
        return 0
    groups = idle[: len(bases)]
    model.frames[groups] = torch.stack(bases).to(model.frames)
    if isinstance(model.encoder, OnePass):
        model.encoder.reset_(groups, model.frames)
    model.idle[groups] = 0
    if optimizer is not None:
        _forget_(model, optimizer, groups)
    return len(groups)


def _forget_(model: BlockSparseAutoencoder, optimizer: Optimizer, groups: Tensor) -> None:
    """Set the optimiser's moments of some groups to 0."""
    for parameter in model.parameters():
        if parameter.ndim == 0 or len(parameter) != len(model.frames):
            continue
        for moment in optimizer.state.get(parameter, {}).values():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                moment[groups] = 0
