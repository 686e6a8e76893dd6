"""Measure or orthogonalize the tensors of a file, one at a time; the rest of the file stays unchanged."""

from gramian.errors import needs_extra

with needs_extra("gramian.weights", "coding"):
    from gramian.weights.entries import Weights
    from gramian.weights.files import open_weights
    from gramian.weights.inspecting import inspect_file
    from gramian.weights.rewriting import Rewritten, orthogonalize_file

__all__ = ["Rewritten", "Weights", "inspect_file", "open_weights", "orthogonalize_file"]
