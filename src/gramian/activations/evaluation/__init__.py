"""Measurements of features on held-out activations, from sparse codes."""

from gramian.activations.evaluation.description import DescriptionLength, description_length
from gramian.activations.evaluation.encoded import EncodedSamples, Encoder, encode_samples
from gramian.activations.evaluation.neighbours import NearestSubspaces, nearest_subspaces
from gramian.activations.evaluation.record import FeatureRecord, feature_record
from gramian.activations.evaluation.together import CoActivation, coactivation

__all__ = [
    "CoActivation",
    "DescriptionLength",
    "EncodedSamples",
    "Encoder",
    "FeatureRecord",
    "NearestSubspaces",
    "coactivation",
    "description_length",
    "encode_samples",
    "feature_record",
    "nearest_subspaces",
]
