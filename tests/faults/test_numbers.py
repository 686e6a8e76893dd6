"""Numbers at the edge: overflow, odd strides, forks, and threads that are as many as torch says."""

import importlib.util
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError
from gramian.kernels import threads
from tests.cases import over_all_penalties

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs Numba")

KERNELS = (
    *("panel", "folded", "whole", "dense"),
    pytest.param("lanes", marks=needs_numba),
    *(pytest.param(name, marks=needs_triton) for name in ("fused", "tiled")),
)

over_kernels = pytest.mark.parametrize("kernel", KERNELS)

over_big = pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e20), (torch.float32, 1e38), (torch.float64, 1e160), (torch.bfloat16, 1e30)],
    ids=str,
)


class TestOverflow:
    @over_big
    @pytest.mark.parametrize("n", [1, 8, 40])
    def test_a_step_halves_a_finite_group(self, dtype, size, n) -> None:
        phi = torch.rand(64, 3, n, dtype=torch.float64) / 8
        phi[:, 1] *= size
        phi = phi.to(dtype)
        alone, before = phi[:, ::2].clone(), phi.clone()
        loss = gramian.step_(phi, lr=0.1)
        assert not loss.isfinite()
        assert torch.equal(phi[:, 1], before[:, 1] / 2)
        gramian.step_(alone, lr=0.1)
        torch.testing.assert_close(phi[:, ::2], alone)
        for _ in range(2000):
            gramian.step_(phi, lr=math.inf)
            if gramian.residual(phi).abs().max() < 0.05:
                break
        assert gramian.residual(phi).abs().max() < 0.05

    @over_all_penalties
    def test_for_every_penalty(self, case) -> None:
        phi, penalty = 1e20 * torch.randn(64, 2, 8), case.at(2, 8)
        for rule in ("proximal", "polyak", "subgradient") if penalty.has_shrink else ("polyak", "subgradient"):
            gramian.step_(phi, lr=0.1, rule=rule, penalty=penalty)
            assert phi.isfinite().all()
            phi[:, 1] = 1e20 * torch.randn(64, 8)

    @pytest.mark.filterwarnings("ignore::gramian.errors.OvercompleteWarning")
    def test_in_panels(self) -> None:
        phi = 1e20 * torch.rand(8, 1, 1030)
        before = phi.clone()
        with gramian.kernels.watch() as used:
            gramian.step_(phi, lr=0.1)
        assert used == ["panel"]
        assert torch.equal(phi, before / 2)
        phi[3, 0, 5] = math.inf
        gramian.step_(phi, lr=0.1)
        assert phi.isnan().all()

    @pytest.mark.parametrize("rule", ["polyak", "subgradient"])
    def test_the_rules_without_a_bound_leave_it_alone(self, rule) -> None:
        phi = torch.rand(64, 3, 8)
        phi[:, 1] *= 1e20
        before = phi.clone()
        gramian.step_(phi, lr=0.1, rule=rule)
        assert torch.equal(phi[:, 1], before[:, 1])
        assert (phi[:, ::2] != before[:, ::2]).any()

    @pytest.mark.parametrize("rule", ["proximal", "polyak", "subgradient"])
    @pytest.mark.parametrize("n", [4, 40])
    def test_an_infinite_entry_still_fills_its_group(self, rule, n) -> None:
        phi = torch.rand(64, 2, n) * 1e20
        phi[5, 1, 0] = math.inf
        gramian.step_(phi, lr=0.1, rule=rule)
        assert phi[:, 0].isfinite().all()
        assert phi[:, 1].isnan().all()


SHAPES = {"panel": (24, 3, 20), "tiled": (24, 2, 20)}


