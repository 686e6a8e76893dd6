"""The densities of the sparse coding model as `torch.distributions`: codes of a group, and orthonormal groups."""

from gramian.distributions.group_laplace import GroupLaplace
from gramian.distributions.spike_slab import SpikeSlab
from gramian.distributions.uniform_frames import UniformFrames

__all__ = ["GroupLaplace", "SpikeSlab", "UniformFrames"]
