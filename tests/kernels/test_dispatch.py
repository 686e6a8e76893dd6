"""The choice of a kernel: `explain`, `use`, `watch` and `override`."""

import pytest
import torch

import gramian
from gramian.errors import OptionError
from gramian.kernels.dispatch import LADDER, override
from gramian.kernels.reference import Reference
from tests.cases import overcomplete_is_meant

pytestmark = overcomplete_is_meant


@pytest.mark.parametrize(
    ("shape", "strides", "penalty", "chosen"),
    [
        ((512, 1, 2048), None, "l1", "panel"),
        ((2048, 2, 1024), None, "huber", "panel"),
        ((2048, 4, 512), None, "huber", "outer"),
        ((64, 4096, 4), None, "l1", "lanes"),
        ((64, 4096, 1), None, "l1", "lanes"),
        ((64, 4096, 2), (2, 128, 1), "l1", "lanes"),  # [m, l, n]
        ((64, 4096, 4), (4, 256, 1), "l1", "lanes"),
        ((64, 4096, 4), (1, 256, 64), "l1", "lanes"),  # [m, n, l]
        ((64, 2048, 12), None, "l1", "outer"),
        ((64, 2048, 12), (1, 12 * 64, 64), "l1", "lanes"),  # [m, n, l]
        ((256, 16, 64), None, "l1", "outer"),
        ((256, 16, 64), (1, 64 * 256, 256), "l1", "batched"),  # [m, n, l]
        ((20, 2, 30), None, "l1", "batched"),
        ((8, 1, 3), None, "l1", "batched"),
    ],
)
def test_explain_predicts_the_kernel(shape, strides, penalty, chosen) -> None:
    explanation = gramian.kernels.explain(shape, strides=strides, penalty=penalty)
    assert explanation.chosen == chosen
    assert set(explanation.reasons) == {kernel.name for kernel in LADDER}
    assert explanation.reasons[chosen] == "used"
    assert explanation.flops == 3 * shape[0] * shape[1] * shape[2] ** 2
    assert chosen in str(explanation)
    phi = torch.empty_strided(shape, strides or torch.empty(shape, device="meta").stride()).normal_()
    with gramian.kernels.watch() as used:
        gramian.loss(phi, penalty=penalty)
    assert used == [chosen]


def test_without_llvmlite(monkeypatch) -> None:
    assert gramian.kernels.explain((64, 4096, 4)).chosen == "lanes"
    monkeypatch.setattr("gramian.kernels.cpu.llvm.machine.is_installed", lambda: False)
    explanation = gramian.kernels.explain((64, 4096, 4))
    assert explanation.chosen == "block_diagonal"
    for kernel in ("lanes", "outer"):
        assert "pip install 'gramian[fast]'" in explanation.reasons[kernel]


def test_device_code(monkeypatch) -> None:
    monkeypatch.setattr("gramian.kernels.gpu.epilogues.triton_version", lambda: (3, 3))  # whatever is installed
    on_gpu = gramian.kernels.explain((256, 192, 4), device="cuda")
    assert on_gpu.chosen == "registers"
    assert gramian.kernels.explain((512, 1, 2048), torch.bfloat16, "cuda").chosen == "tiled"
    assert gramian.kernels.explain((512, 1, 100), torch.bfloat16, "cuda").chosen == "products"
    wide = gramian.kernels.explain((256, 192, 4), torch.float64, "cuda")
    assert wide.reasons["fused"] == "the library of the device is faster in float64"
    assert gramian.kernels.explain((256, 192, 4)).reasons["fused"] == "Triton's interpreter is for tests"
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "CUDA" in gramian.kernels.explain((256, 192, 4)).reasons["fused"]
    monkeypatch.setattr("gramian.kernels.gpu.epilogues.triton_version", lambda: None)
    assert "comes with torch" in gramian.kernels.explain((256, 192, 4), torch.float16, "cuda").reasons["tiled"]
    monkeypatch.setattr("gramian.kernels.gpu.epilogues.triton_version", lambda: (3, 2))
    assert "needs Triton 3.3" in gramian.kernels.explain((256, 192, 4), torch.float32, "cuda").reasons["tiled"]


def test_on_another_device() -> None:
    explanation = gramian.kernels.explain((256, 16, 64), device="mps")
    assert explanation.chosen == "reference"
    assert "CPU" in explanation.reasons["lanes"]


def test_forced() -> None:
    phi = torch.randn(8, 2, 3)
    with gramian.kernels.use("panel"):
        assert gramian.kernels.explain(phi.shape).reasons["panel"] == "forced"
        with gramian.kernels.watch() as used, gramian.kernels.use("reference"):
            gramian.loss(phi)
        assert used == ["reference"]
        with gramian.kernels.watch() as used:
            gramian.loss(phi)
        assert used == ["panel"]
    assert gramian.kernels.explain(phi.shape).chosen == "batched"


def test_transforms_use_the_reference_even_when_another_is_forced() -> None:
    phi = torch.randn(3, 6, 2, 4)
    with gramian.kernels.use("lanes"), gramian.kernels.watch() as used:
        batched = torch.func.vmap(torch.func.grad(gramian.loss))(phi)
    assert set(used) == {"reference"}
    torch.testing.assert_close(batched[1], gramian.value_and_grad(phi[1])[1])


def test_errors() -> None:
    with pytest.raises(OptionError, match=r"the kernel must be one of 'tiled', .*; got 'triangle'"):
        gramian.kernels.use("triangle").__enter__()
    with pytest.raises(OptionError, match=r"shape and strides must be three sizes \(l, m, n\); got \(3, 4\)"):
        gramian.kernels.explain((3, 4))
    with gramian.kernels.use("lanes"), pytest.raises(OptionError, match="it is for n from 1 to 16; n is 17"):
        gramian.loss(torch.randn(20, 2, 17))


def test_the_printed_table_is_aligned() -> None:
    lines = str(gramian.kernels.explain((64, 4096, 64))).splitlines()
    assert len(lines) == len(LADDER) + 1
    assert {line.index("  ", len(line) - len(line.lstrip())) for line in lines[:-1]} == {len("block_diagonal")}


def test_override_uses_any_kernel_until_the_block_ends() -> None:
    class Other(Reference):
        name = "other"

    phi = torch.randn(8, 2, 3)
    with override(Other()), gramian.kernels.use("panel"), gramian.kernels.watch() as used:
        gramian.loss(phi)
    with gramian.kernels.watch() as used_later:
        gramian.loss(phi)
    assert (used, used_later) == (["other"], ["batched"])


@pytest.mark.parametrize("kernel", LADDER, ids=lambda kernel: kernel.name)
def test_a_kernel_streams_only_if_it_says_so(kernel) -> None:
    P = torch.eye(4)[:, :2]
    if kernel.streams_residual:
        assert torch.equal(kernel.residual_columns(P, torch.tensor([1])), torch.zeros(2, 1))
        return
    with pytest.raises(NotImplementedError):
        kernel.residual_columns(P, torch.tensor([1]))
    with pytest.raises(NotImplementedError):
        kernel.stream(P, torch.empty_like(P), gramian.penalties.L1(), lambda _, X: X, 1.0)
