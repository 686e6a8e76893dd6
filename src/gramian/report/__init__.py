"""Render measurements as self-contained HTML pages."""

from gramian.errors import needs_extra

with needs_extra("gramian.report", "coding"):
    from gramian.report.pictures import atoms_picture, png
    from gramian.report.portraits import Portrait, portrait
    from gramian.report.weights_page import render_weights

__all__ = [
    "Portrait",
    "atoms_picture",
    "png",
    "portrait",
    "render_weights",
]
