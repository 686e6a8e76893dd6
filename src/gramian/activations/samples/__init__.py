"""Shuffled samples from activations, and their preparation."""

from gramian.activations.samples.preparation import Preparation
from gramian.activations.samples.sampler import ActivationSampler, split_held_out

__all__ = ["ActivationSampler", "Preparation", "split_held_out"]
