"""The options of `gramian learn`: what each does to the run, alone and on real files."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gramian.images import Dictionary, load_dictionary
from gramian.images.samples import shipped_images

TINY = ("--groups", "6x2", "--patch", "6", "--batch", "16", "--steps", "20", "--out", "run")


def settings(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run" / "settings.json").read_text())


def dictionary(folder: Path) -> Dictionary:
    return load_dictionary(folder / "run" / "dictionary.safetensors")


slow = pytest.mark.slow


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"whiten": "zca", "update": "online", "prior": "nonnegative"}, id="zca, online, nonnegative"),
        pytest.param(
            {"whiten": "none", "infer": "lca", "rule": "polyak", "device": "cpu"}, id="none, lca, polyak", marks=slow
        ),
        pytest.param({"prior": "scale_mixture", "penalty": "squared_frobenius"}, id="scale_mixture", marks=slow),
        pytest.param({"prior": "group_l0"}, id="group_l0", marks=slow),
    ],
)
def test_every_option_of_learning(command, tmp_path, options) -> None:
    done = command("learn", *TINY, "--lam", "0.5", *(word for name in options for word in (f"--{name}", options[name])))
    assert (done.code, done.err) == (0, "")
    assert settings(tmp_path).items() >= options.items()
    learned = dictionary(tmp_path)
    assert learned.phi.shape == (36, 6, 2)
    assert not torch.equal(learned.phi, learned.initial_phi)
    assert metrics(tmp_path)[-1]["energy"] < metrics(tmp_path)[0]["energy"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@slow
def test_colours(command, tmp_path) -> None:
    assert command("learn", *TINY, "--colour").code == 0
    learned = dictionary(tmp_path)
    assert learned.phi.shape == (108, 6, 2)
    assert learned.preparation.channels == 3
    # It is enough, without the pictures it was learned from, to code others.
    Image.fromarray((255 * shipped_images(colour=True)[0].pixels[:40, :50]).byte().numpy()).save(tmp_path / "a.png")
    assert command("encode", "run", "a.png", "-o", "codes").code == 0
    assert command("decode", "run", "codes", "-o", "back").code == 0
    with Image.open(tmp_path / "back" / "a.png") as back:
        assert back.mode == "RGB"


@slow
def test_lambda_goes_where_as_many_groups_are_active(command, tmp_path) -> None:
    assert command("learn", *TINY, "--lam", "0.5", "--target-active", "1.5").code == 0
    first, last = metrics(tmp_path)
    assert first["lam"] == settings(tmp_path)["lam"] == 0.5
    assert last["lam"] == dictionary(tmp_path).lam > 0.5
    assert last["active_groups"] < first["active_groups"]


@slow
def test_as_many_steps_as_fit(command, tmp_path) -> None:
    began = time.monotonic()
    done = command("learn", *TINY[:6], "--out", "run", "--seconds", "2")
    assert done.code == 0
    assert 20 < settings(tmp_path)["steps"] == dictionary(tmp_path).step
    assert time.monotonic() - began < 30  # pictures and the report come on top


class TestPictures:
    def frames(self, count: int) -> np.ndarray:
        """A film: a window that moves over a photograph."""
        pixels = (255 * shipped_images()[2].pixels).byte().numpy()
        return np.stack([pixels[10 * i : 10 * i + 60, 5 * i : 5 * i + 80] for i in range(count)])

    @slow
    def test_an_array(self, command, tmp_path) -> None:
        np.save(tmp_path / "film.npy", self.frames(10))
        assert command("learn", *TINY, "--images", "film.npy").code == 0
        np.savez(tmp_path / "film.npz", early=self.frames(10)[:4], late=self.frames(10)[4:])
        assert command("learn", *TINY[:-1], "again", "--images", "film.npz").code == 0
        run, again = (load_dictionary(tmp_path / name / "dictionary.safetensors") for name in ("run", "again"))
        assert torch.equal(run.phi, again.phi)

    @pytest.mark.parametrize("suffix", [pytest.param("gif", marks=slow), pytest.param("tiff", marks=slow)])
    def test_a_film(self, command, tmp_path, suffix) -> None:
        first, *others = map(Image.fromarray, self.frames(10))
        first.save(tmp_path / f"film.{suffix}", save_all=True, append_images=others)
        assert command("learn", *TINY, "--images", f"film.{suffix}").code == 0
        assert command("encode", "run", f"film.{suffix}", "-o", "codes").code == 0
        assert len(list((tmp_path / "codes").iterdir())) == 10

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 4, 5, 6, 7)), "must hold numbers [height, width]"),
            (np.full((40, 40), np.nan), "must hold bytes, or finite numbers in [0, 1]"),
            (300 * np.ones((40, 40)), "must hold bytes, or finite numbers in [0, 1]"),
            (np.array([{}]), "without pickled objects"),
            (np.zeros((40, 40), np.uint8), "flat"),
        ],
    )
    def test_arrays_that_will_not_do(self, command, tmp_path, array, message) -> None:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        done = command("learn", *TINY, "--images", "a.npy")
        assert (done.code, done.out) == (2, "")
        assert message in done.err
        assert {entry.name for entry in tmp_path.iterdir()} == {"a.npy"}


class TestTensorBoard:
    @slow
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_metrics_are_written_and_go_on(self, command, tmp_path) -> None:
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        assert command("learn", *TINY, "--tensorboard").code == 0
        changed = json.dumps(settings(tmp_path) | {"steps": 40})
        (tmp_path / "run" / "settings.json").write_text(changed)
        assert command("learn", "--resume", "--tensorboard", "--out", "run").code == 0
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        rows = metrics(tmp_path)
        for name in ("snr", "energy", "residual", "lam"):
            scalars = {each.step: each.value for each in events.Scalars(name)}
            assert scalars == pytest.approx({row["step"]: row[name] for row in rows}, rel=1e-5)

    def test_without_tensorboard_no_files_remain(self, command, tmp_path, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        done = command("learn", *TINY, "--tensorboard")
        assert (done.code, done.out) == (2, "")
        assert "--tensorboard needs tensorboard; try pip install tensorboard" in done.err
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--groups", "6by2"), "--groups must be a number, or two as in 64x4; got '6by2'"),
        (("--groups", "6x2x2"), "--groups must be a number, or two as in 64x4"),
        (("--groups", "6x2", "--size", "2"), "the size of groups must be given once"),
        (("--seconds", "5", "--steps", "5"), "the duration must be given once, by --steps or --seconds; got 5 and 5"),
        (("--seconds", "-1"), "seconds must be a positive finite number; got -1"),
        (("--seconds", "inf"), "seconds must be a positive finite number; got inf"),
        (("--seconds", "nan"), "seconds must be a positive finite number; got nan"),
        (("--seed", str(2**70)), "seed must be at most 18446744073709551615; got 1180591620717411303424"),
        (("--device", "meta"), "device must be available to torch and have storage; got 'meta'"),
        (("--batch", "1000000000000"), "the settings must fit into memory; 64 groups of 4 atoms of 256 numbers"),
        (("--groups", "1000000000000"), "the settings must fit into memory; 1000000000000 groups of 4 atoms"),
        (("--whiten", "magic"), "whiten must be one of fourier, zca, none; got 'magic'"),
        (("--update", "magic"), "update must be one of sgd, online; got 'magic'"),
        (("--prior", "magic"), "prior must be one of"),
        (("--target-active", "0"), "target_active must lie between 0 and the number of groups; got 0"),
        (("--target-active", "65"), "target_active must lie between 0 and the number of groups; got 65"),
        (("--device", "magic"), "device must be available to torch and have storage; got 'magic'"),
        (("--spread", "2"), "2"),
        (("--resume", "--tensorboard", "--groups", "6x2"), "--resume uses the settings of the run"),
    ],
)
def test_mistakes(command, tmp_path, options, message) -> None:
    done = command("learn", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("gramian: ")
    assert message in done.err
    assert not list(tmp_path.iterdir())


@slow
def test_the_report_is_recreated(command, tmp_path) -> None:
    assert command("learn", *TINY).code == 0
    page = tmp_path / "run" / "report.html"
    before = page.read_text()
    page.unlink()
    done = command("report", "run")
    assert (done.code, done.out) == (0, "open run/report.html\n")
    assert page.read_text() == before
    done = command("report", "nowhere")
    assert (done.code, "nowhere must hold a run" in done.err) == (2, True)
