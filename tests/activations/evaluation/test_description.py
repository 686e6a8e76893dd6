"""Description length, from its definition."""

import math

import pytest
import torch

from gramian.activations.evaluation import description_length
from gramian.activations.evaluation.description import gaussian_bits
from gramian.activations.evaluation.geometry import code_moments
from tests.activations.evaluation.conftest import codes_of


def test_bits_from_the_definition(known) -> None:
    x, phi, dense, codes = known
    bits = description_length(codes, code_moments(codes))
    residual = x.double() - torch.einsum("lmn,bmn->bl", phi.double(), dense.double())
    distortion = float(residual.square().mean())
    support = coefficients = error = 0.0
    for i in range(dense.shape[1]):
        active = dense[:, i][dense[:, i].any(dim=1)].double()
        p = len(active) / len(dense)
        if p == 0:
            continue
        support -= p * math.log2(p) + (1 - p) * math.log2(1 - p)
        for variance in torch.linalg.eigvalsh(torch.cov(active.T, correction=0)).tolist() if len(active) > 1 else []:
            coefficients += p * max(0.0, 0.5 * math.log2(max(variance, 1e-300) / distortion))
            error += p * min(variance, distortion)
    assert bits.distortion == pytest.approx(distortion, rel=1e-4)
    assert bits.support == pytest.approx(support, rel=1e-6)
    assert bits.codes == pytest.approx(coefficients, rel=1e-3)
    assert bits.total == bits.support + bits.codes
    powers = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0))
    total = error + distortion * 24
    low, high = 0.0, float(powers.max())
    for _ in range(100):  # bisection for the water level
        middle = (low + high) / 2
        low, high = (middle, high) if float(powers.clamp_max(middle).sum()) < total else (low, middle)
    assert bits.gaussian == pytest.approx(float((0.5 * (powers / low).clamp_min(1).log2()).sum()), rel=1e-2)


def test_a_dictionary_that_fits_needs_fewer_bits_than_a_gaussian() -> None:
    dense = torch.randn(4000, 16, 2) * (torch.rand(4000, 16, 1) < 0.1)
    phi = torch.linalg.qr(torch.randn(32, 32)).Q.view(32, 16, 2)
    x = torch.einsum("lmn,bmn->bl", phi, dense) + 0.02 * torch.randn(4000, 32)
    bits = description_length(codes := codes_of(dense, phi, x), code_moments(codes))
    assert bits.total < 0.5 * bits.gaussian


def test_an_exact_or_an_empty_reconstruction_has_finite_bits() -> None:
    exact = description_length(codes := codes_of(torch.randn(100, 3, 2)), code_moments(codes))
    assert 0 < exact.total < 1000
    nothing = codes_of(torch.zeros(100, 3, 2), x=torch.randn(100, 6))
    bits = description_length(nothing, code_moments(nothing))
    assert bits.total == 0
    assert bits.gaussian < 1
    zeros = codes_of(torch.zeros(10, 3, 2), x=torch.zeros(10, 6))
    assert description_length(zeros, code_moments(zeros)).gaussian == 0


def test_a_quantiser_needs_a_quarter_of_a_bit_more() -> None:
    """The statement of the docstring: rounding to multiples of √(12 D), with an entropy code."""
    values = 10 * torch.randn(200_000, dtype=torch.float64)
    step = math.sqrt(12 * 0.25)
    rounded = (values / step).round()
    error = float((values - step * rounded).square().mean())
    shares = rounded.unique(return_counts=True)[1] / len(values)
    entropy = float(-(shares * shares.log2()).sum())
    assert error == pytest.approx(0.25, rel=0.02)
    assert entropy - float(gaussian_bits(torch.tensor(100.0), 0.25)) == pytest.approx(0.254, abs=0.01)
