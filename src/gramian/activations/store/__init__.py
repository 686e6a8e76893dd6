"""Stores of activations: shards of samples in the safetensors format, with a manifest and the origin of each sample."""

from gramian.activations.store.manifest import Manifest, read_manifest
from gramian.activations.store.opening import open_activations
from gramian.activations.store.places import Place
from gramian.activations.store.reader import Activations

__all__ = ["Activations", "Manifest", "Place", "open_activations", "read_manifest"]
