"""Python threads for a loop over blocks that releases the interpreter lock.

Each call uses as many threads as torch does at that time. Idle threads sleep. A forked child starts new threads.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

__all__ = ["run_blocks"]

_LEAST = 1 << 20
"""Fewest multiplications per thread: about 100 µs of work."""


class _Pool:
    """The threads of this process, started at the first use."""

    executor: ThreadPoolExecutor | None = None


def _drop_executor() -> None:
    _Pool.executor = None  # a forked child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_executor)


def run_blocks(loop: Callable[[int, int], None], blocks: int, multiplications: int) -> None:
    """Run a loop over independent blocks in several threads: at most torch's number, and fewer for little work.

    Args:
        loop: A function of the first block and the one after the last; it releases the interpreter lock.
        blocks: The number of blocks.
        multiplications: The number of multiplications of all blocks, a measure of the work.
    """
    parts = max(1, min(torch.get_num_threads(), blocks, multiplications // _LEAST))
    ends = [blocks * part // parts for part in range(parts + 1)]
    pending = [_start(loop, ends[part], ends[part + 1]) for part in range(1, parts)]
    try:
        loop(0, ends[1])
    finally:
        for future in pending:
            future.result()


def _start(loop: Callable[[int, int], None], first: int, last: int) -> Future[None]:
    executor = _Pool.executor
    if executor is None:
        # More threads than processors gain nothing: further tasks wait in the queue.
        executor = _Pool.executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="gramian")
    try:
        return executor.submit(loop, first, last)
    except RuntimeError:  # the interpreter is shutting down and starts no threads
        done: Future[None] = Future()
        done.set_result(loop(first, last))
        return done
