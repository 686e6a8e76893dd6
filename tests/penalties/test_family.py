"""What is special to penalties of the whole of X; their laws are in `tests/laws`."""

import torch
from torch import Tensor

import gramian
from gramian.penalties import PENALTIES, Coherence, Frobenius, LogDet, Spectral
from gramian.penalties.spectrum import onto_l1_ball


def number(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def test_dependent_vectors_are_infinitely_far_by_logdet() -> None:
    phi = torch.randn(6, 2, 3)
    phi[:, 1, 2] = phi[:, 1, 0]
    value, grad = gramian.value_and_grad(phi, penalty=LogDet())
    # A rounding of 0 is what is left of the least eigenvalue: its logarithm is far from that of any other, or infinite.
    near = gramian.loss(phi[:, :1], penalty=LogDet())
    assert value - near > 10
    torch.testing.assert_close(grad[:, :1], gramian.value_and_grad(phi[:, :1], penalty=LogDet())[1])


def test_small_residuals_lose_no_digits_by_logdet() -> None:
    x = torch.tensor([1e-9, -1e-5, 1e-3, 9.9e-3, 1.1e-2], dtype=torch.float64)
    value = LogDet().value(torch.diag_embed(x[:, None]))
    torch.testing.assert_close(value, x**2 / 2 - x**3 / 3 + x**4 / 4 - x**5 / 5 + x**6 / 6, rtol=1e-9, atol=0)


def test_onto_an_l1_ball() -> None:
    x = torch.randn(200, 7, dtype=torch.float64)
    found = onto_l1_ball(x, number(1.0))
    assert (found.abs().sum(dim=1) <= 1 + 1e-12).all()
    inside = 0.1 * x / x.abs().sum(dim=1, keepdim=True)
    assert torch.equal(onto_l1_ball(inside, number(1.0)), inside)
    others = torch.randn(500, 7, dtype=torch.float64)
    others /= others.abs().sum(dim=1, keepdim=True)
    # The nearest point makes no acute angle towards any other of the ball.
    assert ((x - found)[:, None] * (others[None] - found[:, None])).sum(dim=2).max() < 1e-12


def test_all_of_the_family_have_names() -> None:
    assert {type(each) for each in PENALTIES.values()} >= {Frobenius, Spectral, Coherence, LogDet}
