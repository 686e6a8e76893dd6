"""Render the page of a learning run."""

from gramian.images.page.learning_page import render_report

__all__ = ["render_report"]
