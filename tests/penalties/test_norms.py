"""Norms of X as a whole; the laws are in `tests/laws`."""

import torch
from torch import Tensor

from gramian.penalties.norms import project_on_l1_ball


def number(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def test_projection_on_an_l1_ball() -> None:
    x = torch.randn(200, 7, dtype=torch.float64)
    projected = project_on_l1_ball(x, number(1.0))
    assert (projected.abs().sum(dim=1) <= 1 + 1e-12).all()
    inside = 0.1 * x / x.abs().sum(dim=1, keepdim=True)
    assert torch.equal(project_on_l1_ball(inside, number(1.0)), inside)
    others = torch.randn(500, 7, dtype=torch.float64)
    others /= others.abs().sum(dim=1, keepdim=True)
    # The projection y of x satisfies ⟨x − y, z − y⟩ ≤ 0 for every z in the ball.
    assert ((x - projected)[:, None] * (others[None] - projected[:, None])).sum(dim=2).max() < 1e-12
