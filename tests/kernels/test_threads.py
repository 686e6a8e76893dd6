"""Threads of compiled kernels: those of torch, or idle ones of Python; and what survives a fork."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident

import pytest
import torch

import gramian
from gramian.kernels.cpu import threads
from gramian.kernels.cpu.llvm import claims, machine
from tests.kernels.cases import HAS_LLVM, KERNELS

over_compiled = pytest.mark.parametrize(
    "kernel", [pytest.param(name, marks=KERNELS[name].marks) for name in ("lanes", "outer")]
)


@pytest.fixture(scope="module")
def share() -> claims.Share:
    """A loop that counts in int64 numbers how often it was called for each block, and stores its scratch address."""
    if not HAS_LLVM:
        pytest.skip("needs llvmlite")
    arguments = "ptr %counts, ptr %places, ptr %scratch, i64 %first, i64 %last"
    loop = f"""
define void @run({arguments}) nounwind {{
entry:
  %address = ptrtoint ptr %scratch to i64
  br label %block
block:
  %i = phi i64 [ %first, %entry ], [ %next, %block ]
  %slot = getelementptr i64, ptr %counts, i64 %i
  %before = load i64, ptr %slot
  %after = add i64 %before, 1
  store i64 %after, ptr %slot
  %place = getelementptr i64, ptr %places, i64 %i
  store i64 %address, ptr %place
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %last
  br i1 %more, label %block, label %end
end:
  ret void
}}
"""
    return machine.compile_function(loop + claims.write_share(arguments, ""))


@pytest.fixture
def owner(request, monkeypatch) -> pytest.MonkeyPatch:
    """Let little work have several threads, which are torch's or Python's."""
    if not HAS_LLVM:
        pytest.skip("needs llvmlite")
    if request.param == "torch's" and threads._openmp() is None:
        pytest.skip("this torch has no OpenMP that can be called")
    monkeypatch.setattr(threads, "_LEAST", 1)
    monkeypatch.setattr(threads._Pool, "is_forked", request.param == "forked")
    if request.param == "Python's":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    return monkeypatch


over_owners = pytest.mark.parametrize("owner", ["torch's", "Python's", "forked"], indirect=True)


@over_owners
def test_every_block_of_a_compiled_loop_runs_once(request, owner, share) -> None:
    started = threading.active_count()
    for count in (1, 2, 3):
        owner.setattr(torch, "get_num_threads", lambda count=count: count)
        for start, stop, work in ((0, 1, 1000), (0, 2, 1000), (3, 10, 1000), (0, 1000, 1 << 40), (0, 1000, 2)):
            counts, places = torch.zeros(2, 1000, dtype=torch.int64)
            arguments = (counts.data_ptr(), places.data_ptr(), 1 << 20)
            threads.run_compiled(share, arguments, start, stop, work, room=64)
            expected = torch.zeros_like(counts)
            expected[start:stop] = 1
            assert torch.equal(counts, expected)
            most = threads.most_threads(stop - start, work)
            assert most <= min(count, stop - start, max(1, work))
            assert set(places[start:stop].tolist()) <= {(1 << 20) + 64 * member for member in range(most)}
    if "torch's" in request.node.name:
        assert threading.active_count() == started


@pytest.mark.skipif(sys.platform != "linux", reason="the library has another name")
def test_torch_lends_its_threads() -> None:
    assert torch.backends.openmp.is_available()
    assert threads._openmp() is not None


@over_owners
def test_every_block_runs_once_in_at_most_as_many_threads_as_torch_has(owner) -> None:
    for count in (1, 2, 3):
        owner.setattr(torch, "get_num_threads", lambda count=count: count)
        for blocks in (0, 1, 2, 7, 100):
            parts: list[tuple[int, int]] = []
            names: set[int] = set()
            threads.run_blocks(
                lambda first, last, parts=parts, names=names: (parts.append((first, last)), names.add(get_ident())),
                blocks, 1000,
            )  # fmt: skip
            assert sorted(i for first, last in parts for i in range(first, last)) == list(range(blocks))
            assert len(parts) <= (1 if count == 1 else threads._PIECES * count)
            assert len(names) <= count


def test_a_thread_of_python_that_has_not_started_is_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(threads, "_LEAST", 1)
    monkeypatch.setattr(threads, "_openmp", lambda: None)
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


@over_owners
@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_in_a_thread_is_raised(owner, bad, error) -> None:
    owner.setattr(torch, "get_num_threads", lambda: 2)

    def loop(first: int, last: int) -> None:
        if first <= bad < last:
            raise error

    with pytest.raises(error):
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
from gramian.kernels.cpu import threads
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

# Two threads: they are torch's, whatever the environment said when the process began.
torch.set_num_threads(2)
for _ in range(20):
    assert alike(run())
assert count() == before or threads._openmp() is None
print("two")

# Nothing spins for long.
busy = time.process_time()
time.sleep(0.5)
assert time.process_time() - busy < 0.1
print("idle")

# A child of a process that has used them: it starts threads of Python.
child = os.fork()
if child == 0:
    os._exit(0 if alike(run()) and count() <= before + (os.cpu_count() or 1) else 1)
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
