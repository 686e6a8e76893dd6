"""How orthogonal the weights of a network, or tensors in a mapping or a file, are; also before and after training."""

from gramian.inspection.inspecting import inspect
from gramian.inspection.measures import Statistics, statistics
from gramian.inspection.table import Change, Comparison, Inspection, Row

__all__ = ["Change", "Comparison", "Inspection", "Row", "Statistics", "inspect", "statistics"]
