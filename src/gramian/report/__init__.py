"""Reports: what was measured, drawn as one page that needs nothing else."""

from gramian.errors import needs_extra

with needs_extra("gramian.report", "coding"):
    from gramian.report.learning_page import render_report
    from gramian.report.pictures import atoms_picture, png
    from gramian.report.record import HeldOutPicture, LearningRecord
    from gramian.report.weights_page import Portrait, portrait, render_weights

__all__ = [
    "HeldOutPicture",
    "LearningRecord",
    "Portrait",
    "atoms_picture",
    "png",
    "portrait",
    "render_report",
    "render_weights",
]