def views(shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """Memory of every kind that a tensor can be read from."""
    length, m, n = shape
    base = torch.randn(length * 2, m * 2, n * 2, dtype=torch.float64) / length**0.5
    line = torch.randn(length + m + n, dtype=torch.float64) / length**0.5
    return {
        "contiguous": base[:length, :m, :n].contiguous(),
        "every other": base[::2, ::2, ::2],
        "[m, n, l]": base[:length, :m, :n].permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "[n, l, m]": base[:length, :m, :n].permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "one group for all": base[:length, :1, :n].expand(shape),
        "one vector for all": base[:length, :m, :1].expand(shape),
        "one coordinate for all": base[:1, :m, :n].expand(shape),
        "one number": base[:1, :1, :1].expand(shape),
        "overlapping": line.as_strided(shape, (1, 1, 1)),
        "overlapping rows": line.as_strided(shape, (n // 2, 1, 1)) if n // 2 * length < len(line) else line.as_strided(
            shape, (1, 0, 1)
        ),
        "of no first element": base.flatten()[7:].as_strided(shape, (m * n, n, 1), 7),
    }  # fmt: skip


@over_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_any_memory_is_read_rightly(kernel, dtype) -> None:
    for name, phi in views(SHAPES.get(kernel, (24, 20, 4))).items():
        view = phi if dtype == phi.dtype else torch.empty_strided(phi.shape, phi.stride(), dtype=dtype)
        if dtype != phi.dtype:
            storage = phi.as_strided((phi.untyped_storage().nbytes() // 8,), (1,), 0).to(dtype)
            view = storage.as_strided(phi.shape, phi.stride(), phi.storage_offset())
        before = view.clone()
        copied = view.clone(memory_format=torch.contiguous_format)
        with gramian.kernels.use("dense"):
            value, grad = gramian.value_and_grad(copied, penalty="huber")
        with gramian.kernels.use(kernel):
            if kernel == "folded" and view.stride(1) != view.shape[2] * view.stride(2):
                with pytest.raises(OptionError, match="not neighbours in memory"):
                    gramian.loss(view)
                continue
            found = gramian.value_and_grad(view, penalty="huber")
            chosen = gramian.kernels.choose(view, gramian.penalties.L1())
            X, moved = chosen.residual(view), chosen.apply(view, gramian.residual(copied))
        tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-2}
        torch.testing.assert_close(found[0], value, **tolerance, msg=name)
        torch.testing.assert_close(found[1], grad, **tolerance, msg=name)
        torch.testing.assert_close(X, gramian.residual(copied), **tolerance, msg=name)
        torch.testing.assert_close(moved, gramian.kernels.dense.apply(copied, X), **tolerance, msg=name)
        assert torch.equal(view, before)


class TestThreads:
    def test_every_block_is_done_once_and_by_no_more_threads_than_torch_has(self, monkeypatch) -> None:
        monkeypatch.setattr(threads, "_LEAST", 1)
        for count in (1, 2, 3):
            monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
            for blocks in (0, 1, 2, 7, 100):
                parts: list[tuple[int, int]] = []
                threads.share(lambda first, last, parts=parts: parts.append((first, last)), blocks, 1000)
                assert sorted(i for first, last in parts for i in range(first, last)) == list(range(blocks))
                assert len(parts) == max(1, min(count, blocks))

    def test_little_work_wakes_nobody(self, monkeypatch) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
        names = []
        threads.share(lambda *_: names.append(threading.current_thread().name), 100, 1000)
        assert names == [threading.current_thread().name]

    @pytest.mark.parametrize("bad", [0, 1])
    def test_what_goes_wrong_in_a_thread_is_raised(self, monkeypatch, bad) -> None:
        monkeypatch.setattr(threads, "_LEAST", 1)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

        def loop(first: int, last: int) -> None:
            if first <= bad < last:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            threads.share(loop, 2, 100)

    @needs_numba
    def test_the_bits_do_not_depend_on_their_number(self) -> None:
        phi = torch.randn(64, 4096, 4)
        with gramian.kernels.use("lanes"):
            expected = gramian.value_and_grad(phi)[1]
            try:
                torch.set_num_threads(2)
                assert torch.equal(gramian.value_and_grad(phi)[1], expected)
            finally:
                torch.set_num_threads(1)

    @needs_numba
    def test_in_processes_of_their_own(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", PROCESS], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["one", "two", "idle", "fork", "four"]


PROCESS = """
import os, sys, threading, time
import numpy as np
import torch, gramian
from gramian.kernels.lanes import Lanes

phi = torch.randn(64, 4096, 4, generator=torch.Generator().manual_seed(0))
M = torch.randn(4096, 4, 4, generator=torch.Generator().manual_seed(1))
lanes = Lanes()

def run():
    return lanes.residual(phi), lanes.apply(phi, M)

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

# Two threads: one more, whatever the environment said when the process began.
torch.set_num_threads(2)
started = threading.active_count()
for _ in range(20):
    assert alike(run())
assert threading.active_count() <= started + 1
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
