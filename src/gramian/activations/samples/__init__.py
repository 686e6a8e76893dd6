"""Draw shuffled samples from activations, and prepare them."""

from gramian.activations.samples.preparation import Preparation
from gramian.activations.samples.sampler import ActivationSampler, split_held_out

__all__ = ["ActivationSampler", "Preparation", "split_held_out"]
