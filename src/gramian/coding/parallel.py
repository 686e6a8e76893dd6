"""Learning on several processes: patches shared out, groups shared out, or both."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh

from gramian.coding.prior import Codes
from gramian.coding.synthesis import Samples, Synthesis
from gramian.errors import OptionError
from gramian.typing import Phi

__all__ = ["ALONE", "Parallel", "Spread"]


@dataclass(eq=False)
class Parallel:
    """Which part of a learning step is this process's.

    Processes form a grid of `patches` × `groups`. Those of a row hold different groups of the dictionary and see the
    same samples; those of a column hold the same groups and see different samples.

    Args:
        over_patches: The processes that hold the same groups; None if there is but one.
        over_groups: The processes that see the same samples; None if there is but one.

    Attributes:
        sent: Bytes that this process has handed over, counted as the sizes of the tensors that were summed or gathered.
    """

    over_patches: Any = None
    over_groups: Any = None
    sent: int = 0

    @classmethod
    def grid(cls, groups: int = 1) -> "Parallel":
        """Arrange all processes of the default group, as torchrun has started them.

        Args:
            groups: Among how many processes the groups of the dictionary are shared out; patches among the rest.

        Raises:
            OptionError: If that does not divide the number of processes.

        Examples:
            >>> Parallel.grid().over_patches is None  # not started by torchrun
            True
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            if groups != 1:
                raise OptionError(f"groups can be shared out among {groups} processes under torchrun only; got none")
            return cls()
        world = distributed.get_world_size()
        if groups < 1 or world % groups:
            raise OptionError(f"groups must be shared out among a divisor of {world} processes; got {groups}")
        mesh = init_device_mesh("cpu", (world // groups, groups), mesh_dim_names=("patches", "groups"))
        return cls(
            mesh.get_group("patches") if world > groups else None, mesh.get_group("groups") if groups > 1 else None
        )

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.alone or distributed.get_rank() == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.over_patches is None and self.over_groups is None

    def share_of_patches(self, x: Samples) -> Samples:
        """Give the samples of this process: an equal part, in the order of the processes.

        Raises:
            OptionError: If the batch cannot be shared out evenly.
        """
        if self.over_patches is None:
            return x
        count = distributed.get_world_size(self.over_patches)
        if len(x) % count:
            raise OptionError(f"a batch must be a multiple of the {count} processes that share it; got {len(x)}")
        return x.chunk(count)[distributed.get_rank(self.over_patches)]

    def share_of_groups(self, phi: Tensor) -> Tensor:
        """Give the groups of this process, of Φ[l, m, n].

        Raises:
            OptionError: If the groups cannot be shared out evenly.
        """
        if self.over_groups is None:
            return phi
        count = distributed.get_world_size(self.over_groups)
        if phi.shape[1] % count:
            raise OptionError(f"groups must be a multiple of the {count} processes that share them; got {phi.shape[1]}")
        return phi.chunk(count, dim=1)[distributed.get_rank(self.over_groups)].contiguous()

    def whole(self, part: Tensor, dim: int = 1) -> Tensor:
        """Put the groups of all processes together."""
        return self._gathered(part, self.over_groups, dim)

    def all_samples(self, part: Tensor) -> Tensor:
        """Put the samples of all processes together."""
        return self._gathered(part, self.over_patches, 0)

    def mean_over_patches(self, *parts: Tensor) -> list[Tensor]:
        """Average tensors over the processes that see different samples; one message for all."""
        if self.over_patches is None:
            return list(parts)
        flat = torch.cat([part.reshape(-1).to(parts[0].dtype) for part in parts])
        self._summed(flat, self.over_patches)
        flat /= distributed.get_world_size(self.over_patches)
        pieces = flat.split([part.numel() for part in parts])
        return [piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)]

    def sum_over_groups(self, part: Tensor) -> Tensor:
        """Sum what the processes that hold different groups have."""
        return part if self.over_groups is None else self._summed(part.clone(), self.over_groups)

    def largest_over_groups(self, part: Tensor) -> Tensor:
        """Give the largest that any process that holds other groups has, entry by entry."""
        if self.over_groups is None:
            return part
        return self._summed(part.clone(), self.over_groups, distributed.ReduceOp.MAX)

    def any(self, here: bool) -> bool:  # noqa: FBT001
        """Say whether it is so on any process; all must ask."""
        if self.alone:
            return here
        flag = torch.tensor(int(here))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def slowest(self, here: float) -> float:
        """Give the largest of what the processes have."""
        if self.alone:
            return here
        value = torch.tensor(here, dtype=torch.float64)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return float(value)

    def spread(self, own: Synthesis) -> Synthesis:
        """Give the map from the codes of all processes to samples, from that of the groups of this process."""
        return own if self.over_groups is None else Spread(own, self)

    def _summed(self, tensor: Tensor, group: Any, operation: Any = None) -> Tensor:
        self.sent += tensor.numel() * tensor.element_size()
        distributed.all_reduce(tensor, operation or distributed.ReduceOp.SUM, group=group)
        return tensor

    def _gathered(self, part: Tensor, group: Any, dim: int) -> Tensor:
        if group is None:
            return part
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(distributed.get_world_size(group))]
        self.sent += part.numel() * part.element_size()
        distributed.all_gather(parts, part, group=group)
        return torch.cat(parts, dim=dim)


ALONE = Parallel()
"""One process that does everything."""


class Spread(Synthesis):
    """Atoms whose groups are spread over processes: samples are summed over them, codes stay where their groups are.

    Args:
        own: The map of the groups of this process.
        parallel: The processes.
    """

    def __init__(self, own: Synthesis, parallel: Parallel) -> None:
        self.own = own
        self.parallel = parallel

    def zeros(self, x: Samples) -> Codes:
        """Give codes of zero, for the groups of this process."""
        return self.own.zeros(x)

    def synthesise(self, codes: Codes) -> Samples:
        """Give Σ_i Φ_i a_i over the groups of all processes."""
        return self.parallel.sum_over_groups(self.own.synthesise(codes))

    def analyse(self, x: Samples) -> Codes:
        """Give the correlations with the groups of this process."""
        return self.own.analyse(x)

    def longest(self, x: Samples) -> float:
        """Give the length of the longest atom of all processes."""
        return float(self.parallel.largest_over_groups(x.new_tensor(self.own.longest(x))))

    def roundoff(self, x: Samples) -> float:
        """Give the unit of rounding of products on this process."""
        return self.own.roundoff(x)

    def gradient(self, error: Samples, codes: Codes) -> Phi:
        """Give where the atoms of this process are pulled."""
        return self.own.gradient(error, codes)

    def total(self, each: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Sum over the processes."""
        return self.parallel.sum_over_groups(each)

    def largest(self, each: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Give the largest of the processes."""
        return self.parallel.largest_over_groups(each)
