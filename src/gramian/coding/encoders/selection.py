r"""Select the active groups among those of largest pre-codes. Outside training, a code depends only on its sample.

A selection gets the candidates of each sample, the groups of largest norm in descending order, and returns their codes,
0 for those that it does not keep. Statistics of other samples, such as a threshold, are tracked in training as a
running mean. A training batch is that of all processes of torch.distributed, which must have equally many samples.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gramian.coding.encoders.products import Rows
from gramian.distributed.mean import rows_of_processes

__all__ = ["BatchTopK", "Candidates", "Selection", "SoftThreshold", "Threshold", "TopK", "running_mean_"]

_MEMORY = 0.1
"""Smallest weight of a new batch in a running mean; the first batches have equal weights.

Norms change while the encoder learns: with 0.02 the threshold lags behind, and 3 to 4 % too many groups were active.
"""
_PRICE = 0.3
"""Price of ‖a_i‖ in the loss of a soft threshold θ, relative to 2θ.

At 1 training minimises the energy of a group Laplace prior, and codes are as short. Without a price, encoder and
threshold grow together until few groups are left: of 256, 251 were never active.
"""
_SPARE = 4
"""Slots for each active group if the number of active groups varies between samples."""


class Candidates(NamedTuple):
    """The groups of largest pre-codes of each sample, in descending order.

    Attributes:
        norms: The norms by which they are ordered, [batch, k], without a gradient.
        groups: Their indices.
        values: Their pre-codes u_i, [batch, k, n].
    """

    norms: Float[Tensor, "batch k"]
    groups: Int[Tensor, "batch k"]
    values: Float[Tensor, "batch k n"]


class Selection(nn.Module, ABC):
    """The base class of selections.

    Args:
        n_groups: Number of groups m.
        active: Mean number of active groups to aim at.
        slots: Largest number of active groups of a sample.

    Attributes:
        seen: Number of batches that the running means are computed from.
    """

    seen: Tensor

    def __init__(self, n_groups: int, active: int, slots: int) -> None:
        super().__init__()
        self.n_groups = n_groups
        self.active = active
        self.slots = min(slots, n_groups)
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    @property
    def scale(self) -> Float[Tensor, " m"] | None:
        """Factors of the norms by which candidates are ordered; None for 1."""
        return None

    @abstractmethod
    def forward(self, candidates: Candidates, x: Float[Tensor, "batch l"], frames: Rows) -> Float[Tensor, "batch k n"]:
        """Return the codes of the candidates, 0 for those that are not active."""

    def price(self, codes: Float[Tensor, "batch k n"], statistic: Float[Tensor, ""]) -> Float[Tensor, " batch"] | None:
        """Compute what training adds to ‖x − Φa‖² for the codes of each sample; None for nothing.

        Args:
            codes: The codes of the candidates.
            statistic: The statistic of the batch, from `observed`.
        """
        return None

    def observed(
        self, candidates: Candidates, codes: Float[Tensor, "batch k n"], error: Float[Tensor, "batch l"]
    ) -> Float[Tensor, ""]:
        """Compute the statistic of a batch whose running mean the selection tracks; 0 if it tracks none.

        Args:
            candidates: The candidates of the batch.
            codes: Their codes.
            error: x − Φa.
        """
        return error.new_zeros(())

    def track_(self, statistic: Float[Tensor, ""]) -> None:
        """Include the statistic of a batch in the running mean."""
        self.seen += 1


class TopK(Selection):
    """Keep the `active` groups of largest norm of each sample."""

    def __init__(self, n_groups: int, active: int) -> None:
        super().__init__(n_groups, active, active)

    def forward(self, candidates: Candidates, x: Float[Tensor, "batch l"], frames: Rows) -> Float[Tensor, "batch k n"]:
        return candidates.values * first(candidates.values, self.active)


class Threshold(Selection):
    """Keep the groups whose norm exceeds a threshold, chosen so that `active` groups are active on average.

    It is the running mean of the thresholds that keep exactly `active` groups on average in each batch. In training,
    too, the threshold of the earlier batches selects.

    Attributes:
        threshold: The running threshold.
    """

    threshold: Tensor

    def __init__(self, n_groups: int, active: int) -> None:
        super().__init__(n_groups, active, _SPARE * active)
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, candidates: Candidates, x: Float[Tensor, "batch l"], frames: Rows) -> Float[Tensor, "batch k n"]:
        return candidates.values * self.kept(candidates.norms)[..., None]

    def kept(self, norms: Float[Tensor, "batch k"]) -> Bool[Tensor, "batch k"]:
        """Return which candidates exceed the running threshold."""
        return norms > self.level(self.batch_threshold(norms))

    def level(self, batch_threshold: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the running threshold; that of the batch if none has been tracked."""
        return torch.where(self.seen > 0, self.threshold.to(batch_threshold), batch_threshold)

    def batch_threshold(self, norms: Float[Tensor, "batch k"]) -> Float[Tensor, ""]:
        """Compute the threshold for which `active` groups of this batch are active on average."""
        norms = rows_of_processes(norms) if self.training else norms
        flat = norms.flatten()
        count = min(len(norms) * self.active, flat.numel() - 1)
        top = flat.topk(count + 1).values
        return 0.5 * (top[-1] + top[-2]) if count > 0 else top[-1] - 1

    def observed(
        self,
        candidates: Candidates,
        codes: Float[Tensor, "batch k n"],
        error: Float[Tensor, "batch l"],
    ) -> Float[Tensor, ""]:
        return self.batch_threshold(candidates.norms)

    def track_(self, statistic: Float[Tensor, ""]) -> None:
        running_mean_(self.threshold, statistic, self.seen)


