"""Activations of networks: capture them, keep them in stores larger than memory, and draw samples from them."""

from gramian.errors import needs_extra

with needs_extra("gramian.activations", "coding"):
    from gramian.activations.capture.batches import Batch
    from gramian.activations.capture.capturing import capture
    from gramian.activations.samples.preparation import Preparation
    from gramian.activations.samples.sampler import ActivationSampler, split_held_out
    from gramian.activations.store.manifest import Manifest
    from gramian.activations.store.places import Place
    from gramian.activations.store.reader import Activations, open_activations

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
