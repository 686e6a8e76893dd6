"""Sums of points on manifolds, and the recovery of their factors."""

import pytest
import torch

from gramian.coding import ManifoldSum, block_recovery
from gramian.coding.evaluation import MANIFOLDS
from gramian.errors import OptionError, ShapeError


class TestManifoldSum:
    def test_factors_and_their_frames(self) -> None:
        data = ManifoldSum()
        assert data.kinds.count("segment") == 64
        assert {data.kinds.count(kind) for kind in MANIFOLDS if kind != "segment"} == {9, 10}
        for i, dimension in enumerate(data.dimensions):
            frame = data.phi[:, i]
            expected = torch.zeros(3, dtype=torch.float64)
            expected[:dimension] = 1
            torch.testing.assert_close(frame.mT @ frame, expected.diag(), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("active", [1, 4])
    def test_samples_add_the_contributions_and_have_unit_power(self, active) -> None:
        data = ManifoldSum(active=active)
        samples = data.draw(20_000, seed=3)
        assert (samples.active.sum(dim=1) == active).all()
        assert torch.equal(samples.active, (samples.codes != 0).any(dim=2))
        torch.testing.assert_close(samples.x, samples.codes.flatten(1) @ data.phi.flatten(1).mT.float())
        assert samples.x.square().sum(dim=1).mean().item() == pytest.approx(1, abs=0.02)
        centre = samples.codes.sum(dim=0) / samples.active.sum(dim=0)[:, None]
        assert centre.abs().max() < 0.3 / active**0.5

    def test_noise_and_seeds(self) -> None:
        quiet, noisy = ManifoldSum(32, 8, 2), ManifoldSum(32, 8, 2, noise=0.5)
        difference = noisy.draw(5000, seed=1).x - quiet.draw(5000, seed=1).x
        assert difference.square().sum(dim=1).mean().item() == pytest.approx(0.25, rel=0.05)
        assert torch.equal(quiet.draw(10, seed=1).x, quiet.draw(10, seed=1).x)
        assert not torch.equal(quiet.draw(10, seed=1).x, quiet.draw(10, seed=2).x)
        assert not torch.equal(quiet.phi, ManifoldSum(32, 8, 2, seed=1).phi)

    def test_mistakes(self) -> None:
        with pytest.raises(OptionError, match="active must be at most the number of factors, 3; got 4"):
            ManifoldSum(32, 3, 4)
        with pytest.raises(OptionError, match="length must be at least 3"):
            ManifoldSum(2)


class TestRecovery:
    def test_the_truth_is_recovered_in_any_order_and_basis(self) -> None:
        data = ManifoldSum(48, 12, 2)
        samples = data.draw(500, seed=1)
        order = torch.randperm(12)
        turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
        phi, codes = data.phi[:, order] @ turn, samples.codes[:, order] @ turn.float()
        recovery = block_recovery(phi, codes, data.phi, samples.codes)
        torch.testing.assert_close(recovery.r2, torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-9)
        assert torch.equal(order[recovery.group], torch.arange(12))
        assert (recovery.f1 == 1).all()

    def test_a_group_of_two_factors_is_no_recovery(self) -> None:
        """Reconstruction is perfect, but the group contributes both factors."""
        phi = torch.eye(4, dtype=torch.float64)
        codes = torch.randn(4000, 4, 1, dtype=torch.float64) * (torch.rand(4000, 4, 1) < 0.5)
        both = block_recovery(phi.reshape(4, 2, 2), codes.reshape(4000, 2, 2), phi[:, :, None], codes)
        assert (both.r2 < 0.7).all()
        assert both.group.tolist() == [0, 0, 1, 1]

    def test_an_absent_factor_and_mistakes(self) -> None:
        phi, codes = torch.eye(4).reshape(4, 2, 2), torch.zeros(5, 2, 2)
        codes[:, 0] = torch.randn(5, 2)
        assert block_recovery(phi, codes, phi, codes).r2.isnan().tolist() == [False, True]
        with pytest.raises(ShapeError, match="got 5 and 4 samples"):
            block_recovery(phi, codes, phi, codes[:4])
