"""Each selection keeps what it promises, and in use the code of a sample does not depend on its batch."""

import pytest
import torch

from gramian.coding.encoders import BatchTopK, Candidates, Discoveries, Selection, SoftThreshold, Threshold, TopK
from gramian.coding.encoders.discoveries import benjamini_hochberg, fitted
from gramian.coding.encoders.products import largest_products, weighted_sum
from gramian.coding.features import BlockSparseAutoencoder
from gramian.coding.inference import refit

M, N, L, ACTIVE = 20, 2, 24, 3
KINDS = {"topk": TopK, "batch_topk": BatchTopK, "threshold": Threshold, "soft": SoftThreshold}


def frames() -> torch.Tensor:
    return BlockSparseAutoencoder(L, n_groups=M, group_size=N, active=ACTIVE, seed=3).frames.detach()


def draw(selection: Selection, count: int = 256) -> tuple[Candidates, torch.Tensor]:
    x = torch.randn(count, L)
    return Candidates(*largest_products(x, frames(), None, selection.slots, scale=selection.scale)), x


def make(name: str) -> Selection:
    return Discoveries(M, ACTIVE, rate=0.1) if name == "fdr" else KINDS[name](M, ACTIVE)


def trained(name: str, batches: int = 60) -> Selection:
    selection = make(name)
    for _ in range(batches):
        candidates, x = draw(selection)
        codes = selection(candidates, x, frames())
        selection.track_(selection.observed(candidates, codes, x - weighted_sum(codes, frames(), candidates.groups)))
    return selection


def count(codes: torch.Tensor) -> float:
    return float((codes != 0).any(dim=2).sum(dim=1).double().mean())


@pytest.mark.slow  # tests/coding/features/test_module.py has this for the whole module
@pytest.mark.parametrize("name", list(KINDS))
def test_as_many_active_groups_as_asked(name) -> None:
    selection = trained(name)
    candidates, x = draw(selection, 4000)
    assert count(selection(candidates, x, frames())) == pytest.approx(ACTIVE, rel=0.03)
    selection.eval()
    assert count(selection(candidates, x, frames())) == pytest.approx(ACTIVE, rel=0.03)


@pytest.mark.parametrize("name", [*KINDS, "fdr"])
def test_in_use_a_code_is_that_of_its_sample_alone(name) -> None:
    selection = trained(name, 5).eval()
    candidates, x = draw(selection, 40)
    whole = selection(candidates, x, frames())
    for i in range(0, 40, 7):
        one = selection(Candidates(*(each[i : i + 1] for each in candidates)), x[i : i + 1], frames())
        torch.testing.assert_close(one[0], whole[i])


def test_the_largest_of_the_batch_or_of_the_sample() -> None:
    for name, per_sample in (("topk", True), ("batch_topk", False)):
        selection = make(name)
        candidates, x = draw(selection, 50)
        kept = (selection(candidates, x, frames()) != 0).any(dim=2)
        assert int(kept.sum()) == 50 * ACTIVE
        assert bool((kept.sum(dim=1) == ACTIVE).all()) is per_sample
        assert candidates.norms[kept].min() > (0 if per_sample else float(candidates.norms[~kept].max()))


def test_the_first_batch_has_its_own_threshold() -> None:
    for name in ("threshold", "soft"):
        selection = make(name)
        candidates, x = draw(selection)
        assert count(selection(candidates, x, frames())) == pytest.approx(ACTIVE, rel=0.01)


def test_soft_thresholds_shorten_codes_and_learn() -> None:
    selection = trained("soft")
    with torch.no_grad():
        selection.log_ratio[:10] = 0.5
    candidates, x = draw(selection, 2000)
    codes = selection(candidates, x, frames())
    lengths, before = codes.norm(dim=2), candidates.values.norm(dim=2)
    ratio = (selection.log_ratio - selection.log_ratio.mean()).exp().detach()[candidates.groups]
    torch.testing.assert_close(lengths, (before - selection.threshold * ratio).clamp_min(0))
    codes.square().sum().backward()
    assert selection.log_ratio.grad.any()
    assert (candidates.norms.diff(dim=1) <= 0).all()


