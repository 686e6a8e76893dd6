"""Draw prepared samples from activations, in shuffled epochs."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from gramian.activations.samples.order import ShuffledOrder
from gramian.activations.samples.preparation import Preparation
from gramian.activations.store.reader import Activations
from gramian.errors import OptionError
from gramian.options import whole_number

__all__ = ["ActivationSampler", "split_held_out"]

_HELD_OUT = 0.05
"""Fraction of the samples that are held out of training."""


class ActivationSampler:
    """Draw samples in shuffled epochs: every sample once, then all again in another order.

    The samples are a pure function of seed, step and count: a resumed run draws the same ones, and there is no state.
    Several processes share every step: process r of p draws its part of the count·p samples that one process would
    draw, and no sample is drawn twice in an epoch.

    Args:
        activations: The samples.
        preparation: Their preparation; by default fitted to them.
        process: Index of this process, from 0.
        processes: Number of processes that share the samples.

    Attributes:
        preparation: Their preparation.

    Raises:
        OptionError: If there is no such process.
        DataError: If the samples are all equal, or not finite.

    Examples:
        >>> import torch
        >>> from gramian.activations import open_activations
        >>> sampler = ActivationSampler(open_activations(torch.randn(1000, 16)))
        >>> sampler.sample(5, seed=0, step=3).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        activations: Activations,
        preparation: Preparation | None = None,
        *,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        whole_number(processes, name="processes")
        if not whole_number(process, name="process", least=0) < processes:
            raise OptionError(f"process must be less than processes, {processes}; got {process}; try process=0")
        self.preparation = Preparation.fit(activations) if preparation is None else preparation
        self._activations = activations
        self._process, self._processes = process, processes

    @property
    def samples(self) -> int:
        """Number of samples of an epoch."""
        return len(self._activations)

    def sample(self, count: int, *, seed: int, step: int) -> Float[Tensor, "count l"]:
        """Draw the samples of a step.

        Args:
            count: Number of samples for this process.
            seed: Seed of the order.
            step: Number of the draw, from 0.

        Returns:
            Prepared samples [count, l] in float32.

        Raises:
            DataError: If a file is damaged.
        """
        first = (step * self._processes + self._process) * count
        rows = ShuffledOrder(len(self._activations), seed=seed).rows(first, count)
        return self.preparation.prepare(self._activations[rows])

    def batches(self, count: int, *, seed: int, step: int = 0) -> Iterator[Float[Tensor, "count l"]]:
        """Yield the samples of each step, from `step` on, without end."""
        while True:
            yield self.sample(count, seed=seed, step=step)
            step += 1

    def epoch(self, step: int, *, count: int) -> float:
        """Return the number of epochs that were drawn before a step."""
        return step * count * self._processes / len(self._activations)


def split_held_out(activations: Activations, *, fraction: float = _HELD_OUT) -> tuple[Activations, Activations]:
    """Split samples into those for training and those held out: the last ones, so that few texts are divided.

    Args:
        activations: All samples.
        fraction: Fraction to hold out, more than 0 and less than 1.

    Returns:
        Both parts; they share no sample.

    Raises:
        OptionError: If the fraction leaves no sample in one of the parts.

    Examples:
        >>> import torch
        >>> from gramian.activations import open_activations
        >>> [len(part) for part in split_held_out(open_activations(torch.randn(200, 4)))]
        [190, 10]
    """
    cut = len(activations) - max(1, round(fraction * len(activations))) if 0 < fraction < 1 else 0
    if cut < 1:
        raise OptionError(
            f"the fraction to hold out must leave samples in both parts; got {fraction:g} of {len(activations)}; try "
            "fraction=0.05 and more samples"
        )
    return activations.part(0, cut), activations.part(cut, len(activations))
