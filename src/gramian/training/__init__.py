"""The penalty in the training of a network: an update after every step of an optimiser, or a term of the loss."""

from gramian.training.attachment import Attachment, attach
from gramian.training.coupled import add_grad_, loss
from gramian.training.initialization import orthogonalize_
from gramian.training.parametrised import Orthonormal, orthonormal
from gramian.training.random_chunks import step_chunks_
from gramian.training.strength import WarmUp

__all__ = [
    "Attachment",
    "Orthonormal",
    "WarmUp",
    "add_grad_",
    "attach",
    "loss",
    "orthogonalize_",
    "orthonormal",
    "step_chunks_",
]
