"""The gradient by every route, against autograd, finite differences and the kernels."""

import pytest
import torch

import gramian
from gramian.calculus import (
    derivative_by_vector,
    gradient_by_index,
    gradient_by_vec,
    gram_jacobian,
    hessian_vector_product,
    residual,
    unvec,
    vec,
)
from gramian.errors import ShapeError
from gramian.penalties import L1, PENALTIES, Cosine, SquaredFrobenius, Weighted, as_penalty

COMPOSED = {
    "elastic": L1() + 0.1 * SquaredFrobenius(),
    "angles": L1(diagonal=False),
    "weighted": Weighted(L1(), torch.tensor([[1.0, 0, 2], [0, 1, 1], [2, 1, 0]])),
}
MEMBERS = {**{name: as_penalty(name) for name in PENALTIES}, **COMPOSED}
TWICE = ("l1", "huber", "squared_frobenius", "frobenius", "logdet", "elastic", "angles", "weighted")
"""Those with a derivative of G almost everywhere; eigenvectors and the largest entry move along with X."""

over_members = pytest.mark.parametrize("mu", MEMBERS.values(), ids=MEMBERS)


def random(*shape: int) -> torch.Tensor:
    return 0.5 * torch.randn(*shape, dtype=torch.float64)


def by_autograd(mu, P: torch.Tensor) -> torch.Tensor:
    leaf = P.clone().requires_grad_()
    return torch.autograd.grad(mu.value(residual(leaf)), leaf)[0]


def by_differences(mu, P: torch.Tensor) -> torch.Tensor:
    gradient = torch.zeros_like(P)
    for place in range(P.numel()):
        change = torch.zeros(P.numel(), dtype=P.dtype)
        change[place] = 1e-6
        change = change.reshape(P.shape)
        gradient.view(-1)[place] = (mu.value(residual(P + change)) - mu.value(residual(P - change))) / 2e-6
    return gradient


@over_members
class TestGradient:
    def test_by_every_route(self, mu) -> None:
        P = random(5, 3)
        expected = by_autograd(mu, P)
        torch.testing.assert_close(by_differences(mu, P), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient_by_vec(P, mu), expected)
        torch.testing.assert_close(gradient_by_index(P[:, None], mu)[:, 0], expected)
        torch.testing.assert_close(gramian.value_and_grad(P, penalty=mu)[1], expected)

    def test_of_one_vector(self, mu) -> None:
        phi = random(4, 2, 3)
        whole = gramian.value_and_grad(phi, penalty=mu)[1]
        torch.testing.assert_close(gradient_by_index(phi, mu), whole)
        for a in range(phi.shape[1]):
            for b in range(3):
                torch.testing.assert_close(derivative_by_vector(phi, a, b, mu), whole[:, a, b])


@pytest.mark.parametrize("name", TWICE)
def test_hessian_vector_products(name) -> None:
    mu = MEMBERS[name]
    P, V = random(5, 3), random(5, 3)
    product = hessian_vector_product(P, V, mu)

    difference = (by_autograd(mu, P + 1e-6 * V) - by_autograd(mu, P - 1e-6 * V)) / 2e-6
    torch.testing.assert_close(product, difference, rtol=1e-5, atol=1e-5)
    # Symmetric: ⟨U, HV⟩ = ⟨V, HU⟩.
    U = random(5, 3)
    torch.testing.assert_close((U * product).sum(), (V * hessian_vector_product(P, U, mu)).sum())


def test_the_hessian_by_autograd() -> None:
    P, V = random(5, 3), random(5, 3)
    for name in ("squared_frobenius", "logdet"):
        mu = MEMBERS[name]
        _, expected = torch.autograd.functional.hvp(lambda Q, mu=mu: mu.value(residual(Q)), P, V)
        torch.testing.assert_close(hessian_vector_product(P, V, mu), expected)


def test_directions_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"must have the same shape; got \[5, 3\] and \[5, 2\]"):
        hessian_vector_product(random(5, 3), random(5, 2))


@pytest.mark.parametrize(("length", "n"), [(5, 3), (2, 4), (3, 3), (4, 1)])
def test_the_jacobian_is_autograds(length, n) -> None:
    P = random(length, n)

    def by_vec(v: torch.Tensor) -> torch.Tensor:
        return vec(residual(unvec(v, length)))

    J = torch.autograd.functional.jacobian(by_vec, vec(P))
    assert J.shape == (n * n, length * n)
    torch.testing.assert_close(gram_jacobian(P), J)


def test_the_rank_of_the_jacobian_is_the_codimension() -> None:
    """At orthonormal P, n(n + 1)/2 equations cut out the Stiefel manifold."""
    Q = torch.linalg.qr(random(5, 3)).Q
    assert torch.linalg.matrix_rank(gram_jacobian(Q)).item() == 6


def test_the_cosine_form_has_no_gradient_along_a_vector() -> None:
    P = random(5, 3)
    gradient = gramian.value_and_grad(P, penalty=Cosine(L1()))[1]
    torch.testing.assert_close((gradient * P).sum(dim=0), torch.zeros(3, dtype=torch.float64))
