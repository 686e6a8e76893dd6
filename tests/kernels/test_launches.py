"""Launches on a GPU, counted without one: meta tensors have no numbers, so that whatever would wait for one raises."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gramian
from gramian.kernels.dispatch import override
from gramian.kernels.gpu import configurations, launching
from gramian.kernels.gpu.fused import Fused
from gramian.kernels.gpu.products import Products
from gramian.kernels.gpu.registers import Registers
from gramian.kernels.gpu.tiled import Tiled
from gramian.kernels.reference import Reference
from gramian.penalties import as_penalty
from gramian.rules import restore
from tests.cases import overcomplete_is_meant
from tests.kernels.cases import HAS_TRITON

pytestmark = [overcomplete_is_meant, pytest.mark.skipif(not HAS_TRITON, reason="needs Triton 3.3")]

_WITHOUT_LAUNCH = {"empty", "empty_strided", "empty_like", "new_empty", "detach"}


class Operations(TorchDispatchMode):
    """Names the operations of torch that launch something on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if not func.is_view and name not in _WITHOUT_LAUNCH:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def operations(monkeypatch) -> Iterator[list[str]]:
    mode = Operations()
    monkeypatch.setattr(launching, "launch", lambda name, *_, **__: mode.names.append(name))
    monkeypatch.setattr(torch.autograd.graph, "increment_version", lambda _: None)
    monkeypatch.setattr("gramian.rules.apply.check_writable", lambda _: None)
    with mode:
        yield mode.names


SMALL, MEDIUM, TALL, LARGE, HUGE = (64, 4096, 4), (512, 64, 64), (4096, 1, 64), (512, 8, 128), (4096, 1, 4096)


THREE = ["fused_gram", "fused_factor", "fused_apply"]


@pytest.mark.parametrize(
    ("kernel", "shape", "dtype", "gradient", "step"),
    [
        (Registers, SMALL, torch.float32, ["whole_groups", "sum"], ["whole_groups", "sum"]),
        (Registers, SMALL, torch.bfloat16, ["whole_groups", "sum"], ["whole_groups", "sum"]),
        (Fused, MEDIUM, torch.bfloat16, ["fused_update", "sum"], THREE),
        (Fused, (512, 64, 32), torch.bfloat16, ["fused_update", "sum"], ["fused_update", "sum"]),
        (Fused, MEDIUM, torch.float32, ["fused_update", "sum"], THREE),
        (Fused, TALL, torch.float32, [*THREE, "sum"], THREE),
        (
            Products,
            LARGE,
            torch.float32,
            ["bmm", "residual_tiles", "invalidate", "sign_product", "sum"],
            ["symmetric_tiles", "limit_step", "baddbmm_"],
        ),
        (
            Products,
            LARGE,
            torch.bfloat16,
            ["_to_copy", "_to_copy", "bmm", "residual_tiles", "invalidate", "baddbmm", "sum"],
            ["symmetric_tiles", "limit_step", "bmm", "add"],
        ),
        (
            Tiled,
            HUGE,
            torch.bfloat16,
            ["symmetric_tiles", "invalidate", "baddbmm", "sum"],
            ["symmetric_tiles", "limit_step", "step_factor", "bmm", "add"],
        ),
        (
            Tiled,
            HUGE,
            torch.float32,
            ["symmetric_tiles", "invalidate", "sign_product", "sum"],
            ["symmetric_tiles", "limit_step", "step_factor", "baddbmm_"],
        ),
    ],
)
def test_launches(operations, kernel, shape, dtype, gradient, step) -> None:
    phi = torch.empty(shape, dtype=dtype, device="meta")
    with override(kernel()):
        gramian.value_and_grad(phi)
        assert operations == gradient
        operations.clear()
        gramian.step_(phi, lr=0.1)
        assert operations == step


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        ("proximal", torch.float32),
        ("proximal", torch.bfloat16),
        ("polyak", torch.float32),
        ("subgradient", torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (Registers, SMALL), (Fused, MEDIUM), (Fused, TALL), (Products, LARGE), (Products, (64, 2, 100)), (Tiled, HUGE),
        (Tiled, (1024, 2, 4096)), (Reference, (64, 5, 40)), (Reference, (40, 2, 64)),
    ],
    ids=lambda each: getattr(each, "name", str(each)),
)  # fmt: skip
def test_nothing_waits_for_the_device(operations, kernel, shape, rule, dtype) -> None:
    if rule == "polyak" and shape[2] > shape[0]:
        return
    for penalty in ("l1", "coherence") if kernel is not Tiled else ("l1", "huber"):
        phi = torch.empty(shape, dtype=dtype, device="meta")
        with override(kernel()):
            gramian.step_(phi, lr=0.1, rule=rule, penalty=penalty)
            gramian.loss(phi.requires_grad_(), penalty=penalty).backward()
    assert operations


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [(Registers, SMALL), (Fused, TALL), (Products, LARGE), (Tiled, HUGE), (Reference, (64, 5, 40))],
    ids=lambda each: getattr(each, "name", str(each)),
)
def test_a_learning_rate_on_the_device_is_not_read(operations, kernel, shape) -> None:
    phi, lr = torch.empty(shape, device="meta"), torch.empty((), device="meta")
    with override(kernel()):
        gramian.step_(phi, lr=0.1)
        launches = operations.copy()
        operations.clear()
        gramian.step_(phi, lr=lr)
        assert kernel is Reference or operations == launches
        for rule in ("subgradient", "polyak"):
            gramian.step_(phi, lr=lr, rule=rule)
        if kernel is not Tiled:
            gramian.step_(phi, lr=lr, penalty="coherence")


