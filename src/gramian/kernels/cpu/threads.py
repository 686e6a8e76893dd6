"""Python threads for a loop over blocks that releases the interpreter lock.

Each call uses as many threads as torch does at that time. Idle threads sleep. A forked child starts new threads.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import torch

__all__ = ["run_blocks"]

_LEAST = 1 << 20
"""Fewest multiplications per thread: about 100 µs of work."""

_PIECES = 4
"""Number of pieces into which the work of a thread is split."""


class _Pool:
    """The threads of this process, started at the first use."""

    executor: ThreadPoolExecutor | None = None


def _drop_executor() -> None:
    _Pool.executor = None  # a forked child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_executor)


def run_blocks(loop: Callable[[int, int], None], blocks: int, multiplications: int) -> None:
    """Run a loop over independent blocks in several threads: at most torch's number, and fewer for little work.

    The threads claim pieces of the work one after the other. So a thread that starts late, for example because a thread
    of torch still spins on its processor, does less work, and a thread that has not started at the end is not waited
    for.

    Args:
        loop: A function of the first block and the one after the last; it releases the interpreter lock.
        blocks: The number of blocks.
        multiplications: The number of multiplications of all blocks, a measure of the work.
    """
    parts = max(1, min(torch.get_num_threads(), blocks, multiplications // _LEAST))
    if parts == 1:
        loop(0, blocks)
        return
    pieces = min(_PIECES * parts, blocks)
    claims = count()  # its `next` is atomic

    def work() -> None:
        while (piece := next(claims)) < pieces:
            loop(blocks * piece // pieces, blocks * (piece + 1) // pieces)

    pending = [future for future in (_start(work) for _ in range(1, parts)) if future is not None]
    try:
        work()
    finally:
        for future in pending:
            if not future.cancel():
                future.result()


def _start(work: Callable[[], None]) -> Future[None] | None:
    executor = _Pool.executor
    if executor is None:
        # More threads than processors gain nothing: further tasks wait in the queue.
        executor = _Pool.executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="gramian")
    try:
        return executor.submit(work)
    except RuntimeError:  # the interpreter is shutting down and starts no threads
        return None
