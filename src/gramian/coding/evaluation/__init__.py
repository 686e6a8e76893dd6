"""Evaluate codes and dictionaries."""

from gramian.coding.evaluation.manifolds import MANIFOLDS, ManifoldSamples, ManifoldSum
from gramian.coding.evaluation.matching import SubspaceMatch, match
from gramian.coding.evaluation.measures import (
    GroupState,
    group_state,
    smallest_beta,
    snr,
    strongest_groups,
    within_group_cosines,
)
from gramian.coding.evaluation.planes import GroupPlanes, group_planes
from gramian.coding.evaluation.recovery import Recovery, block_recovery

__all__ = [
    "MANIFOLDS",
    "GroupPlanes",
    "GroupState",
    "ManifoldSamples",
    "ManifoldSum",
    "Recovery",
    "SubspaceMatch",
    "block_recovery",
    "group_planes",
    "group_state",
    "match",
    "smallest_beta",
    "snr",
    "strongest_groups",
    "within_group_cosines",
]
