"""Sparse codes: the active groups of each sample and their coefficients, without the groups that are 0."""

import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gramian.coding.model import Codes, group_norms

__all__ = ["SparseCodes"]


class SparseCodes(NamedTuple):
    """Codes a[batch, m, n], stored as k groups of each sample.

    It is a tuple, so that DDP, FSDP2 and `torch.compile` find the tensors in it. Unused slots hold zeros.

    Attributes:
        groups: Indices of the stored groups, [batch, k]; no group is stored twice for one sample.
        values: Their coefficients, [batch, k, n].
        n_groups: Number of groups m.

    Examples:
        >>> import torch
        >>> codes = SparseCodes(torch.tensor([[2, 0]]), torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), n_groups=4)
        >>> codes
        SparseCodes(samples=1, m=4, n=2, active=1)
        >>> codes.dense().shape, codes.csr().shape
        (torch.Size([1, 4, 2]), (1, 8))
    """

    groups: Int[Tensor, "batch k"]
    values: Float[Tensor, "batch k n"]
    n_groups: int

    @classmethod
    def of(cls, codes: Codes) -> "SparseCodes":
        """Store the active groups of codes [batch, m, n]; k is the largest number of active groups of a sample."""
        active = group_norms(codes) > 0
        k = int(active.sum(dim=1).max()) if len(active) else 0
        groups = active.to(torch.int8).topk(k, dim=1).indices
        return cls(groups, codes.gather(1, groups[..., None].expand(-1, -1, codes.shape[2])), codes.shape[1])

    @classmethod
    def join(cls, parts: list["SparseCodes"]) -> "SparseCodes":
        """Concatenate the codes of several batches."""
        k = max(part.groups.shape[1] for part in parts)
        pad = torch.nn.functional.pad
        groups = torch.cat([pad(part.groups, (0, k - part.groups.shape[1])) for part in parts])
        values = torch.cat([pad(part.values, (0, 0, 0, k - part.values.shape[1])) for part in parts])
        return cls(groups, values, parts[0].n_groups)

    @property
    def amplitudes(self) -> Float[Tensor, "batch k"]:
        """The amplitudes ‖a_i‖₂ of the stored groups."""
        return torch.linalg.vector_norm(self.values, dim=2)

    @property
    def active(self) -> Bool[Tensor, "batch k"]:
        """Which stored groups are not 0."""
        return (self.values != 0).any(dim=2)

    @property
    def active_groups(self) -> Int[Tensor, " batch"]:
        """Number of active groups of each sample."""
        return self.active.sum(dim=1)

    def detach(self) -> "SparseCodes":
        """Return the same codes without their gradient."""
        return self._replace(values=self.values.detach())

    def rows(self, rows: Any) -> "SparseCodes":
        """Return the codes of some samples, selected by an index or a slice."""
        return self._replace(groups=self.groups[rows], values=self.values[rows])

    def trimmed(self) -> "SparseCodes":
        """Return the codes with active groups first, and as few slots as the sample with most active groups allows."""
        active = self.active
        k = int(active.sum(dim=1).max()) if len(active) else 0
        first = active.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :k]
        values = self.values.gather(1, first[..., None].expand(-1, -1, self.values.shape[2]))
        return SparseCodes(self.groups.gather(1, first), values, self.n_groups)

    def dense(self) -> Codes:
        """Return codes [batch, m, n]: batch·m·n numbers."""
        batch, _, n = self.values.shape
        index = self.groups[..., None].expand(-1, -1, n)
        return self.values.new_zeros(batch, self.n_groups, n).scatter_add(1, index, self.values)

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the row ends, columns and values of a matrix [batch, m·n] in compressed rows, ordered by column."""
        n = self.values.shape[2]
        counts = self.active_groups
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)]) * n
        order = torch.where(self.active, self.groups, self.n_groups).argsort(dim=1)
        kept = self.active.gather(1, order)
        groups = self.groups.gather(1, order)[kept]
        values = self.values.gather(1, order[..., None].expand(-1, -1, n))[kept]
        columns = groups[:, None] * n + torch.arange(n, device=groups.device)
        return ends, columns.flatten(), values.flatten()

    def csr(self) -> Any:
        """Return the codes as a `scipy.sparse.csr_array` [batch, m·n], ordered by group."""
        from scipy.sparse import csr_array

        rows, columns, values = (part.detach().cpu().numpy() for part in self.entries())
        return csr_array((values, columns, rows), shape=(len(self.groups), self.n_groups * self.values.shape[2]))

    def sparse_tensor(self) -> Tensor:
        """Return the codes as a sparse CSR tensor [batch, m·n], ordered by group."""
        shape = (len(self.groups), self.n_groups * self.values.shape[2])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
            return torch.sparse_csr_tensor(*self.entries(), size=shape, check_invariants=True)

    def __repr__(self) -> str:
        batch, _, n = self.values.shape
        mean = float(self.active_groups.double().mean()) if batch else 0.0
        return f"SparseCodes(samples={batch}, m={self.n_groups}, n={n}, active={mean:.3g})"
