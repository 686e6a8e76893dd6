"""A tensor that may be selected: a parameter of a model, an entry of a mapping, or an entry of a file."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from gramian.selection.policy import Proposal

__all__ = ["Candidate"]


@dataclass(frozen=True)
class Candidate:
    """A tensor that may be selected.

    Attributes:
        name: Its name, without the prefixes of wrappers.
        raw: The name that torch uses, which patterns may match too.
        shape: Its shape; None before the first batch of a lazy layer.
        proposal: What the default policy proposes.
        read: Returns the tensor; called if a function selects, or if the tensor is to be trained.
        modules: The modules that contain it, from the model to the module whose parameter it is; none in a file.
    """

    name: str
    raw: str
    shape: tuple[int, ...] | None
    proposal: Proposal
    read: Callable[[], Tensor]
    modules: tuple[nn.Module, ...] = ()
