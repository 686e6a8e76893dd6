"""The synthesis of atoms whose groups are distributed over several processes."""

from jaxtyping import Float
from torch import Tensor

from gramian.coding.model import Codes
from gramian.coding.synthesis.base import Samples, Synthesis
from gramian.distributed.process_grid import ProcessGrid
from gramian.typing import Phi

__all__ = ["ShardedSynthesis", "shard"]


class ShardedSynthesis(Synthesis):
    """The synthesis of distributed groups: each process has the codes of its groups; samples are summed over processes.

    Args:
        local: The map of the groups of this process.
        grid: The grid of processes.
    """

    def __init__(self, local: Synthesis, grid: ProcessGrid) -> None:
        self.local = local
        self.grid = grid

    def zeros(self, x: Samples) -> Codes:
        """Return zero codes for the groups of this process."""
        return self.local.zeros(x)

    def synthesise(self, codes: Codes) -> Samples:
        """Compute Σ_i Φ_i a_i over the groups of all processes."""
        return self.grid.sum_over_groups(self.local.synthesise(codes))

    def analyse(self, x: Samples) -> Codes:
        """Compute the correlations with the groups of this process."""
        return self.local.analyse(x)

    def longest(self, x: Samples) -> float:
        """Compute the length of the longest atom of all processes."""
        return float(self.grid.max_over_groups(x.new_tensor(self.local.longest(x))))

    def roundoff(self, x: Samples) -> float:
        """Return the unit of rounding of products on this process."""
        return self.local.roundoff(x)

    def gradient(self, error: Samples, codes: Codes) -> Phi:
        """Compute the mean of (x − Φa)aᵀ for the atoms of this process."""
        return self.local.gradient(error, codes)

    def total(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Sum the values over the processes."""
        return self.grid.sum_over_groups(values)

    def largest(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the maximum of the values over the processes."""
        return self.grid.max_over_groups(values)


def shard(local: Synthesis, grid: ProcessGrid) -> Synthesis:
    """Return the map from the codes of all processes to samples, given the map of the groups of this process."""
    return local if grid.over_groups is None else ShardedSynthesis(local, grid)
