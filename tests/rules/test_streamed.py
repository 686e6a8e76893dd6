"""The proximal step of groups with more vectors than dimensions, whose X is never held."""

import pytest
import torch
from torch import Tensor

import gramian
from gramian.kernels import norms
from gramian.kernels.dispatch import choose
from gramian.penalties import Penalty
from gramian.rules import prox, proximal
from tests.cases import over_penalties, overcomplete_is_meant

pytestmark = overcomplete_is_meant

SHAPES = ((40, 1, 700), (60, 2, 300), (9, 3, 20), (1, 2, 5), (3, 2, 4))


def draw(shape: tuple[int, int, int], scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64) / shape[0] ** 0.5


def factors(phi: Tensor, lr: float, penalty: Penalty) -> list[tuple[Tensor, Tensor]]:
    """C and w of each group, X held."""
    pairs = []
    for P in phi.unbind(1):
        w = norms.gram_norm(P).clamp_min(1)
        X = P.mT @ P - torch.eye(P.shape[1], dtype=P.dtype)
        pairs.append((penalty.prox_residual(X, 4 * lr * w), w))
    return pairs


@over_penalties
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("lr", [1e-3, 0.1, float("inf")])
def test_it_is_the_step_with_x_held(case, shape, scale, lr) -> None:
    phi = draw(shape, scale)
    with gramian.kernels.use("panel"):
        step = proximal(phi, lr=lr, beta=1.0, penalty=case.penalty)
        assert prox._streams(choose(phi, case.penalty), phi)
    torch.testing.assert_close(step.loss, gramian.loss(phi, penalty=case.penalty))
    for P, change, (C, w) in zip(phi.unbind(1), step.change.unbind(1), factors(phi, lr, case.penalty), strict=True):
        product = P @ C
        size = -0.5 * (product * product).sum() / (product * change).sum()
        torch.testing.assert_close(change, -0.5 / size * product)
        norm = torch.linalg.matrix_norm(C, 2)
        assert w * (1 - 1e-9) <= size <= torch.maximum(w, norm) * (1 + 1e-9)
        assert size >= 0.6 * norm


@pytest.mark.parametrize("rule", ["l1", "squared_frobenius"])
def test_in_place_and_by_the_pure_rule_alike(rule) -> None:
    phi = draw((40, 2, 100))
    penalty = gramian.penalties.as_penalty(rule)
    with gramian.kernels.use("panel"):
        step = proximal(phi, lr=0.02, beta=1.0, penalty=penalty)
        moved = phi.clone()
        loss = gramian.step_(moved, lr=0.02, penalty=penalty)
    torch.testing.assert_close(moved, phi + step.change)
    assert loss == step.loss


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_it_descends(scale) -> None:
    phi = draw((64, 1, 256), scale)
    with gramian.kernels.use("panel"):
        losses = [gramian.step_(phi, lr=0.001).item() for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0]
    assert losses[-1] <= min(losses) * 1.01


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_fills_its_group_and_no_other(bad) -> None:
    phi = draw((8, 3, 20))
    good = proximal(phi, lr=0.1, beta=1.0, penalty=gramian.penalties.L1()).change
    phi[2, 1, 3] = bad
    with gramian.kernels.use("panel"):
        change = proximal(phi, lr=0.1, beta=1.0, penalty=gramian.penalties.L1()).change
    assert change[:, 1].isnan().all()
    assert change[:, [0, 2]].isfinite().all()
    assert good.isfinite().all()


FAMILIES = {
    "random signs": lambda n: torch.randint(0, 2, (n, n)).double() * 2 - 1,
    "all ones": lambda n: torch.ones(n, n, dtype=torch.float64),
    "one block": lambda n: torch.block_diag(torch.zeros(50, 50), torch.ones(40, 40), torch.zeros(n - 90, n - 90)),
    "diagonal": lambda n: torch.diag(torch.randn(n, dtype=torch.float64)),
    "zero": lambda n: torch.zeros(n, n, dtype=torch.float64),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n", [100, 500])
def test_a_norm_of_what_is_seen_in_panels(family, n) -> None:
    M = FAMILIES[family](n).double()
    M = torch.triu(M) + torch.triu(M, 1).mT
    watched = norms.StreamingNorm(M[:, ::32])
    for first in range(0, n, 70):
        watched.update(first, M[first : first + 70, first:])
    exact = torch.linalg.matrix_norm(M, 2)
    assert watched.norm() <= exact * (1 + 1e-12)
    assert watched.norm() >= 0.65 * exact


@pytest.mark.parametrize("shape", [(20, 300), (300, 20), (1, 5), (7, 1)], ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_norm_of_a_gram_matrix_that_is_not_formed(shape, scale) -> None:
    P = scale * torch.randn(shape, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(P, 2) ** 2
    assert 0.7 * exact <= norms.gram_norm(P) <= exact * (1 + 1e-12)


def test_a_few_groups_at_a_time(monkeypatch) -> None:
    phi = draw((5, 30, 90))
    whole = phi.clone()
    before = gramian.step_(whole, lr=0.1)
    monkeypatch.setattr(prox, "_ROOM", 0)
    penalty = gramian.penalties.L1()
    assert len(prox._parts(choose(phi, penalty), phi, penalty)) > 10
    step = proximal(phi, lr=0.1, beta=1.0, penalty=gramian.penalties.L1())
    stepped = phi.clone()
    loss = gramian.step_(stepped, lr=0.1)
    torch.testing.assert_close(stepped, whole)
    torch.testing.assert_close(phi + step.change, whole)
    torch.testing.assert_close(loss, before)
    torch.testing.assert_close(step.loss, before)
