"""The estimator keeps scikit-learn's contract, finds known factors, and keeps its model in files."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import gramian
from gramian.coding import BlockFeatures, ManifoldSum, SparseCodes, block_omp, block_recovery, fista
from gramian.errors import DataError, OptionError, RunError, ShapeError

DATA = ManifoldSum(48, n_factors=12, active=2, seed=1)
SMALL = {"n_groups": 20, "group_size": 3, "active": 2, "steps": 60, "batch_size": 128}


def samples(count: int = 3000, seed: int = 1) -> np.ndarray:
    return DATA.draw(count, seed=seed).x.numpy()


@pytest.fixture(scope="module")
def fitted() -> BlockFeatures:
    return BlockFeatures(**{**SMALL, "steps": 800}).fit(samples(10_000))


@pytest.mark.slow
def test_a_soft_threshold_keeps_the_scale_of_the_samples() -> None:
    model = BlockFeatures(**{**SMALL, "steps": 300}, select="soft").fit(samples())
    assert float(model.module_.select.threshold) < 48**0.5  # without a price: 11, and growing
    assert not model.dead_.any()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [BlockFeatures(n_groups=4, group_size=2, active=2, select="threshold", steps=10, batch_size=16)]
)
def test_the_contract(estimator, check) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        BlockFeatures(n_groups=3, group_size=1, active=1, steps=10, batch_size=16),
        BlockFeatures(n_groups=3, group_size=2, active=1, encoder="iterative", steps=3, sparse_output=False),
    ]
)
def test_the_contract_of_others(estimator, check) -> None:
    check(estimator)


def test_it_finds_the_factors(fitted) -> None:
    test = DATA.draw(2000, seed=3)
    codes = fitted.encode(test.x.numpy())
    one_pass = block_recovery(fitted.phi_, fitted.scale_ * codes.dense(), DATA.phi, test.codes, test.active)
    x = (test.x - torch.as_tensor(fitted.mean_).float()) / fitted.scale_
    inferred = fitted.scale_ * block_omp(x, fitted.phi_, active=2).codes
    decoded = block_recovery(fitted.phi_, inferred, DATA.phi, test.codes, test.active)
    assert float(one_pass.r2.mean()) > 0.95
    assert float(decoded.r2.mean()) > 0.9
    assert gramian.residual(fitted.phi_).abs().max() < 1e-5
    assert fitted.score(test.x.numpy()) > 0.9


def test_the_verbs(fitted) -> None:
    X = samples(300, seed=2)
    codes = fitted.transform(X)
    assert codes.shape == (300, 60)
    assert codes.nnz == 300 * 2 * 3
    back = fitted.inverse_transform(codes)
    expected = fitted.scale_ * (codes.toarray() @ fitted.components_) + fitted.mean_
    np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.inverse_transform(codes.toarray()), back, rtol=1e-4, atol=1e-5)
    assert fitted.score(X) == pytest.approx(1 - np.sum((X - back) ** 2) / np.sum((X - fitted.mean_) ** 2), abs=1e-5)
    assert list(fitted.get_feature_names_out()[:4]) == ["group0_0", "group0_1", "group0_2", "group1_0"]
    assert isinstance(fitted.encode(X), SparseCodes)
    assert len(fitted.loss_curve_) == fitted.n_iter_ == 800
    assert fitted.active_groups_ == pytest.approx(2)
    assert fitted.dead_.shape == (20,)
    norms = np.linalg.norm((samples(10_000) - fitted.mean_) / fitted.scale_, axis=1)
    assert norms.mean() == pytest.approx(48**0.5, rel=1e-4)
    dense = clone(fitted).set_params(sparse_output=False, steps=5).fit(X)
    assert isinstance(dense.transform(X), np.ndarray)


@pytest.mark.parametrize(
    "select",
    ["threshold", pytest.param("batch_topk", marks=pytest.mark.slow), pytest.param("soft", marks=pytest.mark.slow)],
)
def test_as_many_active_groups_as_asked(select) -> None:
    model = BlockFeatures(**{**SMALL, "steps": 200}, select=select).fit(samples(8000))
    assert model.active_groups_ == pytest.approx(2, rel=0.03)
    assert model.encode(samples(4000, seed=5)).active_groups.double().mean() == pytest.approx(2, rel=0.03)


def test_what_one_pass_misses(fitted) -> None:
    X = samples(500, seed=4)
    audit = fitted.audit(X)
    assert 0.5 < audit.recall <= 1
    assert audit.recall == pytest.approx(audit.precision)
    assert audit.unexplained_refit <= audit.unexplained
    assert audit.unexplained_inference < 0.05
    assert audit.unexplained == pytest.approx(1 - fitted.score(X), abs=1e-4)
    x = (torch.from_numpy(X) - torch.as_tensor(fitted.mean_).float()) / fitted.scale_
    truth = block_omp(x, fitted.phi_, active=2).support
    support = fitted.encode(X).dense().norm(dim=2) > 0
    torch.testing.assert_close(audit.missed, (truth & ~support).sum(dim=0))
    assert audit.recall == pytest.approx(float((truth & support).sum() / truth.sum()))
    assert repr(audit).startswith("FeatureAudit(recall=")
    convex = fitted.audit(X, infer=fista, lam=0.5, prior="group_laplace")
    assert convex.active_groups_inference > 0
    exact = BlockFeatures(**{**SMALL, "steps": 5}, encoder="iterative").fit(X).audit(X)
    assert exact.recall == 1
    assert exact.unexplained == pytest.approx(exact.unexplained_inference, abs=1e-6)


def test_tensors_come_back_as_tensors() -> None:
    X = torch.from_numpy(samples(1000))
    model, array = BlockFeatures(**SMALL).fit(X), BlockFeatures(**SMALL).fit(X.numpy())
    codes = model.transform(X)
    assert codes.layout == torch.sparse_csr
    np.testing.assert_array_equal(codes.to_dense().numpy(), array.transform(X.numpy()).toarray())
    back = model.inverse_transform(codes)
    assert isinstance(back, torch.Tensor)
    np.testing.assert_allclose(back.numpy(), array.inverse_transform(codes.to_dense().numpy()), rtol=1e-4, atol=1e-5)
    assert model.transform(X.double()).dtype == torch.float64


def test_the_scale_and_the_place_of_the_samples_do_not_matter() -> None:
    X = samples(2000).astype(np.float64)
    plain, moved = BlockFeatures(**SMALL).fit(X), BlockFeatures(**SMALL).fit(100 * X + 7)
    np.testing.assert_allclose(moved.transform(100 * X + 7).toarray(), plain.transform(X).toarray(), atol=1e-6)


def test_a_stream() -> None:
    model = BlockFeatures(**SMALL)
    before = None
    for seed in range(150):
        model.partial_fit(samples(128, seed=seed))
        before = model.score(samples(500, seed=999)) if before is None else before
    assert model.score(samples(500, seed=999)) > before + 0.1
    assert model.n_samples_seen_ == 150 * 128
    assert model.n_iter_ == 150
    np.testing.assert_allclose(model.mean_, np.concatenate([samples(128, seed=s) for s in range(150)]).mean(axis=0),
                               atol=1e-5)  # fmt: skip


def test_other_optimisers_and_schedules() -> None:
    seen = []

    def warm_up(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: seen.append(step) or min(1, (step + 1) / 10))

    model = BlockFeatures(**SMALL, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), scheduler=warm_up)
    model.fit(samples(500))
    assert len(seen) == 61
    assert gramian.residual(model.phi_).abs().max() < 1e-5


def test_parameters_and_copies(fitted) -> None:
    again = clone(fitted).set_params(active=3)
    assert again.active == 3
    with pytest.raises(NotFittedError):
        again.transform(samples(10))
    X = samples(50, seed=6)
    copy = pickle.loads(pickle.dumps(fitted.partial_fit(X)))
    np.testing.assert_array_equal(copy.transform(X).toarray(), fitted.transform(X).toarray())
    copy.partial_fit(X)
    pipeline = make_pipeline(StandardScaler(), BlockFeatures(**SMALL))
    assert pipeline.fit_transform(samples(500)).shape == (500, 60)


@pytest.mark.parametrize("options", [{}, {"encoder": "tied", "select": "fdr", "beta": 0.5}, {"select": "soft"}])
def test_files(options, tmp_path) -> None:
    model = BlockFeatures(**SMALL, **options).fit(samples(1000))
    path = tmp_path / "features.safetensors"
    model.save(path)
    loaded = BlockFeatures.load(path)
    X = samples(100, seed=7)
    np.testing.assert_allclose(loaded.transform(X).toarray(), model.transform(X).toarray(), atol=1e-6)
    assert loaded.get_params()["select"] == model.select
    assert loaded.beta == model.beta
    assert loaded.n_features_in_ == 48
    loaded.partial_fit(X)
    assert loaded.n_iter_ == 61


def test_files_that_are_damaged_or_foreign(tmp_path) -> None:
    path = tmp_path / "features.safetensors"
    BlockFeatures(**SMALL).fit(samples(500)).save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    with pytest.raises(RunError, match="must match its checksum"):
        BlockFeatures.load(damaged)
    with pytest.raises(RunError, match="there must be a feature file at"):
        BlockFeatures.load(tmp_path / "none.safetensors")


def test_invalid_samples_and_options() -> None:
    X = samples(50)
    with pytest.raises(DataError, match="samples must differ; got one value in every feature"):
        BlockFeatures(**SMALL).fit(np.full_like(X, 3.0))
    with pytest.raises(DataError, match="samples must not all be zero; got zeros"):
        BlockFeatures(**SMALL, center=False).fit(np.zeros_like(X))
    for wrong, message in (
        ({"group_size": 49}, r"group_size must be at most .* got group_size = 49, n_features = 48; try group_size=48"),
        ({"encoder": "magic"}, "encoder must be one of"),
        ({"active": 2.5}, "active must be a whole number; got 2.5"),
        ({"active": 21}, "active must be at most the number of groups; got 21 of 20"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"lr": -1.0}, "lr must be positive; got -1.0"),
        ({"beta": -1.0}, "beta must be 0 or positive; got -1.0"),
        ({"patience": 0}, "patience must be at least 1; got 0"),
        ({"center": "no"}, "center must be True or False; got 'no'"),
    ):
        with pytest.raises(OptionError, match=message):
            BlockFeatures(**{**SMALL, **wrong}).fit(X)
    with pytest.raises(OptionError, match=r"training must stay finite; the loss is .* try a smaller lr"):
        BlockFeatures(**SMALL, beta=0.0, optimizer=partial(torch.optim.SGD, lr=1e20)).fit(X)
    model = BlockFeatures(**SMALL).fit(X)
    with pytest.raises(ShapeError, match=r"codes must have shape \[samples, 60\]; got \[3, 5\]"):
        model.inverse_transform(np.zeros((3, 5)))
