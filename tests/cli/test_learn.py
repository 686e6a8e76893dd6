"""`gramian learn` as a user runs it: in a process of its own, with real files and real signals."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from gramian.images import load_dictionary

RUN = [sys.executable, "-c", "from gramian.cli import main; main()"]
TINY = ["--groups", "8", "--size", "2", "--patch", "8", "--batch", "16"]
STEPS = 200
FILES = {"dictionary.safetensors", "metrics.jsonl", "report.html", "settings.json"}


def gramian(folder: Path, *arguments: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=400, **more
    )


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run, in runs/001."""
    folder = tmp_path_factory.mktemp("whole")
    done = gramian(folder, "learn", *TINY, "--steps", str(STEPS))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "held-out SNR" in done.stdout
    assert "open runs/001/report.html" in done.stdout
    return folder


def test_the_files_of_a_run(whole) -> None:
    run = whole / "runs" / "001"
    assert names(whole) == {"runs"}
    assert names(run) == FILES
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(0, STEPS + 1, 100))
    assert json.loads((run / "settings.json").read_text())["groups"] == 8
    assert (run / "report.html").read_text().startswith("<!doctype html>")


def test_help_and_version(command) -> None:
    assert "learn" in command("--help").out
    output = command("learn", "--help").out
    for option in ("--images", "--resume", "--seed", "--steps", "--beta"):
        assert option in output
    assert re.fullmatch(r"gramian \d+\.\d+\.\d+.*\n", command("--version").out)


