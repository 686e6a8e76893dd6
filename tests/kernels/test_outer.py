"""The outer kernel: penalties near and far, sizes and strides, threads, widths of vectors, and its code."""

import math
import os
import re

import pytest
import torch
from torch import Tensor

import gramian
from gramian.kernels.cpu import threads
from gramian.kernels.cpu.llvm import machine
from gramian.kernels.cpu.llvm.functions import lane_function
from gramian.kernels.cpu.outer import running
from gramian.kernels.cpu.outer.loops import write_function
from gramian.kernels.cpu.outer.phases import write_phase
from gramian.kernels.cpu.outer.plan import Tiles
from gramian.kernels.dispatch import choose
from gramian.penalties import L1, Elementwise, Frobenius, Huber, SquaredFrobenius
from tests.cases import overcomplete_is_meant
from tests.kernels.cases import HAS_LLVM, draw
from tests.kernels.test_lanes import (
    TARGETS,
    agrees,
    agrees_in_every_memory_order,
    assembly,
    frames,
    innermost_loops,
    logcosh,
    results,
)

pytestmark = [overcomplete_is_meant, pytest.mark.skipif(not HAS_LLVM, reason="needs llvmlite")]

SLOW = (Huber(diagonal=False), SquaredFrobenius(), 3 * L1(diagonal=False), 0 * Huber())
PENALTIES = (
    L1(), L1(diagonal=False) + 2 * Huber(0.2) + SquaredFrobenius(),
    *(pytest.param(mu, marks=pytest.mark.slow) for mu in SLOW),
)  # fmt: skip


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_every_penalty_near_and_far(penalty) -> None:
    phi = frames(40, 7, 20)
    for lr in (0.0, 0.05, math.inf):
        agrees("outer", phi, penalty, lr)


@pytest.mark.parametrize("n", [12, 18])  # the products of lanes and of torch
def test_other_penalties_use_products_of_other_kernels(n) -> None:
    phi = frames(40, 3, n)
    for penalty in (Frobenius(), Elementwise(logcosh, torch.tanh)):
        agrees("outer", phi, penalty, 0.1)


@pytest.mark.parametrize("n", [9, 17, 40, *(pytest.param(n, marks=pytest.mark.slow) for n in (24, 31, 33, 64, 100))])
def test_sizes_and_strides(n) -> None:
    for length in (3, 70, 133):
        agrees_in_every_memory_order("outer", draw((length, 3, n)) if length < n else frames(length, 3, n))


def bits(phi: Tensor) -> list[Tensor]:
    return results("outer", phi, L1(), 0.1)


class TestSameBits:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_for_any_number_of_threads(self, monkeypatch, dtype) -> None:
        phi = frames(300, 1, 140).to(dtype)
        expected = bits(phi)
        phases: list[str] = []
        original = running._phase
        monkeypatch.setattr(running, "_phase", lambda plan, phase: phases.append(plan.mode) or original(plan, phase))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        monkeypatch.setattr(threads, "_LEAST", 1)
        for rate, least, modes in ((0.75, 1, {"step", "change", "gradient"}), (0.1, 1, set()), (0.75, 1 << 30, set())):
            # The two threads share the group, or one of them computes it.
            phases.clear()
            monkeypatch.setattr(running, "_SHARED_RATE", rate)
            monkeypatch.setattr(running, "_LEAST_SHARED", least)
            monkeypatch.setattr(running, "_LIBRARY_ROUNDS", math.inf)
            assert all(torch.equal(a, b) for a, b in zip(bits(phi), expected, strict=True))
            assert set(phases) == modes

    def test_for_a_shared_group_that_is_wide_or_has_a_nan(self, monkeypatch) -> None:
        wide, broken = draw((130, 1, 300)), frames(300, 1, 140)
        broken[3, 0, 5] = math.nan
        with gramian.kernels.use("outer"):
            expected = [gramian.value_and_grad(phi, penalty=PENALTIES[1]) for phi in (wide, broken)]
            monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
            monkeypatch.setattr(running, "_LEAST_SHARED", 1)
            found = [gramian.value_and_grad(phi, penalty=PENALTIES[1]) for phi in (wide, broken)]
        for pair, right in zip(found, expected, strict=True):
            torch.testing.assert_close(pair, right, rtol=0, atol=0, equal_nan=True)
        assert found[1][1].isnan().all()

    def test_for_rows_that_are_packed_in_parts(self, monkeypatch) -> None:
        phi = frames(200, 3, 20)
        expected = bits(phi)
        monkeypatch.setattr(running, "_PACKED", 1)
        assert all(torch.equal(a, b) for a, b in zip(bits(phi), expected, strict=True))


