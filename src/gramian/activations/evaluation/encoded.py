"""Encode samples batch by batch, and order their codes by group, with the error of the reconstruction."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.coding import SparseCodes
from gramian.coding.encoders.products import weighted_sum
from gramian.errors import DataError, ShapeError
from gramian.typing import Phi

__all__ = ["EncodedSamples", "Encoder", "encode_samples"]

Encoder = Callable[[Tensor], SparseCodes]
"""A function of samples x[batch, l] that returns their sparse codes."""


@dataclass(frozen=True, eq=False)
class EncodedSamples:
    """The codes of samples, ordered by group: one entry for each active group of each sample.

    Attributes:
        samples: Number of samples.
        sample: Index of each entry's sample.
        group: Index of each entry's group, ascending; within a group, samples are ascending.
        values: Coefficients of each entry.
        starts: First entry of each group, and the number of entries.
        power: Σ‖x‖² over all samples.
        error: Σ‖x − Σ_i Φ_i a_i‖² over all samples.
        covariance: Covariance of the samples, in float64.
    """

    samples: int
    sample: Int[Tensor, " entries"]
    group: Int[Tensor, " entries"]
    values: Float[Tensor, "entries n"]
    starts: Int[Tensor, " ends"]
    power: float
    error: float
    covariance: Float[Tensor, "l l"]

    @property
    def n_groups(self) -> int:
        """Number of groups m."""
        return len(self.starts) - 1

    @property
    def counts(self) -> Int[Tensor, " m"]:
        """Number of samples in which each group is active."""
        return self.starts.diff()

    @property
    def strengths(self) -> Float[Tensor, " entries"]:
        """The amplitudes ‖a_i‖₂."""
        return torch.linalg.vector_norm(self.values, dim=1)


@torch.no_grad()
def encode_samples(batches: Iterable[Tensor], phi: Phi, encode: Encoder) -> EncodedSamples:
    """Encode samples and compare their reconstruction with them.

    Args:
        batches: Samples [batch, l], prepared as for training.
        phi: The dictionary Φ[l, m, n].
        encode: Returns the codes of a batch, which is on the device of the dictionary.

    Returns:
        The codes on the CPU, without the groups that are 0.

    Raises:
        ShapeError: If codes do not fit the dictionary or the batch.
        DataError: If there is no sample, or a number is not finite.

    Cost:
        2·l² flops for each sample besides those of `encode`; memory for 4·(n + 6) bytes for each active group of each
        sample, twice while they are ordered, and for 16·l² bytes. No dense code is stored.

    Examples:
        >>> frames = torch.eye(4).view(4, 2, 2)
        >>> codes = encode_samples([torch.eye(4)], frames, lambda x: SparseCodes.of(x.view(-1, 2, 2)))
        >>> codes.group.tolist(), codes.sample.tolist(), codes.error
        ([0, 0, 1, 1], [0, 1, 2, 3], 0.0)
    """
    length, m, n = phi.shape
    rows = phi.detach().permute(1, 2, 0).contiguous()
    groups: list[Tensor] = []
    numbers: list[Tensor] = []
    values: list[Tensor] = []
    total = torch.zeros(length, dtype=torch.float64)
    moment = torch.zeros(length, length, dtype=torch.float64)
    samples, power, error = 0, 0.0, 0.0
    for x in batches:
        if x.ndim != 2 or x.shape[1] != length:
            raise ShapeError(f"samples must be x[batch, {length}], as long as the dictionary; got {list(x.shape)}")
        x = x.to(phi.device)  # noqa: PLW2901
        codes = encode(x)
        expected = (len(x), m, n)
        got = (len(codes.values), codes.n_groups, codes.values.shape[-1])
        if got != expected:
            raise ShapeError(f"codes must be of (samples, groups, size) {expected}; got {got}")
        residual = x.to(rows)
        if codes.groups.shape[1]:
            residual = residual - weighted_sum(codes.values.to(rows), rows, codes.groups.to(rows.device))
        power += float(x.double().square().sum())
        error += float(residual.double().square().sum())
        active = codes.active
        which, slot = active.nonzero(as_tuple=True)
        numbers.append(which.cpu() + samples)
        groups.append(codes.groups[which, slot].cpu())
        values.append(codes.values[which, slot].float().cpu())
        total += x.double().sum(dim=0).cpu()
        # Products in float32: the covariance is a reference, and float64 takes twice as long.
        moment += (x.float().mT @ x.float()).double().cpu()
        samples += len(x)
    if not samples or not (power < float("inf") and error < float("inf")):  # NaN compares as false
        raise DataError(f"there must be samples to encode, with finite codes; got {samples} samples, error {error:g}")
    group = torch.cat(groups)
    order = group.argsort(stable=True)
    mean = total / samples
    return EncodedSamples(
        samples=samples,
        sample=torch.cat(numbers)[order],
        group=group[order],
        values=torch.cat(values)[order],
        starts=torch.cat([torch.zeros(1, dtype=torch.int64), group.bincount(minlength=m).cumsum(dim=0)]),
        power=power,
        error=error,
        covariance=moment / samples - mean[:, None] * mean,
    )
