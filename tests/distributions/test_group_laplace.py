"""The group Laplace distribution: its density, its samples and their derivative, and the prior of the same name."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Independent, Laplace

from gramian.coding import GroupLaplace as Prior
from gramian.coding import group_norms
from gramian.distributions import GroupLaplace
from gramian.errors import OptionError

over_sizes = pytest.mark.parametrize("n", [1, 2, 3])
over_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def rates(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def grid(n: int, half: float, count: int) -> tuple[Tensor, float]:
    """The midpoints of a grid of [−half, half]ⁿ, and the volume of its cells."""
    step = 2 * half / count
    axis = -half + step * (torch.arange(count, dtype=torch.float64) + 0.5)
    return torch.stack(torch.meshgrid(*[axis] * n, indexing="ij"), dim=-1).reshape(-1, n), step**n


class TestDensity:
    @pytest.mark.parametrize(("n", "count", "tolerance"), [(1, 20_000, 1e-6), (2, 1000, 1e-5), (3, 160, 2e-4)])
    def test_integrates_to_one_with_its_variance_and_entropy(self, n, count, tolerance) -> None:
        points, cell = grid(n, 14.0, count)
        density = GroupLaplace(rates(1.7), n)
        log_prob = density.log_prob(points)
        weights = log_prob.exp() * cell
        assert weights.sum().item() == pytest.approx(1, abs=tolerance)
        second = (weights[:, None, None] * points[:, :, None] * points[:, None, :]).sum(dim=0)
        expected = torch.diag_embed(density.variance[0])
        torch.testing.assert_close(second, expected, rtol=10 * tolerance, atol=10 * tolerance)
        entropy = -(weights * log_prob).sum()
        assert entropy.item() == pytest.approx(density.entropy().item(), abs=20 * tolerance)

    @over_dtypes
    def test_for_one_coefficient_it_is_the_laplace_distribution(self, dtype) -> None:
        rate, value = rates(0.3, 1.0, 5.0, dtype=dtype), torch.randn(7, 3, dtype=dtype)
        ours, theirs = GroupLaplace(rate, 1), Laplace(torch.zeros_like(rate), 1 / rate)
        torch.testing.assert_close(ours.log_prob(value[..., None]), theirs.log_prob(value))
        torch.testing.assert_close(ours.variance[..., 0], theirs.variance)
        torch.testing.assert_close(ours.entropy(), theirs.entropy())

    @over_sizes
    @pytest.mark.parametrize("weighted", [False, True])
    def test_independent_groups_are_the_prior(self, n, weighted) -> None:
        m, lam = 5, 0.7
        weights = torch.linspace(0.5, 2, m, dtype=torch.float64) if weighted else None
        codes = 3 * torch.randn(20, m, n, dtype=torch.float64)
        codes[0] = 0
        density = Independent(GroupLaplace(lam * (torch.ones(m).double() if weights is None else weights), n), 1)
        prior = Prior(weights)
        expected = -prior.value(codes, lam) - prior.log_normalizer(m, n, lam)
        torch.testing.assert_close(density.log_prob(codes), expected, rtol=1e-13, atol=1e-13)

    def test_gradients(self) -> None:
        rate = rates(0.5, 2.0).requires_grad_()
        value = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda rate, value: GroupLaplace(rate, 3).log_prob(value), (rate, value))
        assert torch.autograd.gradcheck(lambda rate: GroupLaplace(rate, 3).entropy(), (rate,))

    def test_the_gradient_at_zero_is_the_subgradient_zero(self) -> None:
        value = torch.zeros(3, requires_grad=True)
        GroupLaplace(2.0, 3).log_prob(value).backward()
        assert (value.grad == 0).all()


class TestSamples:
    @over_sizes
    @over_dtypes
    def test_have_the_density(self, n, dtype) -> None:
        count = 40_000
        density = GroupLaplace(rates(0.5, 2.0, dtype=dtype), n)
        codes = density.sample((count,))
        assert codes.dtype == dtype
        lengths, directions = torch.linalg.vector_norm(codes, dim=-1), torch.nn.functional.normalize(codes, dim=-1)
        for quantile in (0.1, 0.5, 0.9, 0.99):
            # The length has a Gamma distribution; five standard deviations of a share.
            cut = torch.quantile(Gamma(torch.full((), float(n)), 1.0).sample((200_000,)), quantile).to(dtype)
            share = (lengths * density.rate <= cut).double().mean(dim=0)
            torch.testing.assert_close(share, torch.full_like(share, quantile), rtol=0, atol=3.5 / count**0.5)
        variance = codes.var(dim=0)
        torch.testing.assert_close(variance, density.variance, rtol=0.1, atol=0)
        # Directions are uniform: their mean is 0 and their second moment I/n.
        assert directions.mean(dim=0).abs().max() < 5 / count**0.5
        second = torch.einsum("kbi,kbj->bij", directions, directions) / count
        assert (second - torch.eye(n, dtype=dtype) / n).abs().max() < 5 / count**0.5
        assert abs(torch.corrcoef(torch.stack([lengths[:, 0], codes[:, 0, 0]]))[0, 1]) < 5 / count**0.5

    @over_sizes
    def test_like_those_of_the_prior(self, n) -> None:
        count = 20_000
        ours = group_norms(Independent(GroupLaplace(rates(0.7, 0.7), n), 1).sample((count,)))
        theirs = group_norms(Prior().sample(count, 2, n, 0.7, generator=torch.Generator().manual_seed(0)))
        both = torch.stack([ours.flatten().sort().values, theirs.flatten().sort().values])
        points = torch.linspace(0, 10, 200, dtype=torch.float64)
        shares = torch.searchsorted(both, points.expand(2, -1).contiguous()) / both.shape[1]
        assert (shares[0] - shares[1]).abs().max() < 1.63 * 2 / (2 * count) ** 0.5  # Kolmogorov–Smirnov

    @over_sizes
    def test_the_derivative_against_finite_differences(self, n) -> None:
        step = 1e-6

        def draw(rate: Tensor) -> Tensor:
            torch.manual_seed(3)
            return GroupLaplace(rate, n).rsample((50,))

        rate = rates(0.5, 2.0).requires_grad_()
        weights = torch.randn(50, 2, n, dtype=torch.float64)
        (gradient,) = torch.autograd.grad((weights * draw(rate)).sum(), rate)
        above, below = draw(rate.detach() + step), draw(rate.detach() - step)
        expected = (weights * (above - below)).sum(dim=(0, 2)) / (2 * step)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
        # Implicitly, a = u·t/λ with t that does not depend on λ, so da/dλ = −a/λ.
        implicit = -(weights * draw(rate.detach()) / rate.detach()[:, None]).sum(dim=(0, 2))
        torch.testing.assert_close(gradient, implicit, rtol=1e-12, atol=1e-12)

    def test_the_derivative_of_an_expectation(self) -> None:
        rate = rates(1.5).requires_grad_()
        GroupLaplace(rate, 3).rsample((100_000,)).square().sum(dim=-1).mean().backward()
        assert rate.grad.item() == pytest.approx(-2 * 12 / 1.5**3, rel=0.03)  # of n(n + 1)/λ²

    def test_a_normal_variate_of_exactly_zero_has_a_direction(self, monkeypatch) -> None:
        monkeypatch.setattr(torch, "randn", torch.zeros)
        for n in (1, 4):
            codes = GroupLaplace(rates(1.0), n).sample((100,))
            assert codes.isfinite().all()
            assert (codes != 0).all()

    def test_sample_has_no_gradient(self) -> None:
        rate = rates(1.0).requires_grad_()
        assert not GroupLaplace(rate, 2).sample().requires_grad
        assert GroupLaplace(rate, 2).rsample().requires_grad
        assert GroupLaplace.has_rsample


class TestShapes:
    @pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
    @pytest.mark.parametrize("samples", [(), (5,), (4, 5)])
    def test_of_samples_and_densities(self, batch, samples) -> None:
        density = GroupLaplace(torch.full(batch, 2.0), 4)
        assert density.batch_shape == batch
        assert density.event_shape == (4,)
        codes = density.sample(samples)
        assert codes.shape == (*samples, *batch, 4)
        assert density.log_prob(codes).shape == (*samples, *batch)
        for moment in (density.mean, density.mode, density.variance, density.stddev):
            assert moment.shape == (*batch, 4)
        assert (density.mean == 0).all()
        assert density.entropy().shape == batch

    def test_expand(self) -> None:
        density = GroupLaplace(rates(1.0, 2.0, 3.0), 2, validate_args=False)
        wide = density.expand((4, 3))
        assert type(wide) is GroupLaplace
        assert (wide.batch_shape, wide.event_shape) == ((4, 3), (2,))
        value = torch.randn(4, 3, 2, dtype=torch.float64)
        assert torch.equal(wide.log_prob(value), density.log_prob(value))
        assert wide.sample((6,)).shape == (6, 4, 3, 2)
        assert wide.rate.data_ptr() == density.rate.data_ptr()
        wide.log_prob(torch.full((2,), math.nan, dtype=torch.float64))  # validation is still off

    def test_of_a_subclass(self) -> None:
        class Other(GroupLaplace):
            pass

        assert type(Other(1.0, 2).expand((3,))) is Other

    def test_independent(self) -> None:
        density = Independent(GroupLaplace(rates(1.0, 2.0), 3), 1)
        assert (density.batch_shape, density.event_shape) == ((), (2, 3))
        codes = density.rsample((7,))
        torch.testing.assert_close(density.log_prob(codes), density.base_dist.log_prob(codes).sum(dim=-1))
        assert density.support.check(codes).all()
        assert density.expand((5,)).sample().shape == (5, 2, 3)

    def test_a_number_has_the_default_dtype(self) -> None:
        assert GroupLaplace(2, 3).sample().dtype == torch.get_default_dtype()

    def test_the_device_is_that_of_the_rate(self) -> None:
        density = GroupLaplace(torch.ones(3, device="meta"), 2, validate_args=False)
        value = torch.ones(4, 3, 2, device="meta")
        for tensor in (density.log_prob(value), density.mean, density.variance, density.entropy()):
            assert tensor.device.type == "meta"


class TestErrors:
    @pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
    def test_a_rate_that_is_not_positive(self, rate) -> None:
        with pytest.raises(ValueError, match=r"Expected parameter rate .* GreaterThan"):
            GroupLaplace(rate, 2)
        GroupLaplace(rate, 2, validate_args=False)

    def test_a_value_that_does_not_fit(self) -> None:
        density = GroupLaplace(1.0, 2)
        with pytest.raises(ValueError, match="event"):
            density.log_prob(torch.zeros(3))
        with pytest.raises(ValueError, match="support"):
            density.log_prob(torch.tensor([0.0, math.nan]))

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize("size", [0, -1, 2.5, True])
    def test_a_group_size_that_is_not_a_positive_whole_number(self, size) -> None:
        with pytest.raises(OptionError, match=r"group_size must be .*try group_size="):
            GroupLaplace(1.0, size)
