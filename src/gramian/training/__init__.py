"""Networks and their training: which weights are kept orthogonal, and the update after every step of an optimiser."""

from gramian.training.attachment import Attachment, attach
from gramian.training.coupled import add_grad_, loss
from gramian.training.policy import Proposal, propose
from gramian.training.selection import Left, Target, select_parameters

__all__ = ["Attachment", "Left", "Proposal", "Target", "add_grad_", "attach", "loss", "propose", "select_parameters"]
