"""Weights in files: tensors are read one at a time, and measured or orthogonalized; the rest stays unchanged."""

from gramian.errors import needs_extra

with needs_extra("gramian.weights", "coding"):
    from gramian.weights.entries import Weights
    from gramian.weights.files import open_weights
    from gramian.weights.inspecting import inspect_file
    from gramian.weights.rewriting import Rewritten, orthogonalize_file

__all__ = ["Rewritten", "Weights", "inspect_file", "open_weights", "orthogonalize_file"]
