"""Threads for a loop over blocks that releases the interpreter lock: as many as torch uses at that time.

Compiled loops run in the threads of torch. After each operation these spin for some milliseconds, in which other
threads would wait for a processor and one of these starts at once. Where torch has no OpenMP, in a forked child, whose
parent's threads are gone, and for loops of the interpreter the threads are Python's; idle ones sleep.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path

import torch

from gramian.kernels.cpu.llvm.claims import pack_claims

__all__ = ["Share", "most_threads", "run_blocks", "run_compiled"]

_LEAST = 1 << 19
"""Fewest multiplications per thread: about 50 µs of work."""

_PIECES = 4
"""Number of pieces into which the work of a thread is split."""

Share = Callable[[int], None]
"""A compiled function `share`, of the address of its claims; see `gramian.kernels.cpu.llvm.claims`."""


class _Pool:
    """The threads of Python of this process, started at the first use."""

    executor: ThreadPoolExecutor | None = None
    is_forked = False


def _after_fork() -> None:
    _Pool.executor, _Pool.is_forked = None, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run_compiled(
    share: Share, arguments: Sequence[int], start: int, stop: int, multiplications: int, *, room: int = 0
) -> None:
    """Run a compiled loop over independent blocks.

    Args:
        share: The function that threads call.
        arguments: The arguments of its loop.
        start: The first block.
        stop: The block after the last.
        multiplications: The number of multiplications of all blocks, a measure of the work.
        room: Bytes of scratch memory for each of `most_threads` threads.
    """
    parts = most_threads(stop - start, multiplications)
    pieces = 1 if parts == 1 else min(_PIECES * parts, stop - start)
    claims = pack_claims(arguments, start, stop, parts=parts, pieces=pieces, room=room)
    address = ctypes.addressof(claims)
    if parts == 1:
        share(address)
    elif (parallel := _openmp()) is not None and not _Pool.is_forked:
        # All threads of the team: OpenMP would end the others, and start them again for the next operation of torch.
        parallel(share, address, torch.get_num_threads(), 0)
    else:
        _run_in_python_threads(lambda: share(address), parts)


def most_threads(blocks: int, multiplications: int) -> int:
    """Return how many threads share a loop: at most torch's number, and fewer for little work."""
    return max(1, min(torch.get_num_threads(), blocks, multiplications // _LEAST))


def run_blocks(loop: Callable[[int, int], None], blocks: int, multiplications: int) -> None:
    """Run a loop of the interpreter over independent blocks in several threads.

    The threads claim pieces of the work one after the other. So a thread that starts late, for example because a thread
    of torch still spins on its processor, does less work, and a thread that has not started at the end is not waited
    for.

    Args:
        loop: A function of the first block and the one after the last; it releases the interpreter lock.
        blocks: The number of blocks.
        multiplications: The number of multiplications of all blocks, a measure of the work.
    """
    parts = most_threads(blocks, multiplications)
    if parts == 1:
        loop(0, blocks)
        return
    pieces = min(_PIECES * parts, blocks)
    claims = count()  # its `next` is atomic

    def work() -> None:
        while (piece := next(claims)) < pieces:
            loop(blocks * piece // pieces, blocks * (piece + 1) // pieces)

    _run_in_python_threads(work, parts)


@cache
def _openmp() -> Callable[..., None] | None:
    """Return the function that runs another one in each thread of torch's team; None if torch has none.

    Compilers call this function for a parallel region. It is looked up in torch's library and those that it needs, so
    that it is the one that torch itself calls, whatever other OpenMP libraries the process has loaded.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not torch.backends.openmp.is_available() or not library.exists():
        return None
    try:
        parallel = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


def _run_in_python_threads(work: Callable[[], None], parts: int) -> None:
    """Run a function in this thread and in others, and wait for those that have begun."""
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
