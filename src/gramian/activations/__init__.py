"""Activations of networks: capture them, keep them in stores larger than memory, and learn subspaces from them."""

from gramian.errors import needs_extra

with needs_extra("gramian.activations", "coding"):
    from gramian.activations.dictionary import Dictionary, load_dictionary, save_dictionary
    from gramian.activations.page import write_features_page
    from gramian.activations.recording import Batch, capture
    from gramian.activations.run import FeatureRun, FeatureSettings
    from gramian.activations.samples import ActivationSampler, Preparation, split_held_out
    from gramian.activations.store import Activations, Manifest, Place, open_activations

__all__ = [
    "ActivationSampler",
    "Activations",
    "Batch",
    "Dictionary",
    "FeatureRun",
    "FeatureSettings",
    "Manifest",
    "Place",
    "Preparation",
    "capture",
    "load_dictionary",
    "open_activations",
    "save_dictionary",
    "split_held_out",
    "write_features_page",
]
