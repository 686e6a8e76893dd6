"""Threads for a loop over blocks that releases the interpreter lock: as many as torch uses at that time.

The threads are those of torch. After each operation these spin for some milliseconds, in which other threads would wait
for a processor. Where torch has no OpenMP, and in a forked child, whose parent's threads are gone, they are threads of
Python, which sleep while they are idle.

The threads claim pieces of the work one after the other. So a thread that starts late does less work.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from gramian.kernels.cpu.llvm import machine
from gramian.kernels.cpu.llvm.claims import Share, pack_claims, write_callback

__all__ = ["most_threads", "run_blocks", "run_compiled"]

_LEAST = 1 << 19
"""Fewest multiplications per thread: about 50 µs of work."""

_PIECES = 4
"""Number of pieces into which the work of a thread is split."""


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
    """Run a loop of the interpreter over independent blocks in several threads; in one if llvmlite is not installed.

    Args:
        loop: A function of the first block and the one after the last; it releases the interpreter lock.
        blocks: The number of blocks.
        multiplications: The number of multiplications of all blocks, a measure of the work.

    Raises:
        BaseException: What the loop raises, the first if several threads do. Other blocks may have run then.
    """
    if most_threads(blocks, multiplications) == 1 or not machine.is_installed() or sys.is_finalizing():
        loop(0, blocks)
        return
    failures: list[BaseException] = []

    def guarded(first: int, last: int) -> None:
        if not failures:
            try:
                loop(first, last)
            except BaseException as failure:  # ctypes would only print it
                failures.append(failure)

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(guarded)
    address = ctypes.cast(callback, ctypes.c_void_p).value or 0
    run_compiled(_callback(), [address], 0, blocks, multiplications)
    if failures:
        raise failures[0]


@cache
def _callback() -> Share:
    return machine.compile_function(write_callback())


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
