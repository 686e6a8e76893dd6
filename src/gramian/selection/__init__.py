"""Which weights of a network are acted on, and the layout of each."""

from gramian.selection.candidates import SkippedParameter
from gramian.selection.parameters import SelectedParameter, select_parameters
from gramian.selection.patterns import Layouts, Selector
from gramian.selection.policy import Proposal, propose

__all__ = ["Layouts", "Proposal", "SelectedParameter", "Selector", "SkippedParameter", "propose", "select_parameters"]
