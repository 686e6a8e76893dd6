"""Linear maps from codes to samples: adjoints, and a convolution against the dense matrix that it is."""

import pytest
import torch

from gramian.coding import METHODS, Convolution, Dense, duality_gap
from gramian.coding.inference import fista
from gramian.errors import ShapeError
from tests.cases import stiefel


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


MAPS = {
    "dense": (lambda: Dense(stiefel(12, 5, 2)), (3, 12)),
    "more atoms than samples are long": (lambda: Dense(stiefel(12, 20, 2)), (3, 12)),
    "convolution": (lambda: Convolution(random(6, 2, 3, 4), 2), (3, 2, 9, 11)),
    "convolution, stride 2": (lambda: Convolution(random(6, 2, 3, 4), 3, stride=2), (3, 2, 9, 12)),
}
over_maps = pytest.mark.parametrize("name", MAPS)


@over_maps
def test_analysis_is_the_transpose_of_synthesis(name) -> None:
    make, shape = MAPS[name]
    synthesis, x = make(), random(*shape)
    codes = torch.randn_like(synthesis.zeros(x))
    assert synthesis.synthesise(codes).shape == x.shape
    assert synthesis.analyse(x).shape == codes.shape
    torch.testing.assert_close((synthesis.synthesise(codes) * x).sum(), (codes * synthesis.analyse(x)).sum())


@over_maps
def test_descent_is_a_gradient_step(name) -> None:
    make, shape = MAPS[name]
    synthesis, x = make(), random(*shape)
    codes = torch.randn_like(synthesis.zeros(x))
    expected = codes + 0.3 * synthesis.analyse(x - synthesis.synthesise(codes))
    torch.testing.assert_close(synthesis.descent(x, 0.3)(codes), expected)


@over_maps
def test_the_bound_is_one(name) -> None:
    make, shape = MAPS[name]
    synthesis, x = make(), random(*shape)
    zeros = synthesis.zeros(x[:1])
    columns = torch.eye(zeros.numel(), dtype=x.dtype).reshape(-1, *zeros.shape[1:])
    matrix = synthesis.synthesise(columns).flatten(1)
    largest = torch.linalg.matrix_norm(matrix, 2).square().item()
    assert largest <= synthesis.bound(x) <= 1.09 * largest


@pytest.mark.parametrize(
    ("stride", "method"),
    [
        (1, METHODS["fista"]),
        pytest.param(1, METHODS["lca"], marks=pytest.mark.slow),
        pytest.param(2, METHODS["fista"], marks=pytest.mark.slow),
        (2, METHODS["lca"]),
    ],
)
def test_a_convolution_codes_as_its_dense_matrix_does(method, stride) -> None:
    convolution = Convolution(random(4, 1, 3, 3), 2, stride=stride)
    x = 3 * random(2, 1, 5, 7)
    zeros = convolution.zeros(x[:1])
    _, m, n, rows, columns = zeros.shape
    # The same map as a dense dictionary: a group for each group at each place.
    basis = torch.eye(zeros.numel(), dtype=x.dtype).reshape(-1, *zeros.shape[1:])
    matrix = convolution.synthesise(basis).flatten(1).mT
    phi = matrix.reshape(-1, m, n, rows * columns).transpose(2, 3).reshape(-1, m * rows * columns, n)
    found = method(x, convolution, lam=1.0, max_iter=20000, tol=1e-9)
    dense = method(x.flatten(1), phi, lam=1.0, max_iter=20000, tol=1e-9)
    assert found.converged
    regrouped = dense.codes.unflatten(1, (m, rows * columns)).transpose(2, 3).unflatten(3, (rows, columns))
    torch.testing.assert_close(found.codes, regrouped, rtol=0, atol=1e-3)


def test_the_gap_of_a_convolutional_code_is_a_bound() -> None:
    convolution, x = Convolution(random(4, 1, 3, 3), 2), random(2, 1, 8, 8)
    best = duality_gap(x, convolution, fista(x, convolution, lam=0.5, max_iter=20000, tol=1e-11).codes, 0.5)[1]
    for iterations in (1, 5, 20):
        rough = fista(x, convolution, lam=0.5, max_iter=iterations, tol=0.0)
        gap, total = duality_gap(x, convolution, rough.codes, 0.5)
        assert (total - best <= gap + 1e-9).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Convolution(random(5, 1, 3, 3), 2),
            r"kernels must have shape .* groups of 2; got \[5, 1, 3, 3\]",
        ),
        (lambda: Convolution(random(4, 1, 3, 3), 2).zeros(random(2, 2, 8, 8)), r"\[batch, 1, height, width\].*got"),
        (lambda: Convolution(random(4, 1, 3, 3), 2).zeros(random(2, 1, 2, 8)), "at least 3 × 3"),
        (
            lambda: Convolution(random(4, 1, 3, 3), 2, stride=2).zeros(random(2, 1, 8, 9)),
            "must cover a sample without a remainder",
        ),
    ],
)
def test_shapes_that_do_not_fit(make, message) -> None:
    with pytest.raises(ShapeError, match=message):
        make()
