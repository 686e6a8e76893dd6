"""The order of samples in shuffled epochs, computed for any position without a table of all samples."""

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from gramian.options import whole_number

__all__ = ["ShuffledOrder"]

_BLOCK = 64
"""Number of neighbouring samples that are read together; with 384 numbers in float32 they are 98 KB."""

_BLOCKS = 256
"""Number of blocks among which samples are mixed."""


class ShuffledOrder:
    """A random order of n samples for every epoch, in two levels: blocks of neighbours, and samples within windows.

    An epoch visits every sample once. Blocks of 64 neighbouring samples are put into a random order, and each window of
    256 such blocks is shuffled. So only 256 places of a file are in use while a window is read, and files larger than
    memory are read in large pieces. Neighbours, such as the tokens of one text, are spread over 16,384 samples. The
    order is a pure function of seed and epoch.

    Args:
        samples: Number of samples n.
        seed: Seed of the order.

    Raises:
        OptionError: If n is less than 1, or the seed is not a whole number.

    Cost:
        8 n / 64 bytes for the order of the blocks of an epoch, and 131 KB for a window.

    Examples:
        >>> order = ShuffledOrder(1000, seed=0)
        >>> rows = order.rows(0, 1000)
        >>> sorted(rows.tolist()) == list(range(1000)), torch.equal(rows[500:510], order.rows(500, 10))
        (True, True)
    """

    def __init__(self, samples: int, *, seed: int) -> None:
        self._samples = whole_number(samples, name="samples")
        self._seed = whole_number(seed, name="seed", least=None)

    def rows(self, first: int, count: int) -> Int[Tensor, " count"]:
        """Return the rows at positions `first` to before `first + count` of all epochs one after the other.

        Args:
            first: First position, at least 0; position p is in epoch p // n.
            count: Number of rows.
        """
        parts: list[Tensor] = []
        while count > 0:
            epoch, place = divmod(first, self._samples)
            window, skipped = divmod(place, _BLOCK * _BLOCKS)
            part = _window(self._samples, self._seed, epoch, window)[skipped : skipped + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


@lru_cache(maxsize=8)
def _window(samples: int, seed: int, epoch: int, window: int) -> Tensor:
    """Return the rows of a window of an epoch."""
    size = _BLOCK * _BLOCKS
    first, last = window * size, min((window + 1) * size, samples)
    blocks, short = _blocks(samples, seed, epoch)
    # Only the block of the highest number may be short; after it, positions are shifted by what it lacks.
    lacking = -samples % _BLOCK
    positions = torch.arange(first, last)
    positions = torch.where(positions >= short * _BLOCK + _BLOCK - lacking, positions + lacking, positions)
    rows = blocks[positions // _BLOCK] * _BLOCK + positions % _BLOCK
    return rows[torch.randperm(len(rows), generator=_generator(seed, epoch, window + 1))]


@lru_cache(maxsize=4)
def _blocks(samples: int, seed: int, epoch: int) -> tuple[Tensor, int]:
    """Return the order of the blocks of an epoch, and the place of the last block in it."""
    count = -(-samples // _BLOCK)
    blocks = torch.randperm(count, generator=_generator(seed, epoch, 0))
    return blocks, int((blocks == count - 1).nonzero())


def _generator(*numbers: int) -> torch.Generator:
    """Return a generator whose seed mixes several numbers, each of which may be large."""
    state = 0
    for number in numbers:
        # SplitMix64: neighbouring seeds, epochs and windows give unrelated streams.
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)