@pytest.mark.parametrize("width", [64, *(pytest.param(width, marks=pytest.mark.slow) for width in (16, 32))])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
def test_numbers_for_vectors_of_any_width(monkeypatch, width, dtype) -> None:
    monkeypatch.setattr(machine, "vector_bytes", lambda: width)  # LLVM splits those that the processor does not have
    phi = frames(90, 3, 72).to(dtype)
    exact = results("reference", phi.double(), SquaredFrobenius(), 0.1)
    rough = 1e-12 if dtype == torch.float64 else 1e-5
    for found, right in zip(results("outer", phi, SquaredFrobenius(), 0.1), exact, strict=True):
        assert (found.double() - right).abs().max() <= rough * right.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_groups_that_overflow_are_halved_and_others_stepped(dtype) -> None:
    phi = frames(40, 12, 20).to(dtype)
    phi[:, 7] *= 1e25
    phi[0, 9] = math.nan
    plain, found = phi.clone(), phi.clone()
    with gramian.kernels.use("reference"):
        right = gramian.step_(plain, lr=0.1)
    with gramian.kernels.use("outer"):
        loss = gramian.step_(found, lr=0.1)
        grad = gramian.value_and_grad(phi)[1]
    torch.testing.assert_close(loss, right, equal_nan=True)
    torch.testing.assert_close(found, plain, equal_nan=True, rtol=max(1e-5, 2 * torch.finfo(dtype).eps), atol=1e-5)
    assert torch.equal(found[:, 7], phi[:, 7] / 2)
    assert found[:, 9].isnan().all()
    assert grad[:, (7, 9)].isnan().all()
    assert grad[:, 8].isfinite().all()


def test_16_bits_are_rounded_once() -> None:
    phi = draw((60, 4, 20), torch.bfloat16)
    exact = phi.double()
    grad = gramian.value_and_grad(exact, penalty="squared_frobenius")[1]
    gramian.step_(exact, lr=0.01, penalty="squared_frobenius")
    with gramian.kernels.use("outer"):
        found = gramian.value_and_grad(phi, penalty="squared_frobenius")[1]
        gramian.step_(phi, lr=0.01, penalty="squared_frobenius")
    for rounded, right in ((phi, exact), (found, grad)):
        bound = torch.finfo(torch.bfloat16).eps / 2 * right.abs() + 1e-5
        assert ((rounded.double() - right).abs() <= bound).all()


def test_a_step_of_many_groups_holds_few_matrices(monkeypatch) -> None:
    sizes: list[int] = []
    original = torch.Tensor.new_empty

    def spy(self: Tensor, *size, **options) -> Tensor:
        result = original(self, *size, **options)
        sizes.append(result.numel())
        return result

    phi = frames(40, 7, 20)
    found, right = phi.clone(), phi.clone()
    with gramian.kernels.use("outer"), monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", spy)
        loss = gramian.step_(found, lr=0.1)
    assert sizes == [7]  # the values
    with gramian.kernels.use("reference"):
        torch.testing.assert_close(loss, gramian.step_(right, lr=0.1))
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


def test_writing_is_seen_by_autograd() -> None:
    phi = draw((64, 5, 32)).requires_grad_()
    assert choose(phi, L1()).name == "outer"
    out = (phi * phi).sum()
    gramian.step_(phi, lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_in_a_child_process() -> None:
    phi = draw((64, 5, 32), torch.float32)
    gramian.step_(phi, lr=0.1)
    before = phi.clone()
    child = os.fork()
    if child == 0:
        gramian.step_(phi, lr=0.1)
        os._exit(0 if not torch.equal(phi, before) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "phase", [None, *(pytest.param(phase, marks=pytest.mark.slow) for phase in ("gram", "factor", "multiply"))]
)
def test_tiles_are_whole_vectors_in_registers(target, phase) -> None:
    triple, cpu, size, product, _ = TARGETS[target]
    known = lane_function(L1())
    assert known is not None
    plan = Tiles("float", "step", known.function, size)
    text = write_function(plan) if phase is None else write_phase(plan, phase)
    lines = assembly(triple, cpu, text).splitlines()
    assert not any("call" in line.split() or "bl" in line.split() for line in lines)
    loops = innermost_loops(lines)
    counts = [sum(re.match(product, line) is not None for line in loop) for loop in loops]
    tiles = {v * rows for heights in (plan.gram, plan.product) for v, rows in enumerate(heights, 1)}
    if phase is None:
        assert tiles <= set(counts)
    for loop, count in zip(loops, counts, strict=True):
        if count in tiles and count > 2:
            assert not any(re.search(r"Spill|Reload|\(%rsp|\[sp", line) for line in loop), (count, loop)
