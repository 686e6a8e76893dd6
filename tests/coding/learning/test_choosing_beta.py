"""From which β on groups stay orthonormal: 2β ≥ λ max_j E[a_ij²/‖a_i‖], where the hard constraint leads."""

import math

import pytest
import torch

import gramian
from gramian.coding import Learner, LearningOptions, cosine_decay, group_norms, initial_dictionary, smallest_beta
from gramian.coding.inference import fista

pytestmark = pytest.mark.slow

LAM, LR = 0.5, 0.3


@pytest.fixture(scope="module")
def ended() -> tuple[torch.Tensor, torch.Tensor]:
    """All samples there are, and where learning with exactly orthonormal groups ends."""
    truth = gramian.orthogonalize(torch.randn(10, 4, 2, dtype=torch.float64)).phi
    chosen = torch.rand(200, 4, 1, dtype=torch.float64) < 0.4
    x = torch.einsum("lmn,bmn->bl", truth, 2 * chosen * torch.randn(200, 4, 2, dtype=torch.float64))
    x = x + 0.1 * torch.randn_like(x)
    phi = learned(x, initial_dictionary(10, 4, 2, seed=0).double(), beta=math.inf, steps=250)
    return x, phi


def learned(x: torch.Tensor, phi: torch.Tensor, *, beta: float, steps: int) -> torch.Tensor:
    hard = math.isinf(beta)
    one = Learner(phi, LearningOptions(lam=LAM, beta=1.0 if hard else beta, iterations=30, patience=None))
    for step in range(steps):
        one.step(x, lr=LR if hard else cosine_decay(LR, step, steps))  # at a constant rate η, X stays of order η²
        if hard:
            one.phi = gramian.orthogonalize(one.phi).phi
    return one.phi


def test_the_bound_is_where_groups_let_go(ended) -> None:
    x, phi = ended
    codes = fista(x, phi, lam=LAM, tol=1e-12, max_iter=20000).codes
    norms = group_norms(codes)
    shares = torch.einsum("bmj,bmk->mjk", codes / norms.clamp_min(1e-12)[..., None], codes) / len(x)
    error = x - torch.einsum("lmn,bmn->bl", phi, codes)
    # On the samples that use a group, Φ_iᵀ(x − Φa) = λ a_i/‖a_i‖: what pulls on a group, seen from within, is λ·shares.
    pull = torch.einsum("lmj,bl,bmk->mjk", phi, error, codes) / len(x)
    torch.testing.assert_close(pull, LAM * shares, rtol=0, atol=1e-5)
    # Each is positive semidefinite, so its largest entry stands on its diagonal.
    assert (shares.abs().amax((1, 2)) == shares.diagonal(dim1=1, dim2=2).amax(1)).all()
    assert (shares.diagonal(dim1=1, dim2=2).sum(1) - norms.mean(0)).abs().max() < 1e-9
    bound = smallest_beta(codes, LAM)
    assert bound == pytest.approx(0.5 * LAM * shares.amax().item())
    last = cosine_decay(LR, 99, 100)  # X stays of order η²
    assert gramian.residual(learned(x, phi, beta=1.15 * bound, steps=100)).abs().max() < 2 * last**2
    let_go = gramian.residual(learned(x, phi, beta=0.8 * bound, steps=100))
    assert let_go.abs().max() > 1e-3
    # The first to let go is the length of the atom that is used most.
    where = let_go.abs().flatten().argmax()
    assert where == shares.flatten().argmax()
    assert let_go.flatten()[where] > 0
