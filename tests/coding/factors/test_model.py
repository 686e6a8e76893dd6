"""The bound, inference, maximisation and moves, beside oracles written from the definition."""

import itertools
import math

import pytest
import torch

from gramian.coding import ManifoldSum
from gramian.coding.factors.ais import annealed_log_likelihood
from gramian.coding.factors.inference import Candidates, bound, infer, search, sweep
from gramian.coding.factors.learning import anneal, begin, improve
from gramian.coding.factors.maximization import maximize
from gramian.coding.factors.moments import moments
from gramian.coding.factors.moves import accept_moves, merges, splits
from gramian.coding.factors.options import FactorOptions
from gramian.coding.factors.parameters import FactorParameters
from gramian.coding.factors.posterior import dense
from gramian.coding.factors.start import random_frames

OPTIONS = FactorOptions(
    n_groups=12,
    group_size=3,
    active=2,
    start="autoencoder",
    start_steps=600,
    anneal_steps=10,
    batch_size=2000,
    max_iter=6,
    tol=0.0,
    candidates=4,
    sweeps=3,
    min_noise=1e-4,
)


def small_model(noise: float = 0.05, m: int = 6, n: int = 2, l: int = 12) -> FactorParameters:  # noqa: E741
    phi = random_frames(l, m, n, torch.Generator().manual_seed(1))
    variances = torch.linspace(0.5, 2.0, m * n, dtype=torch.float64).reshape(m, n)
    variances[0, 1] = 0.0
    return FactorParameters(phi, torch.linspace(0.1, 0.4, m, dtype=torch.float64), variances, noise)


