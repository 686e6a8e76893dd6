"""Weights in files: read one at a time, and made orthonormal with the rest of the file kept."""

from gramian.errors import needs_extra

with needs_extra("gramian.weights", "coding"):
    from gramian.weights.entries import Weights, proposals_of
    from gramian.weights.files import open_weights
    from gramian.weights.rewriting import Rewritten, orthogonalize_file

__all__ = ["Rewritten", "Weights", "open_weights", "orthogonalize_file", "proposals_of"]
