"""The lanes kernel: every penalty that it has instructions for, sizes, memory orders and dtypes, and its code."""

import math
import os
import re

import pytest
import torch
from torch import Tensor

import gramian
import gramian.errors
from gramian.kernels.cpu.lanes.loops import write_function
from gramian.kernels.cpu.lanes.plan import Plan
from gramian.kernels.cpu.llvm import machine
from gramian.kernels.cpu.llvm.functions import lane_function
from gramian.kernels.dispatch import choose
from gramian.penalties import L1, Elementwise, Frobenius, Huber, Penalty, SquaredFrobenius
from gramian.rules import proximal
from tests.cases import overcomplete_is_meant
from tests.kernels.cases import HAS_LLVM, draw

pytestmark = [overcomplete_is_meant, pytest.mark.skipif(not HAS_LLVM, reason="needs llvmlite")]

PENALTIES = (
    L1(), L1(diagonal=False), Huber(0.3), Huber(diagonal=False), SquaredFrobenius(), SquaredFrobenius(diagonal=False),
    3 * L1(), 2 * (L1(diagonal=False) + 0.5 * Huber(0.2)),
    0 * Huber(), L1() + 0.5 * SquaredFrobenius(), L1(diagonal=False) + 2 * Huber(0.2) + SquaredFrobenius(),
)  # fmt: skip


def frames(length: int, m: int, n: int) -> Tensor:
    """Orthonormal groups, each moved by less or more: the first ones hardly, the last ones far."""
    frames = torch.linalg.qr(torch.randn(m, length, n, dtype=torch.float64)).Q.permute(1, 0, 2)
    scale = torch.logspace(-3, 1, m, dtype=torch.float64)[None, :, None]
    return (frames + scale * torch.randn(length, m, n, dtype=torch.float64) / length**0.5).contiguous()


