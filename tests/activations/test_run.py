"""Runs on activations: they learn subspaces, stop and resume to the same bits, and refuse what does not fit."""

from dataclasses import replace

import pytest
import torch

from gramian.activations import run as runs
from gramian.activations.run import FeatureRun, FeatureSettings
from gramian.coding.runs.run import Run
from gramian.errors import DataError, OptionError, RunError


@pytest.fixture(autouse=True)
def without_shape_checks(unchecked) -> None:
    """Switch the run-time shape check off: learning takes thousands of calls."""


@pytest.fixture
def settings(tmp_path) -> FeatureSettings:
    """Samples that are sums of two of eight planes in 16 dimensions."""
    planes = torch.linalg.qr(torch.randn(8, 16, 2)).Q
    chosen = torch.rand(4000, 8).argsort(dim=1)[:, :2]
    angles = 2 * torch.pi * torch.rand(4000, 2)
    circles = torch.stack([angles.cos(), angles.sin()], dim=-1)
    x = torch.einsum("skln,skn->sl", planes[chosen], circles)
    path = tmp_path / "x.safetensors"
    from safetensors.torch import save_file

    save_file({"x": x + 3}, path)
    return FeatureSettings(
        store=str(path), groups=8, size=2, target_active=2, batch=64, steps=60, report_every=20, lam=0.5
    )  # fmt: skip


def learned(run: Run) -> Run:
    while not run.finished:
        run.advance()
    return run


def test_a_run_learns(settings) -> None:
    run = FeatureRun(replace(settings, steps=200, target_active=None, lam=1.0))
    run.log_metrics(seconds=0)
    learned(run).log_metrics(seconds=1)
    first, last = run.metrics
    assert last["energy"] < 0.9 * first["energy"]
    assert last["unexplained"] < first["unexplained"]
    assert last["residual"] < 1e-3
    assert 0 <= last["unused"] <= 1
    assert last["snr"] > first["snr"]
    assert run.train.samples == 3800


@pytest.mark.parametrize("stop", [20, 33])
def test_a_resumed_run_ends_with_the_same_bits(settings, tmp_path, stop) -> None:
    whole = learned(FeatureRun(settings))
    run = FeatureRun(settings)
    for _ in range(stop):
        run.advance()
    run.log_metrics(seconds=0)
    run.save(tmp_path / "run")
    resumed = FeatureRun.resume(tmp_path / "run")
    assert resumed.step == stop
    assert torch.equal(learned(resumed).phi, whole.phi)


def test_what_does_not_fit(settings, tmp_path, monkeypatch) -> None:
    with pytest.raises(OptionError, match="as many orthonormal atoms as a sample has numbers, 16; got size 17"):
        FeatureRun(replace(settings, size=17))
    with pytest.raises(DataError, match="must be the folder of a store"):
        FeatureRun(replace(settings, store=str(tmp_path / "missing")))
    with pytest.raises(OptionError, match=r"the settings must fit into memory; .* try fewer groups"):
        FeatureRun(replace(settings, groups=10**12))
    with pytest.raises(RunError, match="must hold a run, to be resumed"):
        FeatureRun.resume(tmp_path / "none")
    FeatureRun(settings).save(tmp_path / "run")
    from safetensors.torch import load_file, save_file

    save_file({"x": load_file(settings.store)["x"] + 1}, settings.store)
    with pytest.raises(RunError, match=r"the activations of the run in .* have changed since it began"):
        FeatureRun.resume(tmp_path / "run")


def test_another_learner_takes_its_place(settings) -> None:
    class Counting(FeatureRun):
        def new_learner(self):
            self.made = True
            return super().new_learner()

    assert Counting(settings).made
    assert issubclass(runs.FeatureRun, Run)
