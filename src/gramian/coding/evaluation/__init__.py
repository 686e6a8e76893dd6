"""Evaluation of codes and dictionaries."""

from gramian.coding.evaluation.measures import (
    GroupState,
    debias,
    group_state,
    smallest_beta,
    snr,
    strongest_groups,
    within_group_cosines,
)
from gramian.coding.evaluation.planes import GroupPlanes, group_planes

__all__ = [
    "GroupPlanes",
    "GroupState",
    "debias",
    "group_planes",
    "group_state",
    "smallest_beta",
    "snr",
    "strongest_groups",
    "within_group_cosines",
]
