"""Gabor fits: planted functions are found again, noise is not fitted, and planted pairs agree."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from gramian.coding import initial_dictionary
from gramian.errors import ShapeError
from gramian.images.evaluation import GaborFit, fit_gabor, group_agreement

NAMES = [field.name for field in fields(GaborFit)]


def planted(m: int, n: int, *, seed: int, quadrature: bool = False) -> GaborFit:
    """Gabor functions of many kinds; with `quadrature` those of a group differ only in phase, by 180°/n."""
    random = np.random.default_rng(seed)
    ranges = {
        "row": (3, 12),
        "column": (3, 12),
        "orientation": (0, math.pi),
        "frequency": (0.1, 0.35),
        "phase": (-math.pi, math.pi),
        "width_along": (1.3, 3),
        "width_across": (1.3, 4),
        "amplitude": (0.1, 2),
    }
    numbers = {name: random.uniform(*limits, size=(m, 1 if quadrature else n)) for name, limits in ranges.items()}
    if quadrature:
        numbers["phase"] = (numbers["phase"] + np.arange(n) * math.pi / n + math.pi) % (2 * math.pi) - math.pi
    return GaborFit(
        **{name: torch.tensor(np.broadcast_to(value, (m, n)).copy()) for name, value in numbers.items()},
        explained=torch.ones(m, n, dtype=torch.float64),
    )


def drawn(fit: GaborFit, side: int) -> torch.Tensor:
    """The oracle: the definition, pixel by pixel."""
    m, n = fit.row.shape
    phi = np.zeros((side * side, m, n))
    for i in range(m):
        for j in range(n):
            g = {name: float(getattr(fit, name)[i, j]) for name in NAMES}
            for y in range(side):
                for x in range(side):
                    dx, dy = x - g["column"], y - g["row"]
                    u = dx * math.cos(g["orientation"]) + dy * math.sin(g["orientation"])
                    v = -dx * math.sin(g["orientation"]) + dy * math.cos(g["orientation"])
                    envelope = math.exp(-(u**2) / (2 * g["width_along"] ** 2) - v**2 / (2 * g["width_across"] ** 2))
                    wave = math.cos(2 * math.pi * g["frequency"] * u + g["phase"])
                    phi[y * side + x, i, j] = g["amplitude"] * envelope * wave
    return torch.tensor(phi)


class TestFit:
    def test_planted_numbers_are_found_again(self) -> None:
        truth = planted(20, 3, seed=0)
        fit = fit_gabor(drawn(truth, 16))
        assert fit.explained.min() > 1 - 1e-9
        for name in set(NAMES) - {"orientation", "phase", "explained"}:
            torch.testing.assert_close(getattr(fit, name), getattr(truth, name), rtol=1e-4, atol=1e-4)
        # Orientations 0 and π are one; there the phase's sign depends on the side.
        assert (fit.orientation - truth.orientation).sin().abs().max() < 1e-4
        turned = torch.where((fit.orientation - truth.orientation).cos() < 0, -1, 1)
        assert (1 - (fit.phase - turned * truth.phase).cos()).max() < 1e-6

    def test_numbers_are_in_their_ranges(self) -> None:
        fit = fit_gabor(torch.randn(49, 6, 3, dtype=torch.float64))
        assert all(getattr(fit, name).isfinite().all() for name in NAMES)
        assert ((fit.orientation >= 0) & (fit.orientation < math.pi)).all()
        assert (fit.phase.abs() <= math.pi).all()
        assert (fit.amplitude >= 0).all()
        assert ((fit.row >= -1) & (fit.row <= 7)).all()

    def test_a_little_noise_moves_them_little(self) -> None:
        truth = planted(20, 2, seed=1)
        clean = drawn(truth, 16)
        noise = torch.randn_like(clean)
        fit = fit_gabor(clean + 0.1 * noise * (clean.norm(dim=0) / noise.norm(dim=0)))
        assert (fit.explained - 1 / 1.01).abs().max() < 0.01
        assert (fit.row - truth.row).abs().max() < 0.5
        assert (fit.frequency / truth.frequency).log2().abs().median() < 0.02

    def test_noise_is_not_a_gabor_function(self) -> None:
        fit = fit_gabor(initial_dictionary(256, 16, 4, seed=0))
        assert fit.explained.max() < 0.2
        assert group_agreement(fit).atoms == 0

    def test_the_scale_of_an_atom_is_its_amplitude_only(self) -> None:
        phi = torch.randn(64, 3, 2, dtype=torch.float64)
        one, large = fit_gabor(phi), fit_gabor(2.0**20 * phi)
        assert torch.equal(large.explained, one.explained)
        assert torch.equal(large.amplitude, 2.0**20 * one.amplitude)

    def test_rounding_of_the_scale_changes_no_fit(self) -> None:
        # Amplitudes differ by at most 6e-9 over 200 seeds. Atoms of noise alone are not compared: their minima are at
        # bounds or in flat valleys, where 200 evaluations do not suffice and rounding changes the path; amplitudes
        # differ by more than 1e-3 for 35 of 200 seeds.
        clean = drawn(planted(3, 2, seed=8), 16)
        noise = torch.randn_like(clean)
        phi = clean + 0.1 * noise * (clean.norm(dim=0) / noise.norm(dim=0))
        one, large = fit_gabor(phi), fit_gabor(1e6 * phi)
        torch.testing.assert_close(large.amplitude, 1e6 * one.amplitude)
        torch.testing.assert_close(large.explained, one.explained)

    def test_atoms_are_fitted_each_by_itself(self) -> None:
        phi = torch.randn(64, 3, 2, dtype=torch.float64)
        torch.testing.assert_close(fit_gabor(phi[:, [2]]).explained[0], fit_gabor(phi).explained[2])

    def test_the_same_type(self) -> None:
        assert fit_gabor(torch.randn(16, 2, 2)).row.dtype == torch.float32

    @pytest.mark.parametrize("side", [2, 3])
    def test_small_patches_and_atoms_of_zeros(self, side) -> None:
        phi = torch.randn(side**2, 2, 2)
        phi[:, 0, 0] = 0
        fit = fit_gabor(phi)
        assert fit.explained[0, 0] == 0
        assert fit.amplitude[0, 0] == 0
        assert all(getattr(fit, name).isfinite().all() for name in NAMES)

    @pytest.mark.parametrize("length", [1, 15])
    def test_patches_that_are_no_squares(self, length) -> None:
        with pytest.raises(
            ShapeError, match=rf"must hold square patches.*got l = {length} in the shape \[{length}, 2, 2\]"
        ):
            fit_gabor(torch.ones(length, 2, 2))


class TestAgreement:
    @pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
    def test_planted_groups(self, n) -> None:
        agreement = group_agreement(fit_gabor(drawn(planted(30, n, seed=2, quadrature=True), 16)))
        assert agreement.atoms == 30 * n
        assert agreement.pairs == 30 * n * (n - 1) // 2
        learned, chance = agreement.learned, agreement.random_groups
        assert max(learned.position, learned.orientation, learned.frequency) < 1e-3
        assert learned.resultant < 1e-4
        assert learned.quadrature == pytest.approx(0 if n == 2 else 45, abs=1e-2)
        assert chance.position > 3
        assert chance.orientation == pytest.approx(45, abs=8)
        assert chance.quadrature == pytest.approx(45, abs=8)
        assert chance.frequency > 0.3
        assert chance.resultant > 0.3

    def test_medians_by_hand(self) -> None:
        one = planted(1, 2, seed=0)
        fit = replace(
            one,
            row=torch.tensor([[3.0, 6.0]]).double(),
            column=torch.tensor([[2.0, 6.0]]).double(),
            orientation=torch.deg2rad(torch.tensor([[5.0, 175.0]]).double()),
            frequency=torch.tensor([[0.1, 0.2]]).double(),
        )
        learned = group_agreement(fit).learned
        assert learned.position == pytest.approx(5)
        assert learned.orientation == pytest.approx(10)
        assert learned.frequency == pytest.approx(1)

    def test_phases_are_compared_at_one_place(self) -> None:
        # Two windows on one wave: their phases differ by their distance, the wave's do not.
        one = planted(1, 2, seed=0, quadrature=False)
        column = torch.tensor([[4.0, 6.0]]).double()
        fit = replace(
            one,
            row=torch.full((1, 2), 5.0).double(),
            column=column,
            orientation=torch.zeros(1, 2).double(),
            frequency=torch.full((1, 2), 0.1).double(),
            phase=2 * math.pi * 0.1 * column,
        )
        learned = group_agreement(fit).learned
        assert learned.quadrature == pytest.approx(90)
        assert learned.resultant == pytest.approx(1)

    def test_agreement_does_not_depend_on_the_zero_of_orientation(self) -> None:
        fit = planted(12, 2, seed=3, quadrature=True)
        turned = (fit.orientation - 1e-6).cos() < 0.2
        other = replace(
            fit,
            orientation=torch.where(turned, fit.orientation + math.pi, fit.orientation),
            phase=torch.where(turned, -fit.phase, fit.phase),
        )
        assert 0 < turned.sum() < 24
        for before, after in zip(*(vars(group_agreement(each).learned).values() for each in (fit, other)), strict=True):
            assert after == pytest.approx(before, abs=1e-6)

    def test_atoms_that_are_fitted_badly_are_left_out(self) -> None:
        fit = planted(6, 3, seed=4, quadrature=True)
        fit.explained[:, 1] = 0.4
        fit.row[:, 1] = 100
        fit.explained[0] = 0.4
        agreement = group_agreement(fit)
        assert agreement.atoms == 10
        assert agreement.pairs == 5
        assert agreement.learned.position == 0
        assert agreement.random_groups.position < 20
        assert group_agreement(fit, threshold=0.3).atoms == 18

    def test_random_groups_repeat_by_their_seed(self) -> None:
        fit = planted(10, 2, seed=5)
        assert group_agreement(fit) == group_agreement(fit)
        assert group_agreement(fit).random_groups != group_agreement(fit, seed=1).random_groups

    def test_single_atoms_have_no_pairs(self) -> None:
        agreement = group_agreement(planted(5, 1, seed=6))
        assert agreement.pairs == 0
        assert math.isnan(agreement.learned.position)
        assert math.isnan(agreement.random_groups.resultant)
