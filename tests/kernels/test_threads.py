"""Threads of compiled kernels: as many as torch has, idle ones sleep, and a forked child starts new ones."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import gramian
from gramian.kernels.cpu import threads
from tests.kernels.cases import KERNELS

over_compiled = pytest.mark.parametrize(
    "kernel", [pytest.param(name, marks=KERNELS[name].marks) for name in ("lanes", "outer")]
)


def test_every_block_runs_once_in_at_most_as_many_threads_as_torch_has(monkeypatch) -> None:
    monkeypatch.setattr(threads, "_LEAST", 1)
    for count in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        for blocks in (0, 1, 2, 7, 100):
            parts: list[tuple[int, int]] = []
            threads.run_blocks(lambda first, last, parts=parts: parts.append((first, last)), blocks, 1000)
            assert sorted(i for first, last in parts for i in range(first, last)) == list(range(blocks))
            assert len(parts) <= (1 if count == 1 else threads._PIECES * count)


def test_a_thread_that_has_not_started_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(threads, "_LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with ThreadPoolExecutor(1) as busy:
        monkeypatch.setattr(threads._Pool, "executor", busy)
        release = threading.Event()
        busy.submit(release.wait, 60)
        parts: list[tuple[int, int]] = []
        threads.run_blocks(lambda first, last: parts.append((first, last)), 100, 1000)
        release.set()
    assert sorted(i for first, last in parts for i in range(first, last)) == list(range(100))


def test_little_work_runs_in_the_calling_thread(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    names = []
    threads.run_blocks(lambda *_: names.append(threading.current_thread().name), 100, 1000)
    assert names == [threading.current_thread().name]


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_in_a_thread_is_raised(monkeypatch, bad) -> None:
    monkeypatch.setattr(threads, "_LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def loop(first: int, last: int) -> None:
        if first <= bad < last:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.run_blocks(loop, 2, 100)


@over_compiled
def test_results_do_not_depend_on_the_number_of_threads(kernel) -> None:
    phi = torch.randn(64, 4096, 4)
    with gramian.kernels.use(kernel):
        expected = gramian.value_and_grad(phi)[1]
        try:
            torch.set_num_threads(2)
            assert torch.equal(gramian.value_and_grad(phi)[1], expected)
        finally:
            torch.set_num_threads(1)


@over_compiled
def test_number_of_threads_idle_time_and_forks(kernel) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, kernel], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["one", "two", "idle", "fork", "four"]


PROCESS = """
import os, sys, threading, time
import numpy as np
import torch, gramian
from gramian.kernels.dispatch import LADDER

phi = torch.randn(64, 4096, 4, generator=torch.Generator().manual_seed(0))
M = torch.randn(4096, 4, 4, generator=torch.Generator().manual_seed(1))
kernel = next(kernel for kernel in LADDER if kernel.name == sys.argv[1])

def run():
    return kernel.residual(phi), kernel.apply(phi, M)

def alike(found):
    # By NumPy: torch's own threads, OpenMP's, do not outlive a fork.
    return all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(found, expected))

def count():
    return threading.active_count()  # those of Python, as ours are: torch and its libraries start others

# One thread: none is started, and a second of wall time is at most a second of the processor's.
torch.set_num_threads(1)
before = count()
expected = run()
wall, busy = time.perf_counter(), time.process_time()
for _ in range(20):
    assert alike(run())
assert time.process_time() - busy <= 1.1 * (time.perf_counter() - wall) + 0.02
assert count() == before, (before, count())
print("one")

# Two threads: the pool starts at most one for each processor, whatever the environment said when the process began.
torch.set_num_threads(2)
started = threading.active_count()
for _ in range(20):
    assert alike(run())
assert threading.active_count() <= started + (os.cpu_count() or 1)
print("two")

# Nothing spins.
busy = time.process_time()
time.sleep(0.5)
assert time.process_time() - busy < 0.1
print("idle")

# A child of a process that has used them.
child = os.fork()
if child == 0:
    os._exit(0 if alike(run()) else 1)
assert os.waitpid(child, 0)[1] == 0
print("fork")

# Several threads of Python at once.
wrong = []
def many():
    torch.set_num_threads(2)
    for _ in range(10):
        if not alike(run()):
            wrong.append(1)
callers = [threading.Thread(target=many) for _ in range(4)]
[caller.start() for caller in callers]
[caller.join() for caller in callers]
assert not wrong
print("four")
"""