def interrupted(folder: Path, number: int) -> tuple[int, str]:
    """Start the same run in `run`, and send a signal after the first report."""
    output = ""
    with subprocess.Popen(
        [*RUN, "learn", *TINY, "--steps", str(STEPS), "--out", "run"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        for line in process.stdout:
            output += line
            if line.startswith("step    100"):
                process.send_signal(number)
    return process.returncode, output


def finish(folder: Path, whole: Path) -> None:
    done = gramian(folder, "learn", "--resume", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert names(folder / "run") == FILES
    resumed, expected = (
        load_dictionary(path / "dictionary.safetensors") for path in (folder / "run", whole / "runs" / "001")
    )
    assert resumed.step == expected.step == STEPS
    assert torch.equal(resumed.phi, expected.phi)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_stopped_run_keeps_its_state_and_resumes(whole, tmp_path, number) -> None:
    for attempt in range(3):  # a machine that stalls may deliver a signal only after the last step
        folder = tmp_path / str(attempt)
        folder.mkdir()
        code, output = interrupted(folder, number)
        assert code == 0, output
        assert names(folder / "run") == FILES
        stopped = re.search(rf"stopped at step (\d+) of {STEPS}", output)
        if stopped:
            break
    assert stopped, output
    assert 100 <= int(stopped[1]) < STEPS
    assert "to continue: gramian learn --resume --out run" in output
    finish(folder, whole)


@pytest.mark.slow
def test_killed_it_goes_on_from_the_last_report(whole, tmp_path) -> None:
    code, _ = interrupted(tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    finish(tmp_path, whole)


def test_a_finished_run_is_not_changed(whole, command, monkeypatch) -> None:
    before = {path: path.read_bytes() for path in (whole / "runs" / "001").iterdir()}
    monkeypatch.chdir(whole)
    done = command("learn", "--resume")
    assert done.code == 0
    assert f"is finished: {STEPS} steps" in done.out
    assert {path: path.read_bytes() for path in (whole / "runs" / "001").iterdir()} == before


def refused(code: object, output: str, error: str, message: str) -> None:
    assert code == 2, output + error
    assert output == ""
    assert re.fullmatch(rf"gramian: {message}\n", error), error


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                ["--images", "nowhere"],
                r"images must be .* got .*nowhere, which does not exist",
            ),
            (["--images", "empty"], r".*empty must hold at least one readable picture .*"),
            (["--images", "unreadable"], r".*unreadable must hold at least one readable picture .*got 1 that .*"),
            (
                ["--images", "small"],
                r"a single picture is cut in two, .* 64 pixels high; got 20 × 30 .* for a.png; try .*",
            ),
            (["--size", "17", "--patch", "4"], r"a group can hold at most .* numbers, 16; got size 17; try .*"),
            (["--rule", "magic"], r"rule must be one of .*; got 'magic'"),
            (["--penalty", "magic"], r"penalty must be one of .*; got 'magic'"),
            (["--infer", "magic"], r"infer must be one of .*; got 'magic'"),
            (["--lam", "0"], r"lam must be a positive finite number; got 0.0"),
            (["--steps", "0"], r"steps must be at least 1; got 0"),
            (["--resume"], r"there must be a run in runs/ to resume; got none; try --out FOLDER"),
            (["--resume", "--out", "empty"], r"empty must hold a run, to be resumed; .*"),
            (["--resume", "--steps", "5"], r"--resume uses the settings of the run; got --steps as well; .*"),
            (["--out", "small"], r"small must be a new or an empty folder; it already holds something else; .*"),
        ],
    )
    def test_bad_input_gives_one_line_and_no_files(self, command, tmp_path, options, message) -> None:
        for folder in ("empty", "unreadable", "small"):
            (tmp_path / folder).mkdir()
        (tmp_path / "unreadable" / "a.png").write_bytes(b"no picture")
        Image.new("L", (30, 20)).save(tmp_path / "small" / "a.png")
        before = sorted(tmp_path.rglob("*"))
        done = command("learn", *options)
        refused(done.code, done.out, done.err, message)
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_option_that_is_none(self, command, tmp_path) -> None:
        for options in (["--magic"], ["--steps", "many"]):
            done = command("learn", *options)
            assert done.code == 2
            assert options[0] in done.err
        assert not names(tmp_path)

    def test_a_folder_that_holds_a_run(self, whole, command, monkeypatch) -> None:
        monkeypatch.chdir(whole)
        done = command("learn", *TINY, "--out", "runs/001")
        refused(
            done.code,
            done.out,
            done.err,
            r"runs/001 must be a new or an empty folder; it already holds a run; .* or --resume .*",
        )

    def test_a_full_disk(self, command, tmp_path) -> None:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            done = command("learn", *TINY, "--steps", "5", "--out", "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        refused(done.code, done.out, done.err, r"run/dictionary.safetensors could not be written: File too large")
        assert not names(tmp_path)

    @pytest.mark.slow
    def test_a_disk_that_fills_up_on_the_way_keeps_the_last_checkpoint(self, tmp_path) -> None:
        folder = tmp_path / "run"
        assert gramian(tmp_path, "learn", *TINY, "--steps", "10", "--out", "run").returncode == 0
        assert (folder / "dictionary.safetensors").stat().st_size < STEPS0
        (folder / "report.html").unlink()

        def full() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))

        done = gramian(tmp_path, "learn", "--resume", "--out", "run", preexec_fn=full)  # the report is larger
        assert done.returncode == 2
        assert re.fullmatch(r"gramian: run/report.html could not be written: File too large\n", done.stderr)
        assert names(folder) == FILES - {"report.html"}


@pytest.mark.slow
def test_pictures_of_a_folder(tmp_path) -> None:
    from gramian.images.samples import shipped_images

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for image in shipped_images()[:3]:
        Image.fromarray((255 * image.pixels).byte().numpy()).save(pictures / f"{image.name}.png")
    (pictures / "broken.jpg").write_bytes(b"")
    done = gramian(tmp_path, "learn", *TINY, "--steps", "5", "--images", "pictures", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "skipped, not readable: broken.jpg" in done.stdout
    assert names(tmp_path / "run") == FILES


def test_the_moment_of_the_signal_does_not_matter(tmp_path) -> None:
    # Before the first step there is nothing to keep: it must only end soon, and leave no half of a run.
    with subprocess.Popen([*RUN, "learn", *TINY, "--out", "run"], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
    assert not (tmp_path / "run").exists() or {"dictionary.safetensors", "settings.json"} <= names(tmp_path / "run")
