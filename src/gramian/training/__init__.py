"""The penalty in the training of a network: an update after every step of an optimiser, or a term of the loss."""

from gramian.training.attachment import Attachment, attach
from gramian.training.coupled import add_grad_, loss
from gramian.training.random_chunks import step_chunks_

__all__ = ["Attachment", "add_grad_", "attach", "loss", "step_chunks_"]
