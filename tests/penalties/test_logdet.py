"""The log-determinant divergence; the laws are in `tests/laws`."""

import torch

import gramian
from gramian.penalties import LogDet


def test_logdet_of_dependent_vectors_is_very_large() -> None:
    phi = torch.randn(6, 2, 3)
    phi[:, 1, 2] = phi[:, 1, 0]
    value, grad = gramian.value_and_grad(phi, penalty=LogDet())
    # The smallest eigenvalue is 0 up to rounding: its logarithm is very large, or infinite.
    independent = gramian.loss(phi[:, :1], penalty=LogDet())
    assert value - independent > 10
    torch.testing.assert_close(grad[:, :1], gramian.value_and_grad(phi[:, :1], penalty=LogDet())[1])


def test_logdet_of_small_residuals_loses_no_digits() -> None:
    x = torch.tensor([1e-9, -1e-5, 1e-3, 9.9e-3, 1.1e-2], dtype=torch.float64)
    value = LogDet().value(torch.diag_embed(x[:, None]))
    torch.testing.assert_close(value, x**2 / 2 - x**3 / 3 + x**4 / 4 - x**5 / 5 + x**6 / 6, rtol=1e-9, atol=0)
