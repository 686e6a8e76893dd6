"""Learning on several processes, which divide samples, groups of the dictionary, or both."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh

from gramian.errors import OptionError

__all__ = ["SINGLE", "ProcessGrid"]


@dataclass(eq=False, repr=False)
class ProcessGrid:
    """The grid of processes that learn one dictionary, and the place of this process in it.

    The grid has `samples` × `groups` processes. Processes of a row hold different groups of the dictionary and use the
    same samples; processes of a column hold the same groups and use different samples.

    Args:
        over_samples: Process group of the column of this process; None if a column has one process.
        over_groups: Process group of the row of this process; None if a row has one process.

    Attributes:
        sent: Number of bytes that this process has sent: the sizes of all tensors that it all-reduced or gathered.
    """

    over_samples: Any = None
    over_groups: Any = None
    sent: int = 0

    @classmethod
    def arrange(cls, groups: int = 1) -> "ProcessGrid":
        """Arrange all processes of the default group, as started by torchrun.

        Args:
            groups: Number of processes that divide the groups of the dictionary. Each row of that many processes uses
                a different part of the samples.

        Raises:
            OptionError: If `groups` does not divide the number of processes.

        Examples:
            >>> ProcessGrid.arrange().over_samples is None  # not started by torchrun
            True
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            if groups != 1:
                raise OptionError(
                    f"{groups} processes that divide the groups must be started by torchrun; got no process group"
                )
            return cls()
        world = distributed.get_world_size()
        if groups < 1 or world % groups:
            raise OptionError(f"the number of processes that divide the groups must divide {world}; got {groups}")
        mesh = init_device_mesh("cpu", (world // groups, groups), mesh_dim_names=("samples", "groups"))
        return cls(
            mesh.get_group("samples") if world > groups else None, mesh.get_group("groups") if groups > 1 else None
        )

    def __repr__(self) -> str:
        if self.is_single:
            return "ProcessGrid(1 process)"
        samples, groups = (
            1 if group is None else distributed.get_world_size(group) for group in (self.over_samples, self.over_groups)
        )
        return f"ProcessGrid({samples} × {groups} processes: samples × groups)"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.is_single or distributed.get_rank() == 0

    @property
    def is_single(self) -> bool:
        """Whether this is the only process."""
        return self.over_samples is None and self.over_groups is None

    @property
    def place_among_samples(self) -> tuple[int, int]:
        """The index, from 0, of this process among those that use different samples, and their number."""
        if self.over_samples is None:
            return 0, 1
        return distributed.get_rank(self.over_samples), distributed.get_world_size(self.over_samples)

    def local_samples(self, x: Tensor) -> Tensor:
        """Return the samples of this process: equal consecutive parts, in the order of the ranks.

        Raises:
            OptionError: If the batch cannot be divided evenly.
        """
        if self.over_samples is None:
            return x
        count = distributed.get_world_size(self.over_samples)
        if len(x) % count:
            raise OptionError(
                f"the batch size must be a multiple of the {count} processes that divide it; got {len(x)}"
            )
        return x.chunk(count)[distributed.get_rank(self.over_samples)]

    def local_groups(self, phi: Tensor) -> Tensor:
        """Return the part of Φ[l, m, n] with the groups of this process.

        Raises:
            OptionError: If the groups cannot be divided evenly.
        """
        if self.over_groups is None:
            return phi
        count = distributed.get_world_size(self.over_groups)
        if phi.shape[1] % count:
            raise OptionError(
                f"the number of groups must be a multiple of the {count} processes that divide them; got {phi.shape[1]}"
            )
        return phi.chunk(count, dim=1)[distributed.get_rank(self.over_groups)].contiguous()

    def gather_groups(self, part: Tensor, dim: int = 1) -> Tensor:
        """Gather the groups of all processes."""
        return self._all_gather(part, self.over_groups, dim)

    def gather_samples(self, part: Tensor) -> Tensor:
        """Gather the samples of all processes."""
        return self._all_gather(part, self.over_samples, 0)

    def mean_over_samples(self, *parts: Tensor) -> list[Tensor]:
        """Average tensors over the processes that use different samples, in one all-reduce."""
        if self.over_samples is None:
            return list(parts)
        flat = torch.cat([part.reshape(-1).to(parts[0].dtype) for part in parts])
        self._all_reduce(flat, self.over_samples)
        flat /= distributed.get_world_size(self.over_samples)
        means = flat.split([part.numel() for part in parts])
        return [mean.view_as(part) for mean, part in zip(means, parts, strict=True)]

    def sum_over_groups(self, part: Tensor) -> Tensor:
        """Sum a tensor over the processes that hold different groups."""
        return part if self.over_groups is None else self._all_reduce(part.clone(), self.over_groups)

    def max_over_groups(self, part: Tensor) -> Tensor:
        """Return the entrywise maximum over the processes that hold different groups."""
        if self.over_groups is None:
            return part
        return self._all_reduce(part.clone(), self.over_groups, distributed.ReduceOp.MAX)

    def any(self, local: bool) -> bool:  # noqa: FBT001
        """Return whether a condition holds on any process; all processes must call this method."""
        if self.is_single:
            return local
        flag = torch.tensor(int(local))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def max_over_all(self, local: float) -> float:
        """Return the maximum of a number over all processes; all processes must call this method."""
        if self.is_single:
            return local
        value = torch.tensor(local, dtype=torch.float64)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return float(value)

    def _all_reduce(self, tensor: Tensor, group: Any, operation: Any = None) -> Tensor:
        self.sent += tensor.numel() * tensor.element_size()
        distributed.all_reduce(tensor, operation or distributed.ReduceOp.SUM, group=group)
        return tensor

    def _all_gather(self, part: Tensor, group: Any, dim: int) -> Tensor:
        if group is None:
            return part
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(distributed.get_world_size(group))]
        self.sent += part.numel() * part.element_size()
        distributed.all_gather(parts, part, group=group)
        return torch.cat(parts, dim=dim)


SINGLE = ProcessGrid()
"""A single process."""
