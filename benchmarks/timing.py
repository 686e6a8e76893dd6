"""Time functions in turn, in one process, on tensors in any memory order."""

import math
import random
import time
from statistics import median

import torch
from peers import Work

from gramian.typing import Phi

__all__ = ["CACHE", "LAYOUTS", "draw", "draw_in_order", "in_turn", "rates", "seconds"]

LAYOUTS = {"l m n": (0, 1, 2), "m l n": (1, 0, 2), "(m n) l": (1, 2, 0)}
"""Memory orders, as axes of Φ."""

CACHE = 1 << 25
"""Bytes above which Φ is larger than the caches."""


def seconds(work: object) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def draw(shape: tuple[int, int, int]) -> Phi:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) / math.sqrt(shape[0])


def draw_in_order(shape: tuple[int, int, int], axes: tuple[int, int, int]) -> Phi:
    """Draw Φ whose axes are in a memory order."""
    return draw(shape).permute(*axes).contiguous().permute(*(axes.index(axis) for axis in range(3)))


def rates() -> tuple[float, float]:
    """Measure flops per second of a float32 product, and bytes per second of a copy from memory."""
    a, b, c = (torch.randn(2048, 2048) for _ in range(3))
    source, target = (torch.zeros(1 << 25) for _ in range(2))
    product = median(seconds(lambda: torch.mm(a, b, out=c)) for _ in range(15))
    copy = median(seconds(lambda: target.copy_(source)) for _ in range(15))
    return 2 * 2048**3 / product, 2 * 4 * 2**25 / copy


def in_turn(works: dict[str, Work], patience: float, *, warm: bool = False) -> dict[str, float]:
    """Return the median seconds of each, timed in turn, in a new random order in each round.

    Args:
        works: The functions.
        patience: Seconds that the rounds take together, about.
        warm: Whether each function is called twice in a turn and the second call timed. After a function of another
            size a short call takes up to five times as long, because its code is no longer in the caches.
    """
    order, shuffle = list(works), random.Random(0).shuffle
    first = sum(seconds(work) for work in works.values())
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(max(5, min(60, int(patience / first)))):
        shuffle(order)
        for name in order:
            if warm:
                works[name]()
            times[name].append(seconds(works[name]))
    return {name: median(durations) for name, durations in times.items()}