def test_only_a_soft_threshold_has_a_price() -> None:
    for name in KINDS:
        selection = trained(name, 2)
        candidates, x = draw(selection, 20)
        codes = selection(candidates, x, frames())
        price = selection.price(codes, selection.observed(candidates, codes, x))
        assert (price is None) == (name != "soft")
        if price is not None:
            torch.testing.assert_close(price, 0.6 * selection.threshold * codes.norm(dim=2).sum(dim=1))


def test_benjamini_hochberg_beside_the_definition() -> None:
    p = torch.rand(200, 6, dtype=torch.float64) ** 3
    kept = benjamini_hochberg(p, m=M, rate=0.3)
    for row, mask in zip(p, kept, strict=True):
        ordered = sorted(row.tolist())
        best = max((j for j in range(1, 7) if ordered[j - 1] <= 0.3 * j / M), default=0)
        assert int(mask.sum()) == best
        assert set(row[mask].tolist()) == set(ordered[:best])
    assert 0 < kept.sum() < kept.numel()


def test_few_false_discoveries_and_all_strong_groups() -> None:
    selection = make("fdr").eval()
    length = 96
    sigma, phi = 0.1, BlockSparseAutoencoder(length, n_groups=M, group_size=N, active=ACTIVE).frames.detach()
    selection.variance.fill_(sigma**2)
    counts = torch.randint(0, 5, (3000,))
    order = torch.rand(3000, M).argsort(dim=1)[:, :4]
    on = torch.arange(4) < counts[:, None]
    values = torch.nn.functional.normalize(torch.randn(3000, 4, N), dim=2) * on[..., None]
    clean = weighted_sum(values, phi, order)
    x = clean + sigma * torch.randn(3000, length)
    # Codes without interference, as a trained encoder has them: here by least squares on all groups of the sample.
    truth = torch.zeros(3000, M, N).scatter(1, order[..., None].expand(-1, -1, N), values)
    ranked = truth.norm(dim=2) + 1e-3 * torch.rand(3000, M)
    top = ranked.topk(selection.slots, dim=1)
    candidates = Candidates(top.values, top.indices, truth.gather(1, top.indices[..., None].expand(-1, -1, N)))
    kept = (selection(candidates, x, phi) != 0).any(dim=2)
    present = (candidates.values != 0).any(dim=2)
    assert float((kept & present).sum() / present.sum()) > 0.97
    false = (kept & ~present).sum(dim=1) / kept.sum(dim=1).clamp_min(1)
    assert float(false.mean()) < 0.1


def test_codes_of_kept_groups_are_fitted_together() -> None:
    batch, k = 50, 5
    x, rows = torch.randn(batch, L), frames()
    groups = torch.rand(batch, M).argsort(dim=1)[:, :k]
    kept = torch.rand(batch, k) < 0.5
    candidates = Candidates(torch.ones(batch, k), groups, torch.zeros(batch, k, N))
    support = torch.zeros(batch, M, N).scatter(
        1, groups[..., None].expand(-1, -1, N), kept[..., None].float().expand(-1, -1, N)
    )
    codes = fitted(candidates, kept, x, rows)
    dense = torch.zeros(batch, M, N).scatter(1, groups[..., None].expand(-1, -1, N), codes)
    torch.testing.assert_close(dense, refit(x, rows.permute(2, 0, 1), support), rtol=1e-2, atol=1e-2)
    assert not codes[~kept].any()
    # Groups that overlap do not explain the same part of a sample twice.
    alike = rows[:1].expand(M, N, L) + 0.1 * rows
    error = x - weighted_sum(fitted(candidates, torch.ones_like(kept), x, alike), alike, groups)
    assert bool((error.norm(dim=1) <= x.norm(dim=1)).all())


def test_noise_is_measured_in_training() -> None:
    selection = make("fdr")
    phi, sigma = frames(), 0.2
    for _ in range(30):
        order = torch.rand(256, M).argsort(dim=1)[:, : selection.slots]
        values = torch.randn(256, selection.slots, N) * (torch.arange(selection.slots) < ACTIVE)[:, None]
        x = weighted_sum(values, phi, order) + sigma * torch.randn(256, L)
        candidates = Candidates(values.norm(dim=2), order, values)
        codes = selection(candidates, x, phi)
        selection.track_(selection.observed(candidates, codes, x - weighted_sum(codes, phi, order)))
    # The codes are the true ones, so that nothing of the noise is fitted: the correction makes it larger.
    assert float(selection.variance) == pytest.approx(sigma**2 * L / (L - ACTIVE * N), rel=0.05)
