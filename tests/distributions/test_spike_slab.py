"""A spike at zero with a slab: its density with respect to δ₀ + da, its samples, and the prior of the same name."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal

from gramian.coding import SpikeSlab as Prior
from gramian.distributions import GroupLaplace, SpikeSlab
from gramian.errors import OptionError
from tests.distributions.test_group_laplace import grid, over_dtypes, over_sizes, rates

over_slabs = pytest.mark.parametrize("slab", ["gaussian", "laplace"])


def group(probs: float, scale: float, n: int, slab: str = "gaussian", **options: bool) -> SpikeSlab:
    return SpikeSlab(rates(probs).squeeze(0), scale, n, slab, **options)


class TestDensity:
    @over_slabs
    @pytest.mark.parametrize(("n", "count", "tolerance"), [(1, 20_000, 1e-6), (2, 1000, 1e-5), (3, 160, 2e-4)])
    def test_integrates_to_one_with_its_variance(self, slab, n, count, tolerance) -> None:
        """The spike, and an integral over the slab: no midpoint of a grid with an even count is 0."""
        points, cell = grid(n, 11.0, count)
        density = group(0.3, 0.6, n, slab)
        weights = density.log_prob(points).exp() * cell
        at_zero = density.log_prob(points.new_zeros(n)).exp()
        assert at_zero.item() == pytest.approx(0.7, abs=1e-12)
        assert (at_zero + weights.sum()).item() == pytest.approx(1, abs=tolerance)
        second = (weights[:, None, None] * points[:, :, None] * points[:, None, :]).sum(dim=0)
        expected = torch.diag_embed(density.variance)
        torch.testing.assert_close(second, expected, rtol=10 * tolerance, atol=10 * tolerance)

    @over_dtypes
    def test_of_an_active_group(self, dtype) -> None:
        value = torch.randn(5, 3, dtype=dtype)
        probs, scale = torch.tensor(0.2, dtype=dtype), torch.tensor(1.5, dtype=dtype)
        normal = MultivariateNormal(torch.zeros(3, dtype=dtype), scale**2 * torch.eye(3, dtype=dtype))
        expected = math.log(0.2) + normal.log_prob(value)
        torch.testing.assert_close(SpikeSlab(probs, scale, 3).log_prob(value), expected)
        expected = math.log(0.2) + GroupLaplace(1 / scale, 3).log_prob(value)
        torch.testing.assert_close(SpikeSlab(probs, scale, 3, "laplace").log_prob(value), expected)

    def test_a_group_with_one_coefficient_of_zero_is_active(self) -> None:
        density = group(0.2, 1.0, 2)
        assert density.log_prob(rates(0.0, 1.0)) < math.log(0.2)
        assert density.log_prob(rates(0.0, -0.0)).item() == pytest.approx(math.log(0.8))

    @over_slabs
    @over_sizes
    @pytest.mark.parametrize("lam", [0.7, 6.0])
    def test_independent_groups_are_the_prior(self, slab, n, lam) -> None:
        m, prior = 5, Prior(slab, scale=2.0)
        codes = 3 * torch.randn(20, m, n, dtype=torch.float64) * (torch.rand(20, m, 1) < 0.5)
        assert 0 < (codes == 0).all(dim=2).double().mean() < 1
        density = Independent(SpikeSlab(rates(*[prior.rate(lam, n)] * m), 2.0, n, slab), 1)
        expected = -prior.value(codes, lam) - prior.log_normalizer(m, n, lam)
        torch.testing.assert_close(density.log_prob(codes), expected, rtol=1e-13, atol=1e-13)

    @over_slabs
    def test_gradients(self, slab) -> None:
        probs, scale = rates(0.2, 0.9).requires_grad_(), rates(0.5, 2.0).requires_grad_()
        value = torch.randn(4, 2, 3, dtype=torch.float64)
        value[:2] = 0

        def density(probs: Tensor, scale: Tensor) -> Tensor:
            return SpikeSlab(probs, scale, 3, slab, validate_args=False).log_prob(value)

        assert torch.autograd.gradcheck(density, (probs, scale))
        active = value[2:].requires_grad_()
        assert torch.autograd.gradcheck(lambda value: SpikeSlab(probs, scale, 3, slab).log_prob(value), (active,))

    @over_slabs
    def test_probabilities_of_zero_and_one(self, slab) -> None:
        """Log densities of −∞ where they must be, and no NaN in gradients of the others."""
        probs = rates(0.0, 1.0).requires_grad_()
        density = SpikeSlab(probs, 1.0, 2, slab)
        assert density.log_prob(torch.zeros(2, 2).double()).tolist() == [0.0, -math.inf]
        assert density.log_prob(torch.ones(2, 2).double())[0] == -math.inf
        possible = torch.stack([torch.zeros(2), torch.ones(2)]).double()
        (gradient,) = torch.autograd.grad(density.log_prob(possible).sum(), probs)
        torch.testing.assert_close(gradient, rates(-1.0, 1.0))

    def test_a_small_probability_in_float32(self) -> None:
        density = SpikeSlab(torch.tensor(1e-9), 1.0, 2)
        assert density.log_prob(torch.zeros(2)).item() == pytest.approx(-1e-9, rel=1e-6)


class TestSamples:
    @over_slabs
    @over_sizes
    @over_dtypes
    def test_have_the_density(self, slab, n, dtype) -> None:
        count = 40_000
        density = SpikeSlab(rates(0.1, 0.8, dtype=dtype), rates(0.5, 2.0, dtype=dtype), n, slab)
        codes = density.sample((count,))
        assert codes.dtype == dtype
        active = (codes != 0).any(dim=-1)
        assert torch.equal(active, (codes != 0).all(dim=-1))
        share = active.to(dtype).mean(dim=0)
        torch.testing.assert_close(share, density.probs, rtol=0, atol=2.5 / count**0.5)
        for index in (0, 1):
            chosen = codes[active[:, index], index]
            # Five standard deviations: E a⁴ is 3s⁴ for the Gaussian slab and 24s⁴ for the Laplace slab with n = 1.
            spread = 5 * (24 / len(chosen)) ** 0.5 * (n + 1) / 2 * density.scale[index].square()
            expected = density.variance[index] / density.probs[index]
            torch.testing.assert_close(chosen.var(dim=0), expected, rtol=0, atol=spread.item())
            assert chosen.mean(dim=0).abs().max() < 5 * chosen.std() / len(chosen) ** 0.5
        torch.testing.assert_close(codes.var(dim=0), density.variance, rtol=0.15, atol=0)

    @over_slabs
    def test_the_mean_density_of_samples_is_minus_the_entropy(self, slab) -> None:
        """E log p by samples, and by quadrature of the density."""
        density = group(0.3, 0.6, 1, slab)
        points, cell = grid(1, 11.0, 20_000)
        log_prob = density.log_prob(points)
        expected = 0.7 * math.log(0.7) + (log_prob.exp() * log_prob).sum().item() * cell
        assert density.log_prob(density.sample((100_000,))).mean().item() == pytest.approx(expected, abs=0.02)

    def test_are_not_reparameterised(self) -> None:
        density = SpikeSlab(torch.tensor(0.5, requires_grad=True), torch.tensor(1.0, requires_grad=True), 2)
        assert not SpikeSlab.has_rsample
        assert not density.sample((3,)).requires_grad
        with pytest.raises(NotImplementedError):
            density.rsample()


class TestShapes:
    @over_slabs
    @pytest.mark.parametrize("samples", [(), (5,), (4, 5)])
    def test_of_samples_and_densities(self, slab, samples) -> None:
        density = SpikeSlab(torch.full((2, 1), 0.3), torch.ones(3), 4, slab)
        assert (density.batch_shape, density.event_shape) == ((2, 3), (4,))
        codes = density.sample(samples)
        assert codes.shape == (*samples, 2, 3, 4)
        assert density.log_prob(codes).shape == (*samples, 2, 3)
        for moment in (density.mean, density.variance, density.stddev):
            assert moment.shape == (2, 3, 4)
        assert (density.mean == 0).all()

    @over_slabs
    def test_expand(self, slab) -> None:
        density = SpikeSlab(rates(0.1, 0.2, 0.3), 2.0, 2, slab, validate_args=False)
        wide = density.expand((4, 3))
        assert type(wide) is SpikeSlab
        assert (wide.batch_shape, wide.event_shape, wide.slab) == ((4, 3), (2,), slab)
        value = torch.randn(4, 3, 2, dtype=torch.float64)
        assert torch.equal(wide.log_prob(value), density.log_prob(value))
        assert wide.sample((6,)).shape == (6, 4, 3, 2)
        wide.log_prob(torch.full((2,), math.nan, dtype=torch.float64))  # validation is still off

    def test_independent(self) -> None:
        density = Independent(SpikeSlab(rates(0.1, 0.9), 1.0, 3), 1)
        codes = density.sample((7,))
        torch.testing.assert_close(density.log_prob(codes), density.base_dist.log_prob(codes).sum(dim=-1))
        assert density.support.check(codes).all()

    @over_slabs
    def test_the_device_is_that_of_the_parameters(self, slab) -> None:
        density = SpikeSlab(torch.ones(3, device="meta"), 1.0, 2, slab, validate_args=False)
        value = torch.ones(4, 3, 2, device="meta")
        for tensor in (density.log_prob(value), density.mean, density.variance):
            assert tensor.device.type == "meta"


class TestErrors:
    def test_a_probability_or_a_scale_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r"Expected parameter probs .* Interval"):
            SpikeSlab(1.1, 1.0, 2)
        with pytest.raises(ValueError, match=r"Expected parameter scale .* GreaterThan"):
            SpikeSlab(0.1, 0.0, 2)
        SpikeSlab(1.1, 0.0, 2, validate_args=False)

    def test_a_value_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="event"):
            group(0.1, 1.0, 2).log_prob(rates(0.0, 0.0, 0.0))
        with pytest.raises(ValueError, match="support"):
            group(0.1, 1.0, 2).log_prob(rates(0.0, math.nan))

    def test_an_unknown_slab(self) -> None:
        with pytest.raises(OptionError, match="slab must be one of 'gaussian', 'laplace'; got 'cauchy'; try slab="):
            SpikeSlab(0.1, 1.0, 2, "cauchy")

    def test_a_group_size_below_one(self) -> None:
        with pytest.raises(OptionError, match="group_size must be at least 1; got 0"):
            SpikeSlab(0.1, 1.0, 0)
