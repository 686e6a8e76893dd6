"""Numbers at the edge: overflow, and memory of any strides."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError
from gramian.kernels.dispatch import choose
from gramian.kernels.reference import apply
from tests.cases import over_all_penalties
from tests.kernels.cases import KERNELS

over_kernels = pytest.mark.parametrize(
    "kernel", ["reference", *(pytest.param(name, marks=KERNELS[name].marks) for name in KERNELS)]
)

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
        for rule in ("proximal", "polyak", "subgradient") if penalty.has_prox else ("polyak", "subgradient"):
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


def views(shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """Tensors with strides of every kind."""
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
@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
def test_any_strides_are_read_correctly(kernel, dtype) -> None:
    interpreted = kernel != "reference" and KERNELS[kernel].interpreted
    shape = {"panel": (24, 3, 20), "tiled": (24, 2, 20)}.get(kernel, (24, 5, 4) if interpreted else (24, 20, 4))
    for name, phi in views(shape).items():
        view = phi if dtype == phi.dtype else torch.empty_strided(phi.shape, phi.stride(), dtype=dtype)
        if dtype != phi.dtype:
            storage = phi.as_strided((phi.untyped_storage().nbytes() // 8,), (1,), 0).to(dtype)
            view = storage.as_strided(phi.shape, phi.stride(), phi.storage_offset())
        before = view.clone()
        copied = view.clone(memory_format=torch.contiguous_format)
        with gramian.kernels.use("reference"):
            value, grad = gramian.value_and_grad(copied, penalty="huber")
        with gramian.kernels.use(kernel):
            apart = kernel == "block_diagonal" and view.stride(1) != view.shape[2] * view.stride(2)
            if apart or (kernel == "lanes" and 1 not in (view.stride(0), view.stride(2))):
                with pytest.raises(OptionError, match="adjacent in memory"):
                    gramian.loss(view)
                continue
            found = gramian.value_and_grad(view, penalty="huber")
            chosen = choose(view, gramian.penalties.L1())
            X, moved = chosen.residual(view), chosen.apply(view, gramian.residual(copied))
        tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-2}
        torch.testing.assert_close(found[0], value, **tolerance, msg=name)
        torch.testing.assert_close(found[1], grad, **tolerance, msg=name)
        torch.testing.assert_close(X, gramian.residual(copied), **tolerance, msg=name)
        torch.testing.assert_close(moved, apply(copied, X), **tolerance, msg=name)
        assert torch.equal(view, before)