def test_a_learning_rate_on_the_device_gives_the_same_step(monkeypatch) -> None:
    monkeypatch.setattr("gramian.options._stays_on_device", lambda value: True)
    monkeypatch.setattr("gramian.kernels.gpu.products._ONE_PROGRAM", 40)
    for kernel, shape, dtype in (
        ("registers", (20, 3, 4), torch.float64),
        ("fused", (20, 3, 10), torch.float64),
        ("fused", (60, 1, 40), torch.float32),
        ("products", (40, 2, 40), torch.bfloat16),
        ("products", (50, 2, 41), torch.float64),
    ):
        phi = (torch.randn(shape, dtype=torch.float64) / shape[0] ** 0.5).to(dtype)
        expected = phi.clone()
        with gramian.kernels.use("reference"):
            loss = gramian.step_(expected, lr=0.03, beta=0.5)
        with gramian.kernels.use(kernel):
            found = gramian.step_(phi, lr=torch.tensor(0.03, dtype=torch.float64), beta=0.5)
        close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(phi, expected, rtol=close, atol=close)
        torch.testing.assert_close(found, loss, rtol=max(close, 1e-12), atol=0)


def test_a_restoration_waits_after_some_steps_only(monkeypatch) -> None:
    numbers = iter([9.0, 1e-1, 1e-2, 1e-4, 1e-8, 0.0, 0.0, 0.0])
    reads: list[int] = []
    original = restore._read
    monkeypatch.setattr(restore, "_read", lambda some: reads.append(len(some)) or original(some))

    class OnDevice:
        device = torch.device("cuda")

    def step(_penalty):
        number = torch.tensor(next(numbers))
        return OnDevice() if not reads and number == 9 else number

    done = restore.until_restored(step, as_penalty("l1"), dtype=torch.float32, length=9)
    assert (done.steps, done.stopped, reads) == (7, "converged", [2, 4])
    numbers = iter([torch.tensor(9.0), torch.tensor(1e-1), torch.tensor(0.0)])
    reads.clear()
    done = restore.until_restored(lambda _: next(numbers), as_penalty("l1"), dtype=torch.float32, length=9)
    assert (done.steps, done.stopped, reads) == (3, "converged", [1, 1])


def test_a_bfloat16_tensor_is_not_copied_to_float32(operations) -> None:
    phi = torch.empty(SMALL, dtype=torch.bfloat16, device="meta", requires_grad=True)
    with override(Registers()):
        gramian.step_(phi.detach(), lr=0.1)
        gramian.loss(phi)
    assert "_to_copy" not in operations


def test_waiting_would_be_noticed() -> None:
    numbers = torch.empty(3, device="meta")
    with pytest.raises(RuntimeError):
        numbers.sum().item()
    with pytest.raises(RuntimeError):
        numbers[numbers.argmax()]


class _Broken:
    """A function that Triton cannot compile."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.attempts = 0

    def __getitem__(self, grid):
        def launch(*_, **__):
            self.attempts += 1
            raise RuntimeError(self.message)

        return launch


@pytest.mark.parametrize(("kernel", "shape"), [(Registers, (20, 7, 4)), (Fused, (20, 3, 30)), (Products, (90, 2, 70))])
def test_torch_computes_what_triton_cannot_compile(monkeypatch, kernel, shape) -> None:
    broken = _Broken("PassManager::run failed")
    monkeypatch.setattr(launching, "_function", lambda _: broken)
    monkeypatch.setattr(launching, "interpreted", lambda: False)
    monkeypatch.setattr(launching, "_failures", {})
    phi = torch.randn(shape)
    expected, stepped = gramian.value_and_grad(phi), phi.clone()
    gramian.step_(stepped, lr=0.1)
    with override(kernel()):
        with pytest.warns(RuntimeWarning, match="Triton cannot compile .*; got RuntimeError: PassManager"):
            value, grad = gramian.value_and_grad(phi)
        attempts = broken.attempts
        gramian.value_and_grad(phi)  # without a second warning
        assert broken.attempts == attempts
        with pytest.warns(RuntimeWarning, match="Triton cannot compile"):
            gramian.step_(phi, lr=0.1)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(grad, expected[1])
    torch.testing.assert_close(phi, stepped)


def test_a_configuration_that_is_tried_fails_without_a_substitute(monkeypatch) -> None:
    monkeypatch.setattr(launching, "_function", lambda _: _Broken("out of resource: shared memory"))
    monkeypatch.setattr(launching, "interpreted", lambda: False)
    monkeypatch.setattr(launching, "_failures", {})
    with override(Registers()), configurations.trial({}), pytest.raises(configurations.TrialError, match="shared"):
        gramian.value_and_grad(torch.randn(20, 7, 4))
    assert not launching._failures


def test_an_error_of_the_device_is_not_hidden(monkeypatch) -> None:
    broken = _Broken("Triton Error [CUDA]: an illegal memory access was encountered")
    monkeypatch.setattr(launching, "_function", lambda _: broken)
    monkeypatch.setattr(launching, "interpreted", lambda: False)
    with override(Registers()), pytest.raises(RuntimeError, match="illegal memory access"):
        gramian.loss(torch.randn(20, 7, 4))


def test_a_launch_is_on_the_device_of_its_tensors(monkeypatch) -> None:
    entered = []

    class Device:
        def __init__(self, device) -> None:
            self.device = device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_) -> None:
            entered.append("left")

    class Function:
        def __getitem__(self, grid):
            return lambda *_, **__: entered.append("launched")

    monkeypatch.setattr(launching, "_on", Device)
    monkeypatch.setattr(launching, "_function", lambda _: Function())
    monkeypatch.setattr(launching, "interpreted", lambda: False)
    launching.launch("whole_groups", (1,), torch.empty(1), N=1)
    assert entered == [torch.device("cpu"), "launched", "left"]
