"""A run that was stopped ends as one that was not."""

import json

import pytest
import torch

import gramian
from gramian.coding.runs import run as run_module
from gramian.errors import DataError, GramianError, RunError
from gramian.images.run import LearningRun, RunSettings, holds_run
from tests.crops import save_crops

TINY = {"groups": 8, "size": 2, "patch": 8, "steps": 30, "batch": 16, "iterations": 5, "report_every": 10}


@pytest.fixture(scope="module", autouse=True)
def pictures(tmp_path_factory) -> None:
    TINY["images"] = str(save_crops(tmp_path_factory.mktemp("small") / "pictures"))


def learn(run: LearningRun, folder=None, until: int | None = None) -> LearningRun:
    while not run.finished and run.step != until:
        run.advance()
        if run.should_report:
            run.metrics.append(run.evaluate(seconds=0.0))
            if folder is not None:
                run.save(folder)
    return run


@pytest.fixture(scope="module")
def whole() -> LearningRun:
    return learn(LearningRun(RunSettings(**TINY)))


@pytest.mark.parametrize("stop", [10, 17, 29, 30])
def test_stopped_and_resumed_it_has_the_same_bits(whole, tmp_path, stop) -> None:
    stopped = learn(LearningRun(RunSettings(**TINY)), tmp_path, until=stop)
    stopped.save(tmp_path)
    resumed = LearningRun.resume(tmp_path)
    assert resumed.step == stop
    learn(resumed, tmp_path)
    assert torch.equal(resumed.phi, whole.phi)
    assert torch.equal(resumed.initial_phi, whole.initial_phi)
    assert resumed.metrics == whole.metrics
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [10, 20, 30]
    assert {entry.name for entry in tmp_path.iterdir()} == {"dictionary.safetensors", "metrics.jsonl", "settings.json"}


def test_what_is_measured(whole) -> None:
    row = whole.metrics[-1]
    assert row["energy"] == pytest.approx(row["reconstruction"] + row["sparsity"], rel=1e-6)
    assert row["residual"] == gramian.residual(whole.phi).abs().max().item()
    assert row["snr"] > whole.metrics[0]["snr"] > 0
    assert 0 < row["active_groups"] <= 8
    assert not {image.name for image in whole.split.train} & {image.name for image in whole.split.held_out}


def test_the_seed_decides(whole) -> None:
    other = learn(LearningRun(RunSettings(**TINY, seed=1)), until=1)
    again = learn(LearningRun(RunSettings(**TINY)), until=1)
    assert torch.equal(again.initial_phi, whole.initial_phi)
    assert not torch.equal(other.initial_phi, whole.initial_phi)


@pytest.mark.parametrize("fails_at", range(6))
def test_a_kill_between_two_files_loses_nothing(whole, tmp_path, monkeypatch, fails_at) -> None:
    run = learn(LearningRun(RunSettings(**TINY)), tmp_path, until=10)
    calls = 0
    real = run_module.replace_file

    def die(path, content) -> None:
        nonlocal calls
        calls += 1
        if calls > fails_at:
            raise KeyboardInterrupt
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "replace_file", die)
        patch.setattr("gramian.coding.files.checksum.replace_file", die)
        with pytest.raises(KeyboardInterrupt):
            learn(run, tmp_path)
    resumed = learn(LearningRun.resume(tmp_path), tmp_path)
    assert torch.equal(resumed.phi, whole.phi)
    assert resumed.metrics == whole.metrics


def test_a_new_folder_is_removed_if_writing_fails(tmp_path, monkeypatch) -> None:
    def full(path, content) -> None:
        raise RunError(f"{path} could not be written: No space left on device")

    monkeypatch.setattr("gramian.coding.files.checksum.replace_file", full)
    run = LearningRun(RunSettings(**TINY))
    with pytest.raises(RunError, match="No space left on device"):
        run.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_timing_a_step_does_not_change_the_run(whole) -> None:
    run = LearningRun(RunSettings(**TINY))
    assert run.seconds_per_step(30) > 0  # so many that groups would no longer be made anew
    assert run.step == 0
    assert torch.equal(learn(run).phi, whole.phi)


class TestFoldersThatWillNotDo:
    def folder(self, tmp_path):
        run = learn(LearningRun(RunSettings(**TINY)), until=1)
        run.save(tmp_path)
        return tmp_path

    def test_empty(self, tmp_path) -> None:
        assert not holds_run(tmp_path)
        with pytest.raises(RunError, match=r"must hold a run, to be resumed; got no dictionary\.safetensors"):
            LearningRun.resume(tmp_path)

    def test_another_shape(self, tmp_path) -> None:
        folder = self.folder(tmp_path)
        settings = json.loads((folder / "settings.json").read_text())
        (folder / "settings.json").write_text(json.dumps(settings | {"groups": 9}))
        with pytest.raises(RunError, match=r"must have the shape \[64, 9, 2\] of its settings; got \[64, 8, 2\]"):
            LearningRun.resume(folder)
        (folder / "settings.json").write_text(json.dumps(settings | {"whiten": "zca"}))
        with pytest.raises(RunError, match=r"whitened as its settings say, 'zca'; got 'fourier'"):
            LearningRun.resume(folder)

    @pytest.mark.parametrize("missing", ["settings.json", "dictionary.safetensors", "metrics.jsonl"])
    def test_a_file_that_is_gone(self, tmp_path, missing) -> None:
        folder = self.folder(tmp_path)
        (folder / missing).unlink()
        with pytest.raises(RunError, match=r"must hold a run|there must be metrics at"):
            LearningRun.resume(folder)

    def test_pictures_that_have_changed(self, tmp_path) -> None:
        from PIL import Image

        pictures = tmp_path / "pictures"
        pictures.mkdir()

        def draw(seed: int) -> None:
            pixels = torch.rand(64, 64, generator=torch.Generator().manual_seed(seed))
            Image.fromarray((255 * pixels * (1 + seed) / 2).byte().numpy()).save(pictures / "a.png")

        draw(0)
        run = learn(LearningRun(RunSettings(**TINY | {"images": str(pictures)})), until=1)
        run.save(tmp_path / "run")
        draw(1)
        with pytest.raises(RunError, match=r"the pictures of the run in .* have changed since it began; try a new run"):
            LearningRun.resume(tmp_path / "run")
        (pictures / "a.png").unlink()
        with pytest.raises(DataError, match="at least one readable picture"):
            LearningRun.resume(tmp_path / "run")
        assert issubclass(DataError, GramianError)
