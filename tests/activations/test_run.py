"""Runs on activations: they learn subspaces, stop and resume to the same bits, and refuse what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gramian.activations.run import FeatureRun, FeatureSettings
from gramian.coding import BlockFeatures
from gramian.coding.files import read_groups
from gramian.errors import DataError, OptionError, RunError


@pytest.fixture
def settings(tmp_path) -> FeatureSettings:
    """Samples that are sums of two of eight planes in 16 dimensions."""
    planes = torch.linalg.qr(torch.randn(8, 16, 2)).Q
    chosen = torch.rand(4000, 8).argsort(dim=1)[:, :2]
    angles = 2 * torch.pi * torch.rand(4000, 2)
    circles = torch.stack([angles.cos(), angles.sin()], dim=-1)
    x = torch.einsum("skln,skn->sl", planes[chosen], circles)
    path = tmp_path / "x.safetensors"
    save_file({"x": x + 3}, path)
    return FeatureSettings(
        store=str(path), groups=12, size=2, active=2, batch=64, steps=40, report_every=10, patience=10
    )  # fmt: skip


def learned(run: FeatureRun, until: int | None = None) -> FeatureRun:
    while not run.finished and run.step != until:
        run.advance()
    return run


def test_a_run_learns(settings) -> None:
    run = FeatureRun(replace(settings, steps=120, lr=1e-2, warm_up=10, patience=200))
    run.log_metrics(seconds=0)
    assert run.lr == pytest.approx(1e-2 / 11)
    learned(run).log_metrics(seconds=1)
    first, last = run.metrics
    assert last["unexplained"] < 0.5 * first["unexplained"]
    assert last["snr"] > first["snr"]
    assert last["residual"] < 1e-5
    assert last["active_groups"] == 2
    assert 0 <= last["dead"] <= 1
    assert last["lr"] == 0
    assert run.train.samples == 3800


@pytest.mark.parametrize(
    ("encoder", "select"),
    [
        ("linear", "batch_topk"),
        ("linear", "threshold"),
        ("linear", "soft"),
        ("tied", "topk"),
        pytest.param("tied", "threshold", marks=pytest.mark.slow),
        pytest.param("iterative", "threshold", marks=pytest.mark.slow),
    ],
)
def test_as_many_groups_are_active_as_asked_for(settings, encoder, select) -> None:
    run = learned(FeatureRun(replace(settings, encoder=encoder, select=select, steps=60, active=3)))
    assert run.encode(run.held_out_samples()).active_groups.double().mean() == pytest.approx(3, rel=0.1)
    x = run.train.sample(2000, seed=1, step=0)  # the 200 samples that are held out are too few for 3 %
    assert run.encode(x).active_groups.double().mean() == pytest.approx(3, rel=0.03)


@pytest.mark.parametrize(
    ("changed", "stop"),
    [
        ({}, 0),
        ({"select": "threshold", "beta": 10.0}, 23),
        ({"encoder": "tied", "select": "batch_topk"}, 20),
        ({"encoder": "iterative", "steps": 12}, 12),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(settings, tmp_path, changed, stop) -> None:
    settings = replace(settings, **changed)
    whole = learned(FeatureRun(settings))
    run = learned(FeatureRun(settings), until=stop)
    run.log_metrics(seconds=0)
    run.save(tmp_path / "run")
    resumed = FeatureRun.resume(tmp_path / "run")
    assert resumed.step == stop
    assert resumed.metrics == run.metrics
    learned(resumed)
    assert torch.equal(resumed.phi, whole.phi)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_a_trial_step_changes_nothing(settings) -> None:
    run = FeatureRun(settings)
    before = run.state()
    run.seconds_per_step(2)
    assert run.state().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in run.state().items())


def test_its_file_is_one_of_features(settings, tmp_path) -> None:
    run = learned(FeatureRun(replace(settings, select="threshold", beta=5.0)))
    run.save(tmp_path / "run")
    path = tmp_path / "run" / "dictionary.safetensors"
    features = BlockFeatures.load(path)
    assert (features.select, features.beta, features.n_iter_) == ("threshold", 5.0, 40)
    assert torch.equal(read_groups(tmp_path / "run"), run.phi)
    raw = load_file(settings.store)["x"][-50:]
    codes = features.encode(raw)
    expected = run.encode(run.preparation.prepare(raw))
    torch.testing.assert_close(codes.dense(), expected.dense(), rtol=0, atol=1e-5)
    assert not [name for name in load_file(path) if name.startswith("optimizer")]  # it is finished
    np.testing.assert_allclose(features.mean_, run.preparation.mean)


def test_what_does_not_fit(settings, tmp_path) -> None:
    with pytest.raises(OptionError, match="as many orthonormal atoms as a sample has numbers, 16; got size 17"):
        FeatureRun(replace(settings, size=17))
    with pytest.raises(DataError, match="must be the folder of a store"):
        FeatureRun(replace(settings, store=str(tmp_path / "missing")))
    with pytest.raises(OptionError, match=r"the settings must fit into memory; .* try fewer groups"):
        FeatureRun(replace(settings, groups=10**12))
    with pytest.raises(RunError, match="must hold a run, to be resumed"):
        FeatureRun.resume(tmp_path / "none")
    run = FeatureRun(settings)
    run.log_metrics(seconds=0)
    run.save(tmp_path / "run")
    text = (tmp_path / "run" / "settings.json").read_text()
    for old, new, words in (
        ('"groups": 12', '"groups": 13', r"must have the shape \[16, 13, 2\] of its settings; got \[16, 12, 2\]"),
        ('"encoder": "linear"', '"encoder": "tied"', "does not fit its settings: a state must be of a module with"),
    ):
        (tmp_path / "run" / "settings.json").write_text(text.replace(old, new))
        with pytest.raises(RunError, match=words):
            FeatureRun.resume(tmp_path / "run")
    (tmp_path / "run" / "settings.json").write_text(text)
    save_file({"x": load_file(settings.store)["x"] + 1}, settings.store)
    with pytest.raises(RunError, match=r"the activations of the run in .* have changed since it began"):
        FeatureRun.resume(tmp_path / "run")