def draw(p: FactorParameters, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    l, m, n = p.phi.shape  # noqa: E741
    on = torch.rand(count, m, dtype=torch.float64) < p.pi
    a = torch.randn(count, m, n, dtype=torch.float64) * p.variances.sqrt() * on[..., None]
    noise = math.sqrt(p.noise) * torch.randn(count, l, dtype=torch.float64)
    return torch.einsum("bmn,lmn->bl", a, p.phi) + noise, on


def enumerate_states(x: torch.Tensor, p: FactorParameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute log p(x), the inclusion probabilities and the means of s a, by a sum over all sets of groups."""
    l, m, _ = p.phi.shape  # noqa: E741
    logs, states, means = [], [], []
    for state in itertools.product((0, 1), repeat=m):
        s = torch.tensor(state, dtype=torch.float64)
        scale = p.variances * s[:, None]
        covariance = torch.einsum("imn,mn,jmn->ij", p.phi, scale, p.phi) + p.noise * torch.eye(l, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(torch.zeros(l, dtype=torch.float64), covariance)
        prior = (s * p.pi.log() + (1 - s) * torch.log1p(-p.pi)).sum()
        logs.append(normal.log_prob(x) + prior)
        states.append(s)
        means.append(torch.einsum("lmn,bl->bmn", p.phi, torch.linalg.solve(covariance, x.mT).mT) * scale)
    log = torch.stack(logs)
    weights = log.softmax(dim=0)
    inclusion = torch.einsum("sb,sm->bm", weights, torch.stack(states))
    return log.logsumexp(dim=0), inclusion, torch.einsum("sb,sbmn->bmn", weights, torch.stack(means))


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_the_posterior_beside_enumeration(noise) -> None:
    p = small_model(noise)
    x, _ = draw(p, 300)
    exact, inclusion, means = enumerate_states(x, p)
    candidates = infer(x, p, 6, 30)
    lower = bound(x, p, candidates)
    assert bool((lower <= exact + 1e-9).all())
    assert float((exact - lower).mean()) < 0.6
    q, mu = dense(p, candidates)
    assert float((q - inclusion).abs().mean()) < 0.05
    assert float((q[..., None] * mu - means).square().mean()) < 0.05 * float(means.square().mean())


def test_groups_that_are_orthogonal_have_the_exact_posterior() -> None:
    p = small_model(0.1)
    phi = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q.reshape(12, 6, 2)
    p = FactorParameters(phi, p.pi, p.variances, p.noise)
    x, _ = draw(p, 100)
    exact, inclusion, means = enumerate_states(x, p)
    full = Candidates(
        torch.arange(6).expand(100, 6), torch.zeros(100, 6).double(), *torch.zeros(2, 100, 6, 2).double().unbind()
    )
    candidates = sweep(x, p, full, 1)
    q, mu = dense(p, candidates)
    torch.testing.assert_close(bound(x, p, candidates), exact)
    torch.testing.assert_close(q, inclusion)
    torch.testing.assert_close(q[..., None] * mu, means)


def test_annealed_importance_sampling_closes_the_gap() -> None:
    p = small_model(0.3)
    x, _ = draw(p, 40)
    exact, _, _ = enumerate_states(x, p)
    candidates = infer(x, p, 6, 10)
    lower = bound(x, p, candidates)
    estimate = annealed_log_likelihood(
        x, p, candidates, chains=32, steps=20, generator=torch.Generator().manual_seed(0)
    )
    gap, rest = float((exact - lower).mean()), float((exact - estimate).mean())
    assert abs(rest) < 0.3 * gap
    assert gap > 0.02


def test_the_search_is_greedy_and_drops_groups() -> None:
    p = small_model(1e-4)
    x, on = draw(p, 500)
    candidates = search(x, p, 6)
    chosen, _ = dense(p, candidates)
    assert float(((chosen > 0) == on).all(dim=1).double().mean()) > 0.9
    assert all(len(set(row)) == len(row) for row in candidates.groups.tolist())
    # The coefficients are the exact posterior means given the groups that are on.
    for b in range(5):
        groups = [g for g in range(6) if chosen[b, g] > 0]
        atoms = p.phi[:, groups].flatten(1)
        v = p.variances[groups].flatten()
        covariance = (atoms * v) @ atoms.mT + p.noise * torch.eye(12, dtype=torch.float64)
        expected = v * (atoms.mT @ torch.linalg.solve(covariance, x[b]))
        _, means = dense(p, candidates)
        torch.testing.assert_close(means[b, groups].flatten(), expected, rtol=1e-6, atol=1e-8)


def test_sweeps_never_lower_the_bound_of_a_sample() -> None:
    p = small_model(0.1)
    x, _ = draw(p, 200)
    candidates = search(x, p, 4)
    value = bound(x, p, candidates)
    for _ in range(5):
        candidates = sweep(x, p, candidates, 1)
        new = bound(x, p, candidates)
        assert bool((new >= value - 1e-9).all())
        value = new


def test_each_maximisation_raises_the_bound() -> None:
    truth = small_model(0.05)
    x, _ = draw(truth, 2000)
    x += 1
    phi = random_frames(12, 8, 2, torch.Generator().manual_seed(5))
    p = FactorParameters(phi, torch.full((8,), 0.2).double(), torch.ones(8, 2).double(), 0.5)
    candidates = infer(x, p, 5, 3)
    values = [float(bound(x, p, candidates).mean())]
    for _ in range(12):
        p, rotations = maximize(p, moments(p.centred(x), p, candidates), collapsed=False, floor=1e-6, center=True)
        candidates = candidates.rotate(rotations)
        values.append(float(bound(p.centred(x), p, candidates).mean()))
        candidates = sweep(p.centred(x), p, candidates, 2)
        values.append(float(bound(p.centred(x), p, candidates).mean()))
        eye = torch.eye(2, dtype=torch.float64).expand(8, 2, 2)
        torch.testing.assert_close(torch.einsum("lmi,lmj->mij", p.phi, p.phi), eye)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))
    assert values[-1] > values[0] + 1
    assert p.mean is not None
    torch.testing.assert_close(p.mean, torch.ones(12).double(), atol=0.1, rtol=0)


def test_the_bound_never_falls_on_full_batches() -> None:
    data = ManifoldSum(16, n_factors=6, active=2, noise=0.1)
    x = 4 * data.draw(1500, seed=1).x.double()
    generator = torch.Generator().manual_seed(0)
    _, history = improve(x, begin(x, OPTIONS, generator), OPTIONS)
    assert len(history) == 7
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(history))


def test_a_group_of_two_factors_is_split_and_parts_are_merged() -> None:
    l, n, count = 24, 4, 4000  # noqa: E741
    frames = random_frames(l, 3, n, torch.Generator().manual_seed(3)).float()
    on = torch.rand(count, 4) < torch.tensor([0.2, 0.2, 0.2, 0.2])
    a = torch.randn(count, 4, 2) * on[..., None]
    # Factors 0 and 1 lie in one frame; factor 2 is a circle in another.
    angle = 2 * math.pi * torch.rand(count)
    a[:, 2] = 1.4 * torch.stack([angle.cos(), angle.sin()], dim=1) * on[:, 2, None]
    x = torch.einsum("bfd,lfd->bl", a[:, :3], torch.stack([frames[:, 0, :2], frames[:, 0, 2:], frames[:, 1, :2]], 1))
    x += 0.05 * torch.randn(count, l)
    phi = torch.stack([frames[:, 0] @ torch.linalg.qr(torch.randn(4, 4)).Q, frames[:, 1]], dim=1)
    used = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    p = FactorParameters(phi, torch.tensor([0.36, 0.2]), used, 0.0025)
    candidates = infer(x, p, 4, 2)
    moves = splits(p, candidates, 5)
    assert [move.old for move in moves] == [(0,)]
    assert sorted((moves[0].variances > 0).sum(dim=1).tolist()) == [2, 2]
    split, accepted = accept_moves(x, p, candidates, moves, k=4, sweeps=2)
    assert len(accepted) == 1
    assert len(split.pi) == 3
    overlap = torch.einsum("lmi,lj->mij", split.phi[:, :, :2], frames[:, 0, :2]).square().sum(dim=(1, 2))
    assert float(overlap.max()) > 1.9
    assert splits(p, candidates, 0) == []
    assert merges(split, infer(x, split, 4, 2)) == []

    # The circle in two groups of one direction is merged, and so are two groups of one subspace.
    halves = torch.stack([frames[:, 1], frames[:, 1].roll(-1, dims=1), frames[:, 0]], dim=1)
    p = FactorParameters(
        halves, torch.tensor([0.2, 0.2, 0.36]), torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [1] * 4]), 0.0025
    )
    candidates = infer(x, p, 4, 2)
    merged, accepted = accept_moves(x, p, candidates, merges(p, candidates), k=4, sweeps=2)
    assert [move.old for move in accepted] == [(0, 1)]
    overlap = torch.einsum("li,lj->ij", merged.phi[:, -1, :2], frames[:, 1, :2]).square().sum()
    assert float(overlap) == pytest.approx(2, abs=1e-2)


@pytest.mark.parametrize(("room", "parts"), [(0, []), (1, [1, 3]), (2, [1, 1, 2]), (3, [1] * 4), (9, [1] * 4)])
def test_a_group_is_split_into_as_many_parts_as_there_is_room_for(room, parts) -> None:
    frame, count = random_frames(24, 1, 4, torch.Generator().manual_seed(3)).float(), 4000
    alone = torch.nn.functional.one_hot(torch.randint(4, (count,)), 4)  # never two of the four directions at once
    x = (torch.randn(count, 4) * alone) @ frame[:, 0].mT + 0.05 * torch.randn(count, 24)
    p = FactorParameters(frame, torch.tensor([0.9]), torch.ones(1, 4) / 4, 0.0025)
    moves = splits(p, infer(x, p, 1, 2), room)
    assert sorted(dimension for move in moves for dimension in (move.variances > 0).sum(dim=1).tolist()) == parts


def test_factors_are_recovered_with_their_dimensions() -> None:
    data = ManifoldSum(24, n_factors=8, active=2)
    x = 24**0.5 * data.draw(6000, seed=1).x
    generator = torch.Generator().manual_seed(0)
    p = anneal(x, begin(x, OPTIONS, generator), OPTIONS, generator)
    live = (p.variances > p.noise).double()
    inside = torch.einsum("lmi,lfd->mfid", p.phi.double(), data.phi).square()
    captured = torch.einsum("mfid,mi->mf", inside, live)
    best = captured.max(dim=0)
    dimensions = torch.tensor(data.dimensions).double()
    right = (best.values > 0.95 * dimensions) & (live.sum(dim=1)[best.indices] == dimensions)
    assert int(right.sum()) >= 7
