"""The estimator keeps scikit-learn's contract."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gramian
from gramian.coding import SubspaceSparseCoding
from gramian.errors import DataError, OptionError

SMALL = {"n_groups": 6, "group_size": 2, "lam": 0.4, "steps": 60, "batch_size": 32}


def samples(count: int = 300) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 12)).astype(np.float32)


def test_the_verbs() -> None:
    X = samples()
    model = SubspaceSparseCoding(**SMALL)
    assert model.fit(X) is model
    codes = model.transform(X)
    assert codes.shape == (300, 12)
    amplitudes = model.amplitudes(X)
    np.testing.assert_allclose(amplitudes, np.linalg.norm(codes.reshape(300, 6, 2), axis=2), rtol=1e-5, atol=1e-6)
    back = model.inverse_transform(codes)
    np.testing.assert_allclose(back, codes @ model.components_ * model.scale_, rtol=1e-4, atol=1e-5)
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


def test_samples_and_options_that_will_not_do() -> None:
    X = samples()
    with pytest.raises(DataError, match="samples must not all be zero"):
        SubspaceSparseCoding(**SMALL).fit(np.zeros_like(X))
    with pytest.raises(ValueError, match="NaN"):
        SubspaceSparseCoding(**SMALL).fit(np.full_like(X, np.nan))
    with pytest.raises(OptionError, match="infer must be one of 'fista', 'lca'; got 'magic'"):
        SubspaceSparseCoding(**SMALL, infer="magic").fit(X)
    with pytest.raises(OptionError, match="cannot hold more orthonormal atoms than an atom has pixels"):
        SubspaceSparseCoding(n_groups=2, group_size=13).fit(X)
    with pytest.raises(ValueError, match="12 features"):
        SubspaceSparseCoding(**SMALL).fit(X).transform(X[:, :5])
