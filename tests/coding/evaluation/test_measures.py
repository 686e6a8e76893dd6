"""How dictionaries are judged: answers that are known in advance."""

import math

import pytest
import torch

from gramian.coding import group_norms, group_state, reconstruct, refit, snr, strongest_groups, within_group_cosines
from gramian.errors import OptionError
from gramian.images.evaluation import gratings, phase_response, random_groups, shift_control
from tests.cases import stiefel


def test_snr() -> None:
    x = torch.randn(10, 20)
    assert snr(x, x + 0.1 * x) == pytest.approx(20, abs=1e-3)
    assert snr(x, torch.zeros_like(x)) == pytest.approx(0, abs=1e-6)


class TestSupport:
    def test_the_strongest_groups(self) -> None:
        codes = torch.tensor([[[3.0, 0.0], [2.0, 2.0], [0.0, 4.0], [1.0, 1.0]]])
        kept = strongest_groups(codes, 4)
        assert kept.tolist() == [[[3.0, 0.0], [0.0, 0.0], [0.0, 4.0], [0.0, 0.0]]]

    @pytest.mark.parametrize("active", [0, 1, 3, 10])
    def test_a_number_that_is_none(self, active) -> None:
        with pytest.raises(OptionError, match=r"active must be a multiple of the group size n = 2, at most 8; got"):
            strongest_groups(torch.ones(1, 4, 2), active)

    def test_refit_is_least_squares_on_the_support(self) -> None:
        phi, x = torch.randn(12, 5, 2), torch.randn(6, 12)
        codes = torch.randn(6, 5, 2)
        fitted = refit(x, phi, strongest_groups(codes, 4))
        for sample in range(6):
            groups = group_norms(codes)[sample].topk(2).indices
            atoms = phi[:, groups].flatten(1)
            best = torch.linalg.lstsq(atoms.double(), x[sample].double()).solution
            torch.testing.assert_close(fitted[sample, groups].flatten().double(), best, rtol=1e-3, atol=1e-3)
            assert fitted[sample].count_nonzero() == 4

    @pytest.mark.parametrize("size", [1.0, 1e4, 1e-4])
    def test_refit_of_collapsed_groups(self, size) -> None:
        phi, x = size * torch.randn(12, 5, 1).expand(12, 5, 2), torch.randn(6, 12)
        fitted = refit(x, phi, strongest_groups(torch.rand(6, 5, 2), 4))
        assert fitted.isfinite().all()
        assert snr(x, reconstruct(phi, fitted)) > 0


class TestGroups:
    def test_orthonormal(self) -> None:
        state = group_state(stiefel(20, 6, 4).float())
        assert state.largest_cosine < 1e-6
        assert state.collapsed == 0
        assert state.effective_rank == pytest.approx(4, abs=1e-4)

    def test_collapsed(self) -> None:
        phi = stiefel(20, 4, 2).float()
        phi[:, 1, 1] = -2 * phi[:, 1, 0]
        state = group_state(phi)
        assert state.collapsed == 0.25
        assert state.largest_cosine == pytest.approx(1, abs=1e-5)
        assert state.median_cosine < 1e-6
        assert state.effective_rank == pytest.approx((3 * 2 + 1) / 4, abs=1e-3)

    def test_single_atoms(self) -> None:
        state = group_state(torch.randn(20, 6, 1))
        assert (state.median_cosine, state.largest_cosine, state.collapsed) == (0, 0, 0)
        assert within_group_cosines(torch.randn(20, 6, 1)).shape == (6, 0)

    def test_cosines_do_not_depend_on_length(self) -> None:
        phi = torch.randn(20, 6, 3)
        torch.testing.assert_close(within_group_cosines(phi), within_group_cosines(phi * torch.rand(6, 3).add(0.1)))


class TestInvariance:
    def quadrature(self, size: int = 12) -> torch.Tensor:
        """Two groups, each a sine and a cosine of one grating; regrouped they mix orientations."""
        phases = torch.tensor([0.0, math.pi / 2])
        pairs = [gratings(size, 0.25, math.pi * k / 12, phases).mT for k in (0, 3, 6, 9)]
        phi = torch.stack(pairs, dim=1)
        return phi / torch.linalg.vector_norm(phi, dim=0)

    def test_a_quadrature_pair_does_not_see_the_phase(self) -> None:
        response = phase_response(self.quadrature(), lam=0.5)
        assert response.variation.learned < 0.05
        assert response.variation.single > 0.4
        assert response.variation.random_groups > 2 * response.variation.learned
        assert response.amplitude.std() / response.amplitude.mean() < 0.1
        assert response.coefficient.min() < 0.2 * response.coefficient.max()
        assert response.phases.shape == response.amplitude.shape

    def test_random_groups_keep_the_coefficients(self) -> None:
        codes = torch.randn(5, 6, 2)
        mixed = random_groups(codes, seed=1)
        torch.testing.assert_close(mixed.flatten(1).sort().values, codes.flatten(1).sort().values)
        assert not torch.equal(mixed, codes)
        assert torch.equal(mixed, random_groups(codes, seed=1))

    def test_codes_that_only_turn_within_their_groups(self) -> None:
        amplitude, angle = torch.rand(200, 5) + 0.1, 6.3 * torch.rand(2, 200, 5)
        codes, moved = (torch.stack([amplitude * turn.cos(), amplitude * turn.sin()], dim=-1) for turn in angle)
        control = shift_control(codes, moved)
        assert control.learned == pytest.approx(1, abs=1e-6)
        assert control.random_groups < 0.8
        assert control.single < 0.8