class BatchTopK(Threshold):
    """Keep the batch·`active` groups of largest norm in a training batch, and those above the threshold otherwise.

    References:
        Bussmann, Leask and Nanda, "BatchTopK sparse autoencoders", arXiv 2412.06410, 2024.
    """

    def kept(self, norms: Float[Tensor, "batch k"]) -> Bool[Tensor, "batch k"]:
        return norms > self.batch_threshold(norms) if self.training else super().kept(norms)


class SoftThreshold(Threshold):
    r"""Shorten the pre-code of every group by its threshold: a_i = u_i (1 − θ_i/‖u_i‖)₊.

    θ_i = θ·t_i, with learned t_i of geometric mean 1, one for each group. θ is chosen so that `active` groups are
    active on average: it is the multiplier of a constraint on their number. Training adds 0.6 θ Σ‖a_i‖ to ‖x − Φa‖², so
    that the threshold keeps the scale of the samples.

    References:
        Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    """

    def __init__(self, n_groups: int, active: int) -> None:
        super().__init__(n_groups, active)
        self.log_ratio = nn.Parameter(torch.zeros(n_groups))

    @property
    def scale(self) -> Float[Tensor, " m"] | None:
        return (self.log_ratio.mean() - self.log_ratio).detach().exp()

    def forward(self, candidates: Candidates, x: Float[Tensor, "batch l"], frames: Rows) -> Float[Tensor, "batch k n"]:
        level = self.level(self.batch_threshold(candidates.norms))
        ratio = (self.log_ratio - self.log_ratio.mean()).exp()[candidates.groups]
        lengths = torch.linalg.vector_norm(candidates.values, dim=2)
        tiny = torch.finfo(lengths.dtype).tiny
        return candidates.values * (1 - level * ratio / lengths.clamp_min(tiny)).clamp_min(0)[..., None]

    def price(self, codes: Float[Tensor, "batch k n"], statistic: Float[Tensor, ""]) -> Float[Tensor, " batch"]:
        return 2 * _PRICE * self.level(statistic) * torch.linalg.vector_norm(codes, dim=2).sum(dim=1)


def first(values: Float[Tensor, "batch k n"], count: int) -> Bool[Tensor, "k 1"]:
    """Return which slots are among the first `count`."""
    return (torch.arange(values.shape[1], device=values.device) < count)[:, None]


@torch.no_grad()
def running_mean_(mean: Float[Tensor, ""], value: Float[Tensor, ""], seen: Float[Tensor, ""]) -> None:
    """Include a value in a running mean, in place, and count it."""
    seen += 1
    mean.lerp_(value.to(mean), (1 / seen).clamp_min(_MEMORY).to(mean))
