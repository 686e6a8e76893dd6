"""The linear map from codes to samples, x = Σ_i Φ_i a_i, for every kind of dictionary."""

from gramian.coding.synthesis.base import Samples, Synthesis
from gramian.coding.synthesis.convolution import Convolution
from gramian.coding.synthesis.matrix import Dense
from gramian.coding.synthesis.overlap import Overlap
from gramian.coding.synthesis.sharded import ShardedSynthesis, shard
from gramian.typing import Phi

__all__ = ["Convolution", "Dense", "Overlap", "Samples", "ShardedSynthesis", "Synthesis", "as_synthesis", "shard"]


def as_synthesis(phi: Phi | Synthesis) -> Synthesis:
    """Return the linear map of a dictionary Φ[l, m, n]; return a `Synthesis` unchanged.

    Args:
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.

    Returns:
        The map, which shares memory with Φ.
    """
    return phi if isinstance(phi, Synthesis) else Dense(phi)
