"""Networks and their training: which weights are kept orthogonal, and the update after every step of an optimiser."""

from gramian.training.attachment import Attachment, attach
from gramian.training.chunks import step_chunks_
from gramian.training.coupled import add_grad_, loss
from gramian.training.inspection import Inspection, Statistics, inspect, statistics
from gramian.training.policy import Proposal, propose
from gramian.training.selection import Left, Target, select_parameters

__all__ = [
    "Attachment",
    "Inspection",
    "Left",
    "Proposal",
    "Statistics",
    "Target",
    "add_grad_",
    "attach",
    "inspect",
    "loss",
    "propose",
    "select_parameters",
    "statistics",
    "step_chunks_",
]
