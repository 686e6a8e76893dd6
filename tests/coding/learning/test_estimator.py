"""The estimator keeps scikit-learn's contract."""

import copy
import inspect
import math
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import gramian
from gramian.coding import LearningOptions, SubspaceSparseCoding
from gramian.errors import DataError, OptionError, ShapeError

SMALL = {"n_groups": 6, "group_size": 2, "lam": 0.4, "steps": 60, "batch_size": 32}


def samples(count: int = 300) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 12)).astype(np.float32)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        SubspaceSparseCoding(n_groups=3, group_size=2, lam=0.3, steps=10, update="online", infer="lca"),
    ]
)
def test_the_contract(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([SubspaceSparseCoding(n_groups=3, group_size=1, lam=0.3, steps=10)])
def test_the_contract_of_single_atoms(estimator, check) -> None:
    check(estimator)


def test_the_verbs() -> None:
    X = samples()
    model = SubspaceSparseCoding(**SMALL)
    assert model.fit(X) is model
    codes = model.transform(X)
    assert codes.shape == (300, 12)
    amplitudes = model.amplitudes(X)
    np.testing.assert_allclose(amplitudes, np.linalg.norm(codes.reshape(300, 6, 2), axis=2), rtol=1e-5, atol=1e-6)
    back = model.inverse_transform(codes)
    np.testing.assert_allclose(back, codes @ model.components_ * model.scale_ + model.mean_, rtol=1e-4, atol=1e-5)
    assert np.mean((back - X) ** 2) < 0.7 * np.mean(X**2)
    assert gramian.residual(model.phi_).abs().max() < 1e-4
    assert model.n_features_in_ == 12


def test_parameters_and_copies() -> None:
    model = SubspaceSparseCoding(**SMALL, random_state=4)
    assert model.get_params()["random_state"] == 4
    again = clone(model).set_params(lam=0.5)
    assert (again.lam, again.n_groups) == (0.5, 6)
    with pytest.raises(NotFittedError):
        again.transform(samples())


def test_it_has_every_option_of_learning_with_its_default() -> None:
    parameters = inspect.signature(SubspaceSparseCoding).parameters
    for option in fields(LearningOptions):
        assert parameters[option.name].default == option.default, option.name


def test_the_seed_decides() -> None:
    X = samples()
    first, again, other = (SubspaceSparseCoding(**SMALL, random_state=seed).fit(X).components_ for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_samples_does_not_matter(scale) -> None:
    X = samples()
    plain, scaled = SubspaceSparseCoding(**SMALL).fit(X), SubspaceSparseCoding(**SMALL).fit(scale * X)
    np.testing.assert_allclose(plain.transform(X), scaled.transform(scale * X), atol=2e-2)
    np.testing.assert_allclose(
        scaled.inverse_transform(scaled.transform(scale * X)) / scale,
        plain.inverse_transform(plain.transform(X)),
        atol=2e-2,
    )


def test_in_a_pipeline() -> None:
    X = samples()
    codes = make_pipeline(StandardScaler(), SubspaceSparseCoding(**SMALL)).fit_transform(X)
    assert codes.shape == (300, 12)


@pytest.mark.parametrize("rule", [None, "subgradient", "polyak", "proximal"])
def test_every_rule(rule) -> None:
    assert np.isfinite(SubspaceSparseCoding(**SMALL, rule=rule).fit(samples()).components_).all()


def test_lca_learns_the_same_kind_of_dictionary() -> None:
    X = samples()
    model = SubspaceSparseCoding(**SMALL, infer="lca").fit(X)
    assert gramian.residual(model.phi_).abs().max() < 1e-4


def test_invalid_samples_and_options() -> None:
    X = samples()
    with pytest.raises(DataError, match="samples must not all be zero"):
        SubspaceSparseCoding(**SMALL, center=False).fit(np.zeros_like(X))
    with pytest.raises(DataError, match="samples must differ; got one value in every feature"):
        SubspaceSparseCoding(**SMALL).fit(np.full_like(X, 100.1))
    with pytest.raises(ValueError, match="NaN"):
        SubspaceSparseCoding(**SMALL).fit(np.full_like(X, np.nan))
    with pytest.raises(OptionError, match=r"infer must be one of 'auto', 'fista', .* or a function; got 'magic'"):
        SubspaceSparseCoding(**SMALL, infer="magic").fit(X)
    with pytest.raises(
        OptionError, match=r"group_size must be at most .* got group_size = 13, n_features = 12; try group_size=12"
    ):
        SubspaceSparseCoding(n_groups=2, group_size=13).fit(X)
    for wrong, message in (
        ({"update": "newton"}, "update must be one of 'sgd', 'online'; got 'newton'"),
        ({"prior": "gauss"}, "prior must be one of"),
        ({"target_active": 7.0}, "target_active must be between 0 and 6, the number of groups; got 7.0"),
        ({"patience": 0}, "patience must be at least 1 step, or None; got 0"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"lr": 0.0}, "lr must be positive; got 0.0"),
        ({"lam": 0.0}, "lam must be positive; got 0.0"),
        ({"n_groups": 2.5}, "n_groups must be a whole number; got 2.5; try n_groups=2"),
        ({"group_size": True}, "group_size must be a whole number; got True"),
        ({"steps": "9"}, "steps must be a whole number; got '9'"),
        ({"beta": "0.1"}, "beta must be a number; got '0.1'"),
        ({"beta": float("nan")}, "beta must be 0 or positive; got nan"),
        ({"lr": "0.1"}, "lr must be a number; got '0.1'"),
        ({"lam": float("inf")}, "lam must be finite; got inf"),
        ({"tol": -1.0}, "tol must be 0 or positive; got -1.0"),
        ({"patience": 2.5}, "patience must be a whole number; got 2.5"),
        ({"target_active": "2"}, "target_active must be a number; got '2'"),
        ({"center": "no"}, "center must be True or False; got 'no'"),
    ):
        with pytest.raises(OptionError, match=message):
            SubspaceSparseCoding(**{**SMALL, **wrong}).fit(X)
    with pytest.raises(ShapeError, match=r"codes must have shape \[samples, 12\]; got \[3, 5\]"):
        SubspaceSparseCoding(**SMALL).fit(X).inverse_transform(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="12 features"):
        SubspaceSparseCoding(**SMALL).fit(X).transform(X[:, :5])


def test_groups_of_one_are_scikit_learns_codes() -> None:
    X = samples().astype(np.float64)
    model = SubspaceSparseCoding(n_groups=15, group_size=1, lam=0.4, steps=60, batch_size=32, tol=1e-10).fit(X)
    # sparse_encode sets no tolerance, and scikit-learn 1.6 then stops 2e-3 from the minimum.
    lasso = Lasso(alpha=0.4 / 12, fit_intercept=False, tol=1e-12, max_iter=100_000)
    codes = lasso.fit(model.components_.T, ((X - model.mean_) / model.scale_).T).coef_
    np.testing.assert_allclose(model.transform(X), codes, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tensors_come_back_as_tensors(dtype) -> None:
    X = torch.from_numpy(samples()).to(dtype)
    model = SubspaceSparseCoding(**SMALL).fit(X)
    array = SubspaceSparseCoding(**SMALL).fit(X.numpy())
    codes = model.transform(X)
    assert isinstance(codes, torch.Tensor)
    assert codes.dtype == model.phi_.dtype == dtype
    for name in ("transform", "amplitudes", "directions", "log_prob"):
        there, here = getattr(model, name)(X), getattr(array, name)(X.numpy())
        assert isinstance(there, torch.Tensor)
        assert isinstance(here, np.ndarray)
        np.testing.assert_array_equal(there.numpy(), here)
    back = model.inverse_transform(codes)
    assert isinstance(back, torch.Tensor)
    np.testing.assert_array_equal(back.numpy(), array.inverse_transform(codes.numpy()))
    assert model.score(X) == array.score(X.numpy())


def test_a_code_is_amplitude_and_direction() -> None:
    X = samples()
    model = SubspaceSparseCoding(**SMALL).fit(X)
    amplitudes, directions = model.amplitudes(X), model.directions(X)
    assert directions.shape == (300, 6, 2)
    codes = (amplitudes[..., None] * directions).reshape(300, 12)
    np.testing.assert_allclose(codes, model.transform(X), atol=1e-6)
    lengths = np.linalg.norm(directions, axis=2)
    np.testing.assert_allclose(lengths, amplitudes > 0, atol=1e-5)


def test_the_density_of_samples_and_codes() -> None:
    X = samples().astype(np.float64)
    model = SubspaceSparseCoding(**SMALL).fit(3 * X)
    codes = model.transform(3 * X)
    s, lam = model.scale_, model.lam_
    error = (3 * X - model.mean_) / s - codes @ model.components_
    expected = -0.5 * (error**2).sum(axis=1) - 6 * math.log(2 * math.pi) - 12 * math.log(s)
    # In the plane ∫exp(−λ‖a‖) da = 2π/λ².
    expected += -lam * np.linalg.norm(codes.reshape(-1, 6, 2), axis=2).sum(axis=1) - 6 * math.log(2 * math.pi / lam**2)
    np.testing.assert_allclose(model.log_prob(3 * X), expected, rtol=1e-9)
    np.testing.assert_allclose(model.log_prob(3 * X, codes), expected, rtol=1e-9)
    assert (model.log_prob(3 * X, codes * 1.01) <= expected + 1e-6).all()
    assert model.score(3 * X) == pytest.approx(expected.mean())


def test_the_place_of_the_samples_does_not_matter() -> None:
    X = samples().astype(np.float64)
    far = X + np.linspace(100, 1000, 12)
    plain, moved = SubspaceSparseCoding(**SMALL).fit(X), SubspaceSparseCoding(**SMALL).fit(far)
    np.testing.assert_allclose(moved.mean_, far.mean(axis=0))
    assert moved.scale_ == pytest.approx((X - X.mean(axis=0)).std())
    codes = moved.transform(far)
    np.testing.assert_allclose(codes, plain.transform(X), atol=2e-2)
    np.testing.assert_allclose(moved.log_prob(far), plain.log_prob(X), rtol=1e-3)
    assert moved.score(far) == pytest.approx(plain.score(X), rel=1e-3)
    assert np.mean((moved.inverse_transform(codes) - far) ** 2) < 0.7 * np.mean((far - moved.mean_) ** 2)
    np.testing.assert_allclose(moved.sample(20_000)[0].mean(axis=0), moved.mean_, atol=0.2)


def test_a_warning_if_all_codes_are_zero() -> None:
    X = samples()
    with pytest.warns(
        UserWarning, match=r"every code is zero: lam must be less than the largest .* got lam = 50; try lam="
    ):
        SubspaceSparseCoding(**{**SMALL, "steps": 3, "lam": 50.0}).fit(X)
    with pytest.warns(UserWarning, match="every code is zero"):
        SubspaceSparseCoding(**{**SMALL, "lam": 50.0}).partial_fit(X)
    model = SubspaceSparseCoding(**SMALL, center=False).fit(X)
    with pytest.warns(UserWarning, match="every code is zero: .*, or center=True if the samples have a mean"):
        assert not model.transform(1e-3 * X).any()
    assert not model.transform(1e-3 * X[:1]).any()


def test_mean_and_scale_of_all_samples_so_far() -> None:
    X = samples(400).astype(np.float64) * np.linspace(1, 3, 400)[:, None] + np.linspace(0, 9, 400)[:, None]
    for center in (True, False):
        model = SubspaceSparseCoding(**SMALL, center=center)
        for part in np.split(X, [30, 31, 200]):
            model.partial_fit(part)
        mean = X.mean(axis=0) if center else np.zeros(12)
        np.testing.assert_allclose(model.mean_, mean)
        assert model.scale_ == pytest.approx(np.sqrt(np.mean((X - mean) ** 2)))
        assert model.n_samples_seen_ == 400


def test_samples_of_the_model() -> None:
    model = SubspaceSparseCoding(**SMALL).fit(2 * samples())
    X, codes = model.sample(20_000, random_state=3)
    assert X.shape == codes.shape == (20_000, 12)
    noise = (X - model.mean_) / model.scale_ - codes @ model.components_
    np.testing.assert_allclose(np.cov(noise.T), np.eye(12), atol=0.05)
    # The mean length of a group of two is 2/λ.
    lengths = np.linalg.norm(codes.reshape(-1, 6, 2), axis=2)
    np.testing.assert_allclose(lengths.mean(axis=0), 2 / 0.4, rtol=0.05)
    np.testing.assert_array_equal(X[:5], model.sample(20_000, random_state=3)[0][:5])


def test_a_part_at_a_time() -> None:
    X = samples(2000)
    model = SubspaceSparseCoding(**{**SMALL, "lr": 0.2})
    for part in np.split(X, 40):
        assert model.partial_fit(part) is model
    assert model.n_iter_ == 40
    assert np.mean((model.inverse_transform(model.transform(X)) - X) ** 2) < 0.7 * np.mean(X**2)
    again = pickle.loads(pickle.dumps(model))  # and it goes on after a rest
    other = copy.deepcopy(model)
    np.testing.assert_array_equal(again.partial_fit(X).components_, other.partial_fit(X).components_)
    # To fit is to begin anew.
    fresh = SubspaceSparseCoding(**{**SMALL, "lr": 0.2}).fit(X).components_
    np.testing.assert_array_equal(model.fit(X).components_, fresh)


@pytest.mark.parametrize("prior", ["nonnegative", "scale_mixture"])
def test_other_priors(prior) -> None:
    X = samples()
    model = SubspaceSparseCoding(**SMALL, prior=prior).fit(X)
    codes = model.transform(X)
    assert np.isfinite(model.log_prob(X)).all()
    if prior == "nonnegative":
        assert (codes >= 0).all()
    assert gramian.residual(model.phi_).abs().max() < 1e-4


@pytest.mark.slow
def test_a_number_of_active_groups() -> None:
    X = samples(2000)
    for target in (1.0, 3.0):
        model = SubspaceSparseCoding(**{**SMALL, "steps": 300}, target_active=target).fit(X)
        assert (model.amplitudes(X) > 0).sum(axis=1).mean() == pytest.approx(target, rel=0.1)
    assert model.lam_ != 0.4
