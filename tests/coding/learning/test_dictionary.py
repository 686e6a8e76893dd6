"""Learning steps, and what they lead to."""

import math

import pytest
import torch

import gramian
from gramian.coding import (
    Learner,
    LearningOptions,
    LearningStep,
    cosine_decay,
    energy,
    group_soft_threshold,
    initial_dictionary,
)
from gramian.coding.inference import fista
from gramian.errors import OptionError
from tests.cases import stiefel


def planted(count: int, length: int = 16, m: int = 6, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples, each of two of m orthonormal groups with strong coefficients, and a little noise."""
    phi = stiefel(length, m, n).float()
    codes = torch.zeros(count, m, n)
    active = torch.stack([torch.randperm(m)[:2] for _ in range(count)])
    codes.scatter_(1, active[..., None].expand(-1, -1, n), 3 * torch.randn(count, 2, n))
    x = codes.flatten(1) @ phi.flatten(1).mT + 0.05 * torch.randn(count, length)
    return x / x.square().mean().sqrt(), phi


def learning_step(x: torch.Tensor, phi: torch.Tensor, *, lr: float, **options) -> LearningStep:
    return Learner(phi, LearningOptions(**options)).step(x, lr=lr)


def test_a_step_is_the_gradient_of_the_energy_and_then_the_rule() -> None:
    x, phi = torch.randn(32, 16), initial_dictionary(16, 6, 2, seed=0)
    codes = fista(x, phi, lam=0.5, max_iter=10, tol=0.0).codes
    leaf = phi.clone().requires_grad_()
    energy(x, leaf, codes, 0.5).total.mean().backward()
    expected = phi - 0.1 * leaf.grad
    before = gramian.step_(expected, lr=0.1, beta=0.3)
    step = learning_step(x, phi, lam=0.5, lr=0.1, beta=0.3)
    torch.testing.assert_close(step.phi, expected)
    assert step.orthogonality == pytest.approx(before.item() / 0.3, rel=1e-4)
    assert step.reconstruction == pytest.approx(energy(x, phi, codes, 0.5).reconstruction.mean().item(), rel=1e-5)
    assert 0 < step.active_groups <= 6


def test_without_a_rule_atoms_keep_their_length() -> None:
    step = learning_step(
        torch.randn(32, 16), initial_dictionary(16, 6, 2, seed=0), lam=0.5, lr=0.5, beta=0.3, rule=None
    )
    torch.testing.assert_close(torch.linalg.vector_norm(step.phi, dim=0), torch.ones(6, 2))
    assert step.orthogonality == 0


@pytest.mark.slow
def test_planted_subspaces_are_found_from_nearby() -> None:
    # From anywhere, learning may end in another minimum: the problem is not convex.
    x, true = planted(4000)
    phi = true + 0.2 * torch.randn(true.shape)

    def nearest() -> torch.Tensor:
        """Smallest cosine of the principal angles between each subspace and its learned one."""
        P = torch.linalg.qr(phi.permute(1, 0, 2))[0]
        return torch.linalg.svdvals(true.permute(1, 2, 0) @ P)[:, -1]

    assert nearest().max() < 0.9
    for step in range(500):
        batch = x[torch.randint(len(x), (64,))]
        phi = learning_step(batch, phi, lam=0.3, lr=cosine_decay(0.5, step, 500), beta=0.3).phi
    assert gramian.residual(phi).abs().max() < 1e-5
    assert nearest().min() > 0.99


def test_a_rule_that_diverges_says_so() -> None:
    x = torch.randn(32, 16)

    def learn() -> None:
        phi = initial_dictionary(16, 6, 2, seed=0)
        for _ in range(100):
            phi = learning_step(x, phi, lam=0.5, lr=1.0, beta=30.0, rule="subgradient").phi

    with pytest.raises(OptionError, match=r"learning must stay finite; it diverged with lr = 1, beta = 30"):
        learn()


class TestInitialDictionary:
    def test_random_directions_of_unit_length(self) -> None:
        phi = initial_dictionary(64, 20, 4, seed=5)
        torch.testing.assert_close(torch.linalg.vector_norm(phi, dim=0), torch.ones(20, 4))
        assert torch.equal(phi, initial_dictionary(64, 20, 4, seed=5))
        assert not torch.equal(phi, initial_dictionary(64, 20, 4, seed=6))
        assert 0.05 < gramian.residual(phi).abs().mean() < 0.2

    @pytest.mark.parametrize("sizes", [(0, 1, 1), (4, 0, 1), (4, 1, 0)])
    def test_sizes_that_are_not_positive(self, sizes) -> None:
        with pytest.raises(OptionError, match="sizes must be positive; got"):
            initial_dictionary(*sizes, seed=0)

    def test_groups_too_large(self) -> None:
        with pytest.raises(OptionError, match="group_size must be at most the length of an atom; got 5 atoms"):
            initial_dictionary(4, 1, 5, seed=0)


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    assert [round(cosine_decay(2.0, step, 4), 6) for step in range(6)] == [2.0, 1.707107, 1.0, 0.292893, 0.0, 0.0]


def test_group_shrink_is_the_prox_of_the_group_norm() -> None:
    codes = torch.randn(50, 4, 3, dtype=torch.float64)
    codes[0, 0] = 0
    shrunk = group_soft_threshold(codes, 1.2)
    for row, out in zip(codes.flatten(0, 1).tolist(), shrunk.flatten(0, 1).tolist(), strict=True):
        size = math.sqrt(sum(c * c for c in row))
        expected = [c * (size - 1.2) / size for c in row] if size > 1.2 else [0.0] * 3
        assert out == pytest.approx(expected, abs=1e-12)
        assert size > 1.2 or not any(out)
    assert torch.equal(group_soft_threshold(codes, 0.0), codes)
