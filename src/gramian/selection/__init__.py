"""Select the weights of a network that are kept orthogonal, and choose the layout of each."""

from gramian.selection.candidates import SkippedParameter
from gramian.selection.parameters import SelectedParameter, select_parameters
from gramian.selection.patterns import Layouts, Pattern, Selector
from gramian.selection.policy import Proposal, propose, propose_by_shape

__all__ = [
    "Layouts",
    "Pattern",
    "Proposal",
    "SelectedParameter",
    "Selector",
    "SkippedParameter",
    "propose",
    "propose_by_shape",
    "select_parameters",
]
