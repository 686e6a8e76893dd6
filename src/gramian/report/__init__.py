"""Reports: what was measured, drawn as one page that needs nothing else."""

from gramian.report.page import render_report
from gramian.report.pictures import atoms_picture, png
from gramian.report.record import HeldOutPicture, LearningRecord

__all__ = ["HeldOutPicture", "LearningRecord", "atoms_picture", "png", "render_report"]
