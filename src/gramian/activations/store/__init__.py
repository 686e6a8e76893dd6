"""Stores of activations: shards of samples in the safetensors format, with a manifest and the origin of each sample."""