def logcosh(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(2 * x) - x - math.log(2)


def results(kernel: str, phi: Tensor, penalty: Penalty, lr: float) -> list[Tensor]:
    with gramian.kernels.use(kernel):
        stepped = phi.clone()
        loss = gramian.step_(stepped, lr=lr, beta=0.7, penalty=penalty)
        change = proximal(phi, lr=lr, beta=0.7, penalty=penalty)
        value, grad = gramian.value_and_grad(phi, beta=0.7, penalty=penalty)
    return [stepped, loss, change.change, change.loss, value, grad]


def agrees(kernel: str, phi: Tensor, penalty: Penalty, lr: float) -> None:
    for found, right in zip(results(kernel, phi, penalty, lr), results("reference", phi, penalty, lr), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


def agrees_in_every_memory_order(kernel: str, phi: Tensor) -> None:
    """Compare views of the same numbers, also with gaps between groups, which stay as they are."""
    length, m, n = phi.shape
    right = results("reference", phi, L1(), 0.1)
    gaps = torch.zeros(length, m, n + 3, dtype=torch.float64)
    gaps[:, :, :n] = phi
    columns = phi.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for view in (phi, phi.permute(1, 0, 2).contiguous().permute(1, 0, 2), gaps[:, :, :n], columns):
        for found, each in zip(results(kernel, view, L1(), 0.1), right, strict=True):
            torch.testing.assert_close(found, each, rtol=1e-12, atol=1e-12)
    with gramian.kernels.use(kernel):
        gramian.step_(gaps[:, :, :n], lr=0.1)
    assert not gaps[:, :, n:].any()


@pytest.mark.parametrize("penalty", PENALTIES, ids=repr)
def test_every_penalty_near_and_far(penalty) -> None:
    assert lane_function(penalty) is not None
    phi = frames(12, 37, 3)
    for lr in (0.0, 0.05, 1.0, math.inf):
        agrees("lanes", phi, penalty, lr)


@pytest.mark.parametrize("n", [*range(1, 9), *(pytest.param(n, marks=pytest.mark.slow) for n in (11, 16))])
def test_every_size_and_memory_order(n) -> None:
    for m in (1, 5, 66):
        agrees_in_every_memory_order("lanes", frames(41, m, n))


def test_other_penalties_use_its_products() -> None:
    phi = frames(12, 70, 4)
    for penalty in (Frobenius(), Frobenius(diagonal=False), Elementwise(logcosh, torch.tanh)):
        assert lane_function(penalty) is None
        agrees("lanes", phi, penalty, 0.1)


def test_a_subclass_of_a_known_penalty_is_not_known() -> None:
    class Other(L1):
        def value(self, X: Tensor) -> Tensor:
            return 2 * super().value(X)

    assert lane_function(Other()) is None
    assert lane_function(L1() + Other()) is None
    assert lane_function(2 * Other()) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n", [2, 3, 8])
def test_16_bits_are_rounded_once(dtype, n) -> None:
    phi = draw((30, 70, n), dtype)
    exact = phi.double()
    grad = gramian.value_and_grad(exact, penalty="squared_frobenius")[1]
    gramian.step_(exact, lr=0.01, penalty="squared_frobenius")
    with gramian.kernels.use("lanes"):
        found = gramian.value_and_grad(phi, penalty="squared_frobenius")[1]
        gramian.step_(phi, lr=0.01, penalty="squared_frobenius")
    for rounded, right in ((phi, exact), (found, grad)):
        # Half a unit in the last place, and the rounding of float32.
        bound = torch.finfo(dtype).eps / 2 * right.abs() + 2e-6
        assert ((rounded.double() - right).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_groups_that_overflow_are_halved_and_others_stepped(dtype) -> None:
    phi = frames(10, 40, 4).to(dtype)
    phi[:, 7] *= 1e25
    phi[0, 21] = math.nan
    phi[:, 22] *= 1e25
    plain, found = phi.clone(), phi.clone()
    with gramian.kernels.use("reference"):
        right = gramian.step_(plain, lr=0.1)
    with gramian.kernels.use("lanes"):
        loss = gramian.step_(found, lr=0.1)
    torch.testing.assert_close(loss, right, equal_nan=True)
    torch.testing.assert_close(found, plain, equal_nan=True, rtol=max(1e-5, 2 * torch.finfo(dtype).eps), atol=1e-5)
    assert torch.equal(found[:, 7], phi[:, 7] / 2)
    assert found[:, 21].isnan().all()


def test_a_step_is_the_same_with_and_without_other_groups() -> None:
    phi = frames(12, 64, 4)
    whole, single = phi.clone(), phi[:, 40:41].clone()
    gramian.step_(whole, lr=0.3)
    with gramian.kernels.use("reference"):
        gramian.step_(single, lr=0.3)
    torch.testing.assert_close(whole[:, 40:41], single, rtol=1e-12, atol=1e-12)


def test_writing_is_seen_by_autograd() -> None:
    phi = draw((8, 70, 4)).requires_grad_()
    out = (phi * phi).sum()
    gramian.step_(phi, lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_in_a_child_process() -> None:
    phi = draw((16, 70, 4), torch.float32)
    assert choose(phi, L1()).name == "lanes"
    before = phi.clone()
    child = os.fork()
    if child == 0:
        gramian.step_(phi, lr=0.1)
        os._exit(0 if not torch.equal(phi, before) else 1)
    assert os.waitpid(child, 0)[1] == 0


TARGETS = {
    "avx512": (
        "x86_64-unknown-linux-gnu", "skylake-avx512", 64, r"vf\w*(madd|sub)\w*ps.*%zmm|vmulps.*%zmm",
        r"v?(f\w+|mul)ss\b",
    ),
    "avx2": (
        "x86_64-unknown-linux-gnu", "haswell", 32, r"vf\w*(madd|sub)\w*ps.*%ymm|vmulps.*%ymm", r"v?(f\w+|mul)ss\b"
    ),
    "sse": ("x86_64-unknown-linux-gnu", "x86-64", 16, r"mulps.*%xmm", r"mulss\b"),
    "neon": ("aarch64-unknown-linux-gnu", "neoverse-n1", 16, r"(fmla|fmul)\s.*\.4s", r"(fmul|fmadd)\ss"),
}  # fmt: skip
"""Processors: triple, name, bytes of a vector, and the instructions that multiply vectors and single numbers."""


def assembly(triple: str, cpu: str, text: str) -> str:
    """Compile the loop of a module for another processor, without the function through which threads share it."""
    binding = pytest.importorskip("llvmlite.binding")
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        target = binding.Target.from_triple(triple)
    except RuntimeError:
        pytest.skip(f"this llvmlite has no {triple}")
    lines = target.create_target_machine(cpu=cpu, opt=3).emit_assembly(binding.parse_assembly(text))
    return re.split(r"^_?share:", lines, flags=re.MULTILINE)[0]


def innermost_loops(lines: list[str]) -> list[list[str]]:
    """Return the instructions of each innermost loop: from a label to a jump back to it, with no other label."""
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.?L\w+:", line)}
    found = []
    for i, line in enumerate(lines):
        target = re.search(r"\.L\w+", line)
        if target and line.split()[0].startswith(("j", "b")) and labels.get(target[0], i) < i:
            body = lines[labels[target[0]] + 1 : i]
            if not any(label in labels for label in (each.split(":")[0] for each in body)):
                found.append([each.strip() for each in body if each.startswith("\t")])
    return found


class TestCode:
    """What the compiler makes of the loops on processors other than this one."""

    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("n", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 8, 16))])
    @pytest.mark.parametrize("order", ["rows", "stack", "columns"])
    def test_is_vectorised(self, target, n, order) -> None:
        triple, cpu, size, product, single = TARGETS[target]
        for mode in ("step", "gradient"):
            dense = order == "rows"
            plan = Plan(n, "float", mode, lane_function(L1()).function, size, dense=dense, order=order)  # pyright: ignore
            lines = assembly(triple, cpu, write_function(plan)).splitlines()
            assert not any("call" in line.split() or "bl" in line.split() for line in lines)
            loops = innermost_loops(lines)
            vectors = [sum(re.match(product, line) is not None for line in loop) for loop in loops]
            singles = [sum(re.match(single, line) is not None for line in loop) for loop in loops]
            # Numbers are multiplied one by one only where vectors of a group end with rows that fill no vector.
            assert not any(both[0] and both[1] for both in zip(vectors, singles, strict=True))
            assert order == "columns" or not any(singles)
            counts = sorted(vectors)
            # Two passes over the rows, one for the Gram matrix and one for the result, each with all its products.
            pairs = min(12, n * (n + 1) // 2) if order == "columns" else plan.vectors * len(plan.parts[0])
            result = n * n if order == "columns" else plan.vectors * plan.width
            assert counts[-1] >= max(pairs, result)
            assert counts[-2] >= min(pairs, result)


def test_the_width_of_vectors_is_that_of_the_processor() -> None:
    assert machine.vector_bytes() in (16, 32, 64)


class TestOut:
    def test_gets_the_gradient(self) -> None:
        phi = draw((16, 70, 4))
        value, grad = gramian.value_and_grad(phi)
        for kernel in ("lanes", "reference"):
            with gramian.kernels.use(kernel):
                out = torch.full_like(phi, math.nan)
                found, same = gramian.value_and_grad(phi, out=out)
            assert same is out
            torch.testing.assert_close(out, grad)
            torch.testing.assert_close(found, value)

    @pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
    def test_gets_the_gradient_of_middle_sizes_in_any_order(self, axes) -> None:
        phi = draw((72, 270, 64))  # more than one batch of groups
        phi[3, 1] = math.nan
        value, grad = gramian.value_and_grad(phi)
        out = torch.full_like(phi.permute(axes), math.nan, memory_format=torch.contiguous_format)
        out = out.permute([axes.index(axis) for axis in range(3)])
        found, _ = gramian.value_and_grad(phi, out=out)
        torch.testing.assert_close(out, grad, equal_nan=True)
        torch.testing.assert_close(found, value, equal_nan=True)
        assert out[:, 1].isnan().all()

    def test_through_a_layout_that_is_not_a_view(self) -> None:
        weight = draw((24, 10, 2)).flatten(1)
        layout = gramian.Layout("o (a b) -> a () (b o)", a=2)
        out = torch.zeros_like(weight)
        gramian.value_and_grad(weight, layout=layout, out=out)
        torch.testing.assert_close(out, gramian.value_and_grad(weight, layout=layout)[1])

    def test_errors(self) -> None:
        phi = draw((16, 70, 4))
        with pytest.raises(gramian.errors.ShapeError, match=r"out must have the shape of phi, \[16, 70, 4\]"):
            gramian.value_and_grad(phi, out=phi.new_empty(16, 70, 3))
        with pytest.raises(gramian.errors.DtypeError, match="out must have the dtype and be on the device of phi"):
            gramian.value_and_grad(phi, out=phi.float())
        with pytest.raises(gramian.errors.ShapeError, match="out must not share memory with phi"):
            gramian.value_and_grad(phi, out=phi)
        with pytest.raises(gramian.errors.ShapeError, match="entries that share memory; got strides"):
            gramian.value_and_grad(phi, out=phi.new_empty(1, 1, 1).expand_as(phi))
