"""Uniform frames: orthonormal to rounding, uniform, with the volume of the Stiefel manifold."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent

import gramian
from gramian.distributions import UniformFrames
from gramian.distributions.uniform_frames import OrthonormalColumns
from gramian.errors import OptionError
from gramian.rules.restore import rounding_level
from tests.distributions.test_group_laplace import over_dtypes

SIZES = [(1, 1), (2, 1), (2, 2), (3, 2), (5, 3), (16, 4), (64, 64)]
over_frames = pytest.mark.parametrize(("l", "n"), SIZES)


def volume(l: int, n: int) -> float:  # noqa: E741
    return UniformFrames(l, n, dtype=torch.float64).entropy().exp().item()


class TestFrames:
    @over_frames
    @over_dtypes
    def test_are_orthonormal_to_rounding(self, l, n, dtype) -> None:  # noqa: E741
        frames = UniformFrames(l, n, dtype=dtype)
        phi = frames.sample((40,))
        assert phi.dtype == dtype
        assert frames.support.check(phi).all()
        residual = gramian.residual(phi.double().movedim(0, 1)).abs().max().item()
        assert residual <= rounding_level(dtype, l)

    def test_repeat_with_the_seed(self) -> None:
        frames = UniformFrames(5, 2)
        torch.manual_seed(0)
        first = frames.sample()
        torch.manual_seed(0)
        assert torch.equal(frames.sample(), first)

    def test_are_the_same_in_both_dtypes(self) -> None:
        torch.manual_seed(0)
        wide = UniformFrames(5, 2, dtype=torch.float64).sample()
        torch.manual_seed(0)
        assert torch.equal(UniformFrames(5, 2, dtype=torch.float32).sample(), wide.float())


class TestUniformity:
    COUNT = 20_000

    @pytest.mark.parametrize(("l", "n"), [(2, 1), (2, 2), (3, 2), (5, 3)])
    def test_moments(self, l, n) -> None:  # noqa: E741
        """E ΦΦᵀ = (n/l)I, and all entries have mean 0 and covariance I/l: what every rotation leaves unchanged."""
        frames = UniformFrames(l, n, dtype=torch.float64)
        phi = frames.sample((self.COUNT,))
        bound = 5 / self.COUNT**0.5
        assert ((phi @ phi.mT).mean(dim=0) - n / l * torch.eye(l)).abs().max() < bound
        assert phi.mean(dim=0).abs().max() < bound
        entries = phi.flatten(1)
        covariance = entries.mT @ entries / self.COUNT
        assert (covariance - torch.eye(l * n) / l).abs().max() < bound
        assert (frames.mean == 0).all()
        torch.testing.assert_close(frames.variance, torch.full((l, n), 1 / l, dtype=torch.float64))

    @pytest.mark.parametrize(("l", "n"), [(2, 1), (3, 1), (3, 3), (6, 2)])
    def test_entries_and_projections_have_the_distribution_on_the_sphere(self, l, n) -> None:  # noqa: E741
        """The part φ of a column in any direction: (1 + φ)/2 ~ Beta((l − 1)/2, (l − 1)/2)."""
        phi = UniformFrames(l, n, dtype=torch.float64).sample((self.COUNT,))
        exact = stats.beta((l - 1) / 2, (l - 1) / 2)
        direction = torch.nn.functional.normalize(torch.randn(l, dtype=torch.float64), dim=0)
        mixture = torch.nn.functional.normalize(torch.randn(n, dtype=torch.float64), dim=0)
        for part in (phi[:, 0, 0], phi[:, -1, -1], direction @ phi @ mixture):
            assert stats.kstest(0.5 * (1 + part.numpy()), exact.cdf).pvalue > 1e-4

    def test_a_rotation_changes_nothing(self) -> None:
        """A rotation of R⁵ does not change the distribution of two rows."""
        phi = UniformFrames(5, 2, dtype=torch.float64).sample((self.COUNT,))
        corner = torch.linalg.det(phi[:, :2]).numpy()
        rotation = UniformFrames(5, 5, dtype=torch.float64).sample()
        turned = torch.linalg.det((rotation @ UniformFrames(5, 2, dtype=torch.float64).sample((self.COUNT,)))[:, :2])
        assert stats.ks_2samp(corner, turned.numpy()).pvalue > 1e-4

    def test_both_components_of_the_orthogonal_group(self) -> None:
        signs = torch.linalg.det(UniformFrames(4, 4, dtype=torch.float64).sample((self.COUNT,)))
        np.testing.assert_allclose(signs.abs(), 1, rtol=1e-12)
        assert abs(signs.mean().item()) < 5 / self.COUNT**0.5


class TestVolume:
    def test_of_small_cases(self) -> None:
        assert volume(1, 1) == pytest.approx(2)  # two points
        assert volume(2, 1) == pytest.approx(2 * math.pi)  # a circle
        assert volume(3, 1) == pytest.approx(4 * math.pi)  # a sphere
        assert volume(4, 1) == pytest.approx(2 * math.pi**2)
        # O(2) is two curves of matrices [[cos t, −sin t], [sin t, cos t]] and their reflections, each of length 2π√2.
        assert volume(2, 2) == pytest.approx(2 * 2 * math.pi * math.sqrt(2))
        # SO(3) is a half of the unit quaternions: ‖dR‖_F = 2√2‖dq‖ and the volume of S³ is 2π².
        assert volume(3, 3) == pytest.approx(2 * (2 * math.sqrt(2)) ** 3 * math.pi**2)

    def test_of_two_orthonormal_vectors_by_quadrature(self) -> None:
        """The area element of V(3, 2) is the root of the Gram determinant of the derivatives by three Euler angles."""

        def frame(angles: torch.Tensor) -> torch.Tensor:
            a, b, c = angles
            first = torch.stack([b.sin() * a.cos(), b.sin() * a.sin(), b.cos()])
            u = torch.stack([b.cos() * a.cos(), b.cos() * a.sin(), -b.sin()])
            v = torch.stack([-a.sin(), a.cos(), torch.zeros_like(a)])
            return torch.cat([first, c.cos() * u + c.sin() * v])

        def element(angles: torch.Tensor) -> torch.Tensor:
            jacobian = torch.func.jacrev(frame)(angles)
            return torch.linalg.det(jacobian.mT @ jacobian).clamp_min(0).sqrt()

        count = 12
        ends = torch.tensor([2 * math.pi, math.pi, 2 * math.pi], dtype=torch.float64)
        # Midpoints in a and c, in which the element is constant, and Gauss–Legendre points in b.
        nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(count))
        axes = [
            (torch.arange(4, dtype=torch.float64) + 0.5) / 4,
            0.5 * (nodes + 1),
            (torch.arange(4) + 0.5).double() / 4,
        ]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) * ends
        elements = torch.func.vmap(element)(points.reshape(-1, 3)).reshape(4, count, 4)
        total = (elements * (0.5 * weights)[:, None]).sum() / 16 * ends.prod()
        assert total.item() == pytest.approx(volume(3, 2), rel=1e-10)

    def test_of_a_sphere_for_every_length(self) -> None:
        for l in range(1, 20):  # noqa: E741
            assert volume(l, 1) == pytest.approx(2 * math.pi ** (l / 2) / math.gamma(l / 2))

    def test_for_the_metric_of_rotations_it_is_the_formula_of_muirhead(self) -> None:
        """2ⁿπ^{nl/2}/Γ_n(l/2), with the multivariate Gamma function, for the metric without the √2."""
        for l, n in SIZES[:-1]:  # noqa: E741
            log_gamma = torch.mvlgamma(torch.tensor(l / 2, dtype=torch.float64), n).item()
            muirhead = n * math.log(2) + n * l / 2 * math.log(math.pi) - log_gamma
            ours = math.log(volume(l, n)) - n * (n - 1) / 4 * math.log(2)
            assert ours == pytest.approx(muirhead)

    @over_dtypes
    def test_the_density_is_its_inverse(self, dtype) -> None:
        frames = UniformFrames(5, 3, dtype=dtype)
        phi = frames.sample((4,))
        log_prob = frames.log_prob(phi)
        assert log_prob.dtype == dtype
        torch.testing.assert_close(log_prob, -frames.entropy().expand(4))


class TestSupport:
    @over_dtypes
    @pytest.mark.parametrize(("l", "n"), [(2, 2), (16, 4), (200, 100), (300, 300)])
    def test_holds_frames_of_every_source(self, l, n, dtype) -> None:  # noqa: E741
        normal = torch.randn(3, l, n, dtype=dtype)
        left, _, right = torch.linalg.svd(normal, full_matrices=False)
        sources = {
            "qr": torch.linalg.qr(normal).Q,
            "svd": left @ right,
            "init": torch.nn.init.orthogonal_(torch.empty(l, n, dtype=dtype)),
            "gramian": gramian.orthogonalize(normal[0, :, : n // 2]).phi,
        }
        for name, phi in sources.items():
            assert OrthonormalColumns().check(phi).all(), name

    @over_dtypes
    def test_excludes_other_matrices(self, dtype) -> None:
        frame = torch.eye(4, 2, dtype=dtype)
        near = frame.clone()
        near[1, 0] = 1e3 * torch.finfo(dtype).eps
        long, broken = frame * (1 + 1e3 * torch.finfo(dtype).eps), frame.clone()
        broken[0, 0] = math.nan
        stack = torch.stack([frame, near, long, 2 * frame, torch.zeros_like(frame), broken])
        assert OrthonormalColumns().check(stack).tolist() == [True, False, False, False, False, False]

    def test_is_checked_by_the_density(self) -> None:
        phi = torch.ones(3, 2)
        with pytest.raises(ValueError, match=r"support.*OrthonormalColumns"):
            UniformFrames(3, 2).log_prob(phi)
        UniformFrames(3, 2, validate_args=False).log_prob(phi)
        with pytest.raises(ValueError, match="event"):
            UniformFrames(3, 2).log_prob(torch.eye(3))

    def test_is_continuous_with_two_event_axes(self) -> None:
        support = UniformFrames(3, 2).support
        assert (support.event_dim, support.is_discrete, repr(support)) == (2, False, "OrthonormalColumns()")


class TestShapes:
    @pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
    @pytest.mark.parametrize("samples", [(), (5,), (4, 5)])
    def test_of_samples_and_densities(self, batch, samples) -> None:
        frames = UniformFrames(4, 2).expand(batch)
        assert type(frames) is UniformFrames
        assert (frames.batch_shape, frames.event_shape) == (batch, (4, 2))
        phi = frames.sample(samples)
        assert phi.shape == (*samples, *batch, 4, 2)
        assert frames.log_prob(phi).shape == (*samples, *batch)
        assert frames.mean.shape == frames.variance.shape == frames.stddev.shape == (*batch, 4, 2)
        assert frames.entropy().shape == batch

    def test_frames_of_a_batch_are_independent(self) -> None:
        first, second = UniformFrames(4, 2).expand((2,)).sample()
        assert not torch.allclose(first, second)

    def test_expand_twice(self) -> None:
        frames = UniformFrames(4, 2, validate_args=False).expand((3,)).expand((5, 3))
        assert frames.sample().shape == (5, 3, 4, 2)
        frames.log_prob(torch.ones(4, 2))  # validation is still off
        with pytest.raises(RuntimeError, match="greater or equal to the number of dimensions"):
            frames.expand((4,))

    def test_one_density_for_a_batch(self) -> None:
        assert UniformFrames(4, 2).expand((3,)).log_prob(torch.eye(4, 2)).shape == (3,)

    def test_independent(self) -> None:
        groups = Independent(UniformFrames(4, 2, dtype=torch.float64).expand((6,)), 1)
        phi = groups.rsample((5,))
        assert phi.shape == (5, 6, 4, 2)
        torch.testing.assert_close(groups.log_prob(phi), 6 * groups.base_dist.log_prob(phi)[:, 0])
        assert groups.support.check(phi).all()

    def test_dtype_and_device(self) -> None:
        assert UniformFrames(3, 2).sample().dtype == torch.get_default_dtype()
        frames = UniformFrames(3, 2, device="meta")
        for tensor in (frames.sample((4,)), frames.mean, frames.variance, frames.entropy()):
            assert tensor.device.type == "meta"

    def test_repr(self) -> None:
        assert repr(UniformFrames(3, 2)) == "UniformFrames(length: 3, size: 2)"


class TestErrors:
    def test_more_vectors_than_dimensions(self) -> None:
        with pytest.raises(OptionError, match=r"size must be at most length.*got 3 vectors of length 2; try size=2"):
            UniformFrames(2, 3)

    def test_sizes_below_one(self) -> None:
        with pytest.raises(OptionError, match="length must be at least 1; got 0"):
            UniformFrames(0, 1)
        with pytest.raises(OptionError, match=r"size must be at least 1; got 0"):
            UniformFrames(3, 0)
