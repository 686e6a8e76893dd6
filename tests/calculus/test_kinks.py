"""At the kinks of l1: one-sided derivatives, and the shortest subgradient with its certificate."""

import pytest
import torch

from gramian.calculus import directional_derivative, min_norm_subgradient, residual
from gramian.errors import ShapeError


def at_kinks(length: int, n: int, orthogonal: int) -> torch.Tensor:
    """A group of which the first vectors are exactly orthonormal, scaled by powers of two so that this stays exact."""
    P = torch.randn(length, n, dtype=torch.float64) / length**0.5
    P[:, :orthogonal] = torch.eye(length, dtype=torch.float64)[:, :orthogonal]
    if orthogonal > 1:
        P[:, 1] *= 2  # orthogonal, and not of length 1
    return P


CASES = [(5, 3, 2), (6, 4, 3), (4, 4, 4), (8, 5, 3), (3, 1, 1), (5, 3, 0), (2, 4, 2)]
over_cases = pytest.mark.parametrize("case", CASES)


def loss(P: torch.Tensor) -> torch.Tensor:
    return residual(P).abs().sum()


def with_zeros(P: torch.Tensor) -> torch.Tensor:
    """The member with sign(0) = 0."""
    return 2 * P @ torch.sign(residual(P))


@over_cases
def test_a_directional_derivative_is_a_one_sided_limit(case) -> None:
    P = at_kinks(*case)
    for _ in range(5):
        V = torch.randn_like(P)
        quotient = (loss(P + 1e-8 * V) - loss(P)) / 1e-8
        torch.testing.assert_close(directional_derivative(P, V), quotient, rtol=1e-5, atol=1e-5)


@over_cases
def test_away_from_kinks_it_is_linear(case) -> None:
    P = torch.randn(case[:2], dtype=torch.float64)
    V = torch.randn_like(P)
    expected = (with_zeros(P) * V).sum()
    torch.testing.assert_close(directional_derivative(P, V), expected)
    torch.testing.assert_close(directional_derivative(P, -V), -expected)


@over_cases
def test_the_shortest_subgradient(case) -> None:
    P = at_kinks(*case)
    result = min_norm_subgradient(P)
    X, G, g = residual(P), result.G, result.subgradient
    torch.testing.assert_close(g, 2 * P @ G)
    # It is a member.
    assert torch.equal(G, G.mT)
    assert (G.abs() <= 1).all()
    assert torch.equal(G[X != 0], torch.sign(X[X != 0]))
    # It is the shortest: L'(P; −g) = −‖g‖², the steepest descent that there is.
    assert 0 <= result.gap < 1e-12 * (1 + g.square().sum().item())
    torch.testing.assert_close(directional_derivative(P, -g), -g.square().sum(), rtol=1e-5, atol=1e-7)
    # And so no longer than the member with sign(0) = 0, nor than random ones.
    assert g.norm() <= with_zeros(P).norm() + 1e-9
    for _ in range(20):
        free = 2 * torch.rand_like(X) - 1
        other = torch.where(X == 0, (free + free.mT) / 2, torch.sign(X))
        assert g.norm() <= (2 * P @ other).norm() + 1e-9


def test_it_is_shorter_than_the_one_with_zeros() -> None:
    P = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.9]], dtype=torch.float64)
    assert min_norm_subgradient(P).subgradient.norm() < 0.9 * with_zeros(P).norm()


def test_at_orthonormal_vectors_it_is_zero() -> None:
    P = torch.eye(6, dtype=torch.float64)[:, :4]
    result = min_norm_subgradient(P)
    assert not result.subgradient.any()
    assert result.gap == 0


def test_entries_within_the_tolerance_count_as_kinks() -> None:
    P = torch.eye(3, dtype=torch.float64) + 1e-9
    assert min_norm_subgradient(P).subgradient.abs().max() > 1
    assert min_norm_subgradient(P, tol=1e-8).subgradient.abs().max() < 1e-5


def test_a_gap_is_a_bound_when_it_stops_early() -> None:
    P = at_kinks(8, 5, 3)
    best = min_norm_subgradient(P).subgradient.square().sum() / 2
    for steps in (1, 2, 5, 10):
        result = min_norm_subgradient(P, max_steps=steps)
        reached = result.subgradient.square().sum() / 2
        assert reached - best <= result.gap + 1e-12


def test_a_direction_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"must have the same shape; got \[3, 3\] and \[3, 2\]"):
        directional_derivative(torch.eye(3), torch.eye(3)[:, :2])
