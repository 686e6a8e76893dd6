"""The penalty in the training of a network: an update after every step of an optimiser, or a term of the loss."""

from gramian.training.attaching.attachment import Attachment, attach
from gramian.training.attaching.strength import WarmUp
from gramian.training.coupled import add_grad_, loss
from gramian.training.initialization import orthogonalize_
from gramian.training.parametrisation.orthonormal import Orthonormal, orthonormal
from gramian.training.random_chunks import step_chunks_

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
