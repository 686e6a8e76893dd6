"""Measure how orthogonal the weights of a network or a file are, and compare them before and after training."""

from gramian.inspection.inspecting import inspect
from gramian.inspection.measures import Statistics, statistics
from gramian.inspection.table import Change, Comparison, Inspection, Row

__all__ = ["Change", "Comparison", "Inspection", "Row", "Statistics", "inspect", "statistics"]
