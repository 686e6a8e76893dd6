"""A few Python threads that share the blocks of a loop which releases the lock of the interpreter.

Their number is torch's at each call. An idle thread sleeps. After a fork the child starts threads of its own.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

__all__ = ["share"]

_LEAST = 1 << 20
"""Multiplications that are worth waking a thread for: some 100 µs."""


class _Pool:
    """The threads of this process, started when they are first needed."""

    executor: ThreadPoolExecutor | None = None


def _forget() -> None:
    _Pool.executor = None  # the threads of the parent do not live in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def share(loop: Callable[[int, int], None], blocks: int, multiplications: int) -> None:
    """Run a loop over blocks that do not meet, in as many threads as torch has and the work is worth.

    Args:
        loop: From the first block and the one after the last; it releases the interpreter's lock.
        blocks: How many there are.
        multiplications: Of all blocks together.
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
        # More threads than processors would gain nothing: what is asked for beyond them waits its turn.
        executor = _Pool.executor = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="gramian")
    try:
        return executor.submit(loop, first, last)
    except RuntimeError:  # the interpreter is shutting down, and starts no more threads
        done: Future[None] = Future()
        done.set_result(loop(first, last))
        return done
