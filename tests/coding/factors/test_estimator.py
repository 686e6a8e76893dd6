"""The estimator keeps scikit-learn's contract, learns from a stream, and keeps its model in files."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

from gramian.coding import AdditiveFactorAnalyzers, ManifoldSum, block_recovery
from gramian.coding.factors import learning
from gramian.errors import DataError, OptionError, RunError, ShapeError

SMALL = {"n_groups": 12, "group_size": 3, "active": 2, "start_steps": 600, "anneal_steps": 10, "max_iter": 2}
DATA = ManifoldSum(24, n_factors=8, active=2, noise=0.1, seed=1)


def samples(count: int = 3000, seed: int = 1) -> np.ndarray:
    return DATA.draw(count, seed=seed).x.numpy()


@pytest.fixture(scope="module")
def fitted() -> AdditiveFactorAnalyzers:
    return AdditiveFactorAnalyzers(**SMALL).fit(samples())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        AdditiveFactorAnalyzers(n_groups=3, group_size=1, active=1, start_steps=10, anneal_steps=3, max_iter=1),
        AdditiveFactorAnalyzers(n_groups=3, group_size=2, active=2, start="random", anneal_steps=3, max_iter=1),
    ]
)
def test_the_contract(estimator, check) -> None:
    check(estimator)


def test_the_verbs(fitted) -> None:
    X = samples(200, seed=2)
    codes = fitted.transform(X)
    posterior = fitted.posterior(X)
    assert codes.shape == (200, 36)
    assert posterior.inclusion.shape == (200, 12)
    assert posterior.means.shape == (200, 12, 3)
    assert posterior.variances.shape == (12, 3)
    np.testing.assert_allclose(codes, posterior.codes.flatten(1).numpy())
    assert "samples=200, m=12, n=3" in repr(posterior)
    back = fitted.inverse_transform(codes)
    np.testing.assert_allclose(back, codes @ fitted.components_ + fitted.mean_, rtol=1e-4, atol=1e-5)
    assert np.mean((back - X) ** 2) < 0.05 * np.mean(X**2)
    assert fitted.score(X) == pytest.approx(float(np.mean(fitted.log_likelihood(X))), rel=1e-5)
    assert list(fitted.get_feature_names_out()[:4]) == ["group0_0", "group0_1", "group0_2", "group1_0"]
    frames = fitted.phi_
    torch.testing.assert_close(
        torch.einsum("lmi,lmj->mij", frames, frames), torch.eye(3).expand(12, 3, 3), atol=1e-5, rtol=0
    )


def test_it_finds_the_factors(fitted) -> None:
    test = DATA.draw(1000, seed=3)
    codes = torch.as_tensor(fitted.transform(test.x.numpy())).unflatten(1, (12, 3))
    active = fitted.posterior(test.x.numpy()).inclusion > 0.5
    recovery = block_recovery(fitted.phi_, codes * active[..., None], DATA.phi, test.codes, test.active)
    assert float(recovery.r2.mean()) > 0.95
    assert float((active.sum(dim=1) == 2).float().mean()) > 0.8
    dimensions = fitted.dimension_[recovery.group.numpy()]
    assert np.sum(dimensions == np.array(DATA.dimensions)) >= 7
    np.testing.assert_allclose(fitted.pi_[recovery.group.numpy()], 0.25, atol=0.05)
    # Noise of 0.1 of the root mean square of the entries, 1/√24.
    assert fitted.noise_ == pytest.approx(0.01 / 24, rel=0.2)
    assert 8 <= fitted.n_groups_ <= 11
    spare = slice(fitted.n_groups_, None)
    assert not fitted.pi_[spare].any()
    assert not fitted.variances_[spare].any()
    assert not fitted.dimension_[spare].any()


def test_the_bound_of_the_attribute_never_falls(fitted) -> None:
    assert len(fitted.bound_) == fitted.n_iter_ + 1
    assert all(b >= a - 1e-4 for a, b in itertools.pairwise(fitted.bound_))
    assert fitted.score(samples()) == pytest.approx(fitted.bound_[-1], abs=0.5)


@pytest.mark.slow
def test_held_out_likelihood_is_above_factor_analysis(fitted) -> None:
    X = samples(1000, seed=4)
    with threadpool_limits(1):  # the threads of BLAS wait for each other where tests run in parallel
        other = FactorAnalysis(10, random_state=0).fit(samples()).score(X)
    assert fitted.score(X) > other + 1


def test_sampling_the_posterior_raises_the_bound(fitted) -> None:
    X = samples(60, seed=5)
    lower, estimate = fitted.log_likelihood(X), fitted.log_likelihood(X, method="ais", chains=8, steps=15)
    assert estimate.mean() > lower.mean() - 0.02
    assert estimate.mean() < lower.mean() + 3
    again = fitted.log_likelihood(X, method="ais", chains=8, steps=15)
    np.testing.assert_array_equal(estimate, again)


def test_moments_of_samples_of_the_model(fitted) -> None:
    X, codes = fitted.sample(40_000, random_state=3)
    assert X.shape == (40_000, 24)
    assert codes.shape == (40_000, 36)
    phi, variances = fitted.phi_.double().numpy(), fitted.variances_
    scale = fitted.pi_[:, None] * variances
    expected = np.einsum("imn,mn,jmn->ij", phi, scale, phi) + fitted.noise_ * np.eye(24)
    np.testing.assert_allclose(np.cov(X.T), expected, atol=0.05 * expected.max())
    np.testing.assert_allclose(X.mean(axis=0), fitted.mean_, atol=0.01)
    on = (codes.reshape(-1, 12, 3) != 0).any(axis=2).mean(axis=0)
    np.testing.assert_allclose(on, fitted.pi_, atol=0.02)
    # The model encodes what it has drawn.
    q = fitted.posterior(X[:2000]).inclusion.numpy()
    assert np.mean((q > 0.5) == (codes[:2000].reshape(-1, 12, 3) != 0).any(axis=2)) > 0.9


@pytest.mark.slow
def test_the_scale_and_the_place_of_the_samples_do_not_matter() -> None:
    X = samples(2000).astype(np.float64)
    few = {**SMALL, "start_steps": 50, "anneal_steps": 3}
    plain = AdditiveFactorAnalyzers(**few).fit(X)
    moved = AdditiveFactorAnalyzers(**few).fit(100 * X + 7)
    np.testing.assert_allclose(moved.transform(100 * X + 7), 100 * plain.transform(X), atol=1e-3)
    assert moved.score(100 * X + 7) == pytest.approx(plain.score(X) - 24 * np.log(100), abs=1e-4)


def test_tensors_come_back_as_tensors() -> None:
    X = torch.from_numpy(samples(1000))
    few = {**SMALL, "start_steps": 50, "anneal_steps": 3}
    model = AdditiveFactorAnalyzers(**few).fit(X)
    array = AdditiveFactorAnalyzers(**few).fit(X.numpy())
    codes = model.transform(X)
    assert isinstance(codes, torch.Tensor)
    np.testing.assert_array_equal(codes.numpy(), array.transform(X.numpy()))
    assert isinstance(model.inverse_transform(codes), torch.Tensor)
    assert isinstance(model.log_likelihood(X), torch.Tensor)


@pytest.mark.slow
def test_the_best_of_several_starts_is_kept() -> None:
    X = samples(1000)
    small = {**SMALL, "start": "random", "max_iter": 1}
    best = AdditiveFactorAnalyzers(**small, n_init=3).fit(X)
    assert best.bound_[-1] >= AdditiveFactorAnalyzers(**small).fit(X).bound_[-1]


@pytest.mark.slow
def test_a_stream(monkeypatch) -> None:
    model = AdditiveFactorAnalyzers(**SMALL, memory=4000)
    model.partial_fit(samples(1500))
    before = model.score(samples(1000, seed=9))
    sizes = []
    infer = learning.infer

    def counted(x, *rest):
        sizes.append(len(x))
        return infer(x, *rest)

    monkeypatch.setattr(learning, "infer", counted)
    for seed in range(10, 13):
        model.partial_fit(samples(5000, seed=seed))
    assert max(sizes) <= 8192  # inference never holds more samples than this
    assert model.n_samples_seen_ == 16_500
    assert model.score(samples(1000, seed=9)) > before - 0.05
    assert model._state.count < 10_000  # older samples fade


def test_parameters_and_copies(fitted) -> None:
    again = clone(fitted).set_params(active=3)
    assert again.active == 3
    with pytest.raises(NotFittedError):
        again.transform(samples(10))
    X = samples(50, seed=6)
    pipeline = make_pipeline(StandardScaler(), AdditiveFactorAnalyzers(**{**SMALL, "start_steps": 20}))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), fitted.transform(X))
    assert pipeline.fit_transform(samples(500)).shape == (500, 36)


def test_files(fitted, tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    loaded = AdditiveFactorAnalyzers.load(path)
    X = samples(100, seed=7)
    np.testing.assert_allclose(loaded.transform(X), fitted.transform(X), atol=1e-5)
    assert loaded.score(X) == pytest.approx(fitted.score(X), abs=1e-3)
    assert loaded.get_params()["start_steps"] == 600
    np.testing.assert_array_equal(loaded.dimension_, fitted.dimension_)
    loaded.partial_fit(samples(500))
    damaged = tmp_path / "damaged.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(RunError, match="must match its checksum"):
        AdditiveFactorAnalyzers.load(damaged)
    with pytest.raises(RunError, match="there must be a factor file at"):
        AdditiveFactorAnalyzers.load(tmp_path / "none.safetensors")


def test_invalid_samples_and_options(fitted) -> None:
    X = samples(50)
    with pytest.raises(DataError, match="samples must differ; got one value in every feature"):
        AdditiveFactorAnalyzers(**SMALL).fit(np.full_like(X, 3.0))
    with pytest.raises(DataError, match="samples must not all be zero; got zeros"):
        AdditiveFactorAnalyzers(**SMALL, center=False).fit(np.zeros_like(X))
    for wrong, message in (
        ({"group_size": 25}, r"group_size must be at most .* got group_size = 25, n_features = 24; try group_size=24"),
        ({"start": "magic"}, "start must be one of 'autoencoder', 'random'; got 'magic'"),
        ({"min_noise": 2.0}, "min_noise must be less than 1; got 2.0; try min_noise=1e-5"),
        ({"n_groups": 0}, "n_groups must be at least 1; got 0"),
        ({"active": 2.5}, "active must be a whole number; got 2.5"),
        ({"max_iter": -1}, "max_iter must be at least 0; got -1"),
        ({"tol": -1.0}, "tol must be 0 or positive; got -1.0"),
        ({"center": "no"}, "center must be True or False; got 'no'"),
    ):
        with pytest.raises(OptionError, match=message):
            AdditiveFactorAnalyzers(**{**SMALL, **wrong}).fit(X)
    with pytest.raises(OptionError, match="method must be one of 'bound', 'ais'; got 'exact'"):
        fitted.log_likelihood(X, method="exact")
    with pytest.raises(ShapeError, match=r"codes must have shape \[samples, 36\]; got \[3, 5\]"):
        fitted.inverse_transform(np.zeros((3, 5)))
