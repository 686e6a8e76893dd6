"""The same numbers on a GPU as on the CPU."""

import os

import pytest
import torch

import gramian
from gramian.coding import (
    AdditiveFactorAnalyzers,
    Learner,
    LearningOptions,
    ManifoldSum,
    block_iht,
    block_omp,
    initial_dictionary,
    refit,
)
from gramian.coding.inference import fista, lca
from gramian.coding.priors.spike_slab import SLABS
from gramian.distributions import GroupLaplace, SpikeSlab, UniformFrames
from gramian.kernels.gpu import configurations
from tests.cases import over_dtypes, over_penalties, over_rules, plain_loss, stiefel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="needs TRITON_INTERPRET=0, as `make gpu` sets"
    ),
]

SHAPE = (48, 5, 8)


@over_penalties
@over_dtypes
def test_value_and_gradient(case, dtype) -> None:
    phi = torch.randn(SHAPE).to(dtype)
    there = phi.cuda().requires_grad_()
    value = gramian.loss(there, beta=0.7, penalty=case.penalty)
    value.backward()
    exact = phi.double().requires_grad_()
    expected = plain_loss(exact, case, 0.7)
    expected.backward()
    assert value.is_cuda
    rough = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(value.double().cpu(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(there.grad.double().cpu(), exact.grad, rtol=rough, atol=1e-4 + rough)


@over_rules
@over_dtypes
def test_a_step(rule, dtype) -> None:
    phi = torch.randn(SHAPE).to(dtype)
    there = phi.cuda()
    before = gramian.step_(there, lr=0.05, rule=rule)
    expected = gramian.step_(phi, lr=0.05, rule=rule)
    torch.testing.assert_close(before.cpu(), expected, rtol=1e-5, atol=1e-5)
    rough = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(there.cpu(), phi, rtol=rough, atol=1e-5 + rough)


@over_dtypes
def test_to_orthonormal(dtype) -> None:
    result = gramian.orthogonalize(torch.randn(SHAPE, device="cuda").to(dtype))
    assert result.phi.is_cuda
    assert result.converged


def test_tuning(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    configurations.forget()
    phi = torch.randn(SHAPE, device="cuda") / 7
    before = gramian.value_and_grad(phi)
    tuning = gramian.kernels.tune(phi, seconds=20)
    assert tuning.path == configurations.path()
    assert tuning.tried > tuning.refused
    assert set(tuning.milliseconds) == {"value_and_grad", "step_"}
    after = gramian.value_and_grad(phi)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1], before[1], rtol=1e-5, atol=1e-5)
    configurations.forget()


def test_learning_and_inference() -> None:
    phi = stiefel(64, 12, 4).float().cuda()
    x = torch.randn(32, 64, device="cuda")
    a, b = (method(x, phi, lam=1.0, max_iter=5000, tol=1e-6) for method in (fista, lca))
    assert a.converged
    assert b.converged
    torch.testing.assert_close(a.codes, b.codes, rtol=0, atol=2e-2)
    there = Learner(initial_dictionary(64, 12, 4, seed=0).cuda(), LearningOptions(lam=1.0)).step(x, lr=0.1).phi
    here = Learner(initial_dictionary(64, 12, 4, seed=0), LearningOptions(lam=1.0)).step(x.cpu(), lr=0.1).phi
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)


def test_greedy_and_hard_thresholds() -> None:
    data = ManifoldSum(64, n_factors=48, active=3, noise=0.05)
    x, phi = data.draw(500, seed=1).x, data.phi.float()
    for method in (block_omp, block_iht):
        here, there = method(x, phi, active=3), method(x.cuda(), phi.cuda(), active=3)
        assert there.codes.is_cuda
        same = (here.support == there.support.cpu()).all(dim=1)
        assert same.double().mean() > 0.99
        torch.testing.assert_close(there.codes.cpu()[same], here.codes[same], rtol=1e-3, atol=1e-4)
    here, there = block_omp(x, phi, fdr=0.1), block_omp(x.cuda(), phi.cuda(), fdr=0.1)
    assert (here.support == there.support.cpu()).double().mean() > 0.999
    fitted = refit(x.cuda(), phi.cuda(), here.codes.cuda())
    torch.testing.assert_close(fitted.cpu(), here.codes, rtol=1e-3, atol=1e-4)


def test_learning_with_a_price_for_every_group() -> None:
    x = 8 * ManifoldSum(64, n_factors=48, active=3).draw(512, seed=1).x
    options = LearningOptions(prior="group_l0", lam=2.0)
    there = Learner(initial_dictionary(64, 48, 3, seed=0).cuda(), options).step(x.cuda(), lr=0.1)
    here = Learner(initial_dictionary(64, 48, 3, seed=0), options).step(x, lr=0.1)
    assert there.active_groups == pytest.approx(here.active_groups, rel=1e-2)
    torch.testing.assert_close(there.phi.cpu(), here.phi, rtol=1e-2, atol=2e-3)


def test_additive_factor_analysers() -> None:
    data = ManifoldSum(32, n_factors=8, active=2, noise=0.05)
    x = data.draw(4000, seed=1).x.cuda()
    model = AdditiveFactorAnalyzers(8, 3, active=2, start_steps=300, anneal_steps=8, max_iter=5).fit(x)
    codes = model.transform(x)
    assert codes.is_cuda
    assert model.phi_.is_cuda
    assert model.inverse_transform(codes).is_cuda
    assert model.score(x) == pytest.approx(model.score(x.cpu()), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions(dtype) -> None:
    rate = torch.tensor([0.5, 2.0], dtype=dtype)
    for build in (lambda rate: GroupLaplace(rate, 3), *(lambda rate, s=s: SpikeSlab(0.3, rate, 3, s) for s in SLABS)):
        codes = build(rate.cuda()).sample((50,))
        assert (codes.is_cuda, codes.dtype) == (True, dtype)
        there = build(rate.cuda()).log_prob(codes)
        torch.testing.assert_close(there.cpu(), build(rate).log_prob(codes.cpu()), rtol=1e-5, atol=1e-5)
    frames = UniformFrames(16, 4, dtype=dtype, device="cuda")
    phi = frames.sample((50,))
    assert (phi.is_cuda, phi.dtype) == (True, dtype)
    assert frames.log_prob(phi).is_cuda
