"""Activations of networks: capture them, store them in files larger than memory, and learn subspaces from them."""

from gramian.errors import needs_extra

with needs_extra("gramian.activations", "coding"):
    from gramian.activations.codes import ActivationCodes, decode_activations, encode_activations, open_codes
    from gramian.activations.page import write_features_page
    from gramian.activations.recording import Batch, capture
    from gramian.activations.run import FeatureRun, FeatureSettings
    from gramian.activations.samples import ActivationSampler, Preparation, split_held_out
    from gramian.activations.store import Activations, Manifest, Place, open_activations

__all__ = [
    "ActivationCodes",
    "ActivationSampler",
    "Activations",
    "Batch",
    "FeatureRun",
    "FeatureSettings",
    "Manifest",
    "Place",
    "Preparation",
    "capture",
    "decode_activations",
    "encode_activations",
    "open_activations",
    "open_codes",
    "split_held_out",
    "write_features_page",
]
