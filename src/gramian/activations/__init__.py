"""Activations of networks: capture them, keep them in stores larger than memory, and draw samples from them."""

from gramian.errors import needs_extra

with needs_extra("gramian.activations", "coding"):
    from gramian.activations.recording import Batch, capture
    from gramian.activations.samples import ActivationSampler, Preparation, split_held_out
    from gramian.activations.store import Activations, Manifest, Place, open_activations

__all__ = [
    "ActivationSampler",
    "Activations",
    "Batch",
    "Manifest",
    "Place",
    "Preparation",
    "capture",
    "open_activations",
    "split_held_out",
]
