"""The hard constraint: from any scale, with free lengths, and where it cannot be met."""

import math

import pytest
import torch

import gramian
from gramian import foreach
from gramian.penalties import L1


class TestRestore:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_from_any_scale(self, dtype) -> None:
        starts = [scale * torch.randn(32, 3, 8).to(dtype) for scale in (1, 30, 1e-3)]
        expected = torch.stack([gramian.loss(start) for start in starts]).sum()
        done = foreach.restore_(starts)
        assert done.converged
        assert done.steps < 40
        torch.testing.assert_close(done.loss, expected)
        for start in starts:
            assert gramian.residual(start).abs().max() < 4 * torch.finfo(dtype).eps
        assert foreach.restore_(starts).steps == 2

    def test_it_is_the_penalty_that_says_what_is_held(self) -> None:
        phi = 1.88 * torch.linalg.qr(torch.randn(24, 4))[0].contiguous() + 0.02 * torch.randn(24, 4)
        assert foreach.restore_([phi], penalty=L1(diagonal=False)).converged
        X = gramian.residual(phi)[0]
        assert (X - X.diag().diag()).abs().max() < 1e-6
        assert (X.diag() + 1).sqrt().min() > 1.7  # lengths are free

    def test_lengths_that_are_free_are_what_they_were(self) -> None:
        phi = torch.randn(24, 4) * torch.tensor([0.01, 1.0, 3.0, 50.0])
        before = torch.linalg.vector_norm(phi, dim=0)
        done = foreach.restore_([phi], penalty=L1(diagonal=False))
        assert done.converged
        assert done.steps < 12
        torch.testing.assert_close(torch.linalg.vector_norm(phi, dim=0), before)
        cosines = (phi / before).mT @ (phi / before)
        assert (cosines - torch.eye(4)).abs().max() < 1e-6

    @pytest.mark.parametrize("penalty", [L1(), L1(diagonal=False)], ids=["l1", "free lengths"])
    def test_of_a_copy_each_step_sees_the_last(self, penalty) -> None:
        weight = torch.randn(6, 4)
        layout = gramian.Layout("(a b) c -> (c a) () b", a=2)  # no strides lay it out so
        assert layout.to_phi(weight).data_ptr() != weight.data_ptr()
        assert foreach.restore_([weight], penalty=penalty, layouts=layout).converged
        X = gramian.residual(weight, layout=layout)[0]
        assert penalty.penalized(X).abs().max() < 1e-5

    def test_it_ends_where_nothing_is_to_be_won(self) -> None:
        for start, stopped in ((torch.ones(8, 4), "no progress"), (torch.full((8, 4), math.nan), "not finite")):
            done = foreach.restore_([start])
            assert (done.converged, done.stopped) == (False, stopped)
            assert done.steps < 40
        assert foreach.restore_([torch.randn(8, 4)], max_steps=3).stopped == "most steps"

    def test_losses_of_several_devices_add_up(self) -> None:
        total, _ = foreach.value_and_grad([torch.randn(4, 2, device="meta"), torch.randn(4, 2)])
        assert total.device.type == "meta"
