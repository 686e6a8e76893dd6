"""`gramian features`, and `encode` and `decode` with its dictionaries, from the command line."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from gramian.activations.run import FeatureRun
from gramian.coding import BlockFeatures
from tests.torchrun import ENVIRONMENT, TORCHRUN

TINY = ("--groups", "6x2", "--active", "2", "--batch", "16", "--steps", "10")


@pytest.fixture
def store(tmp_path):
    save_file({"x": torch.randn(400, 10) + 1}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_a_run(command, store, tmp_path) -> None:
    done = command("features", store, *TINY, "-o", "run", "--seed", "3", "--select", "threshold", "--warm-up", "2")
    assert (done.code, done.err) == (0, "")
    assert "learning 6 groups of 2 atoms of 10 numbers from 380 activations" in done.out
    assert "step     10  unexplained " in done.out
    assert "learned; writing the report\n" in done.out
    assert done.out.endswith("the dictionary, the metrics and the report are in run: open run/report.html\n")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "dictionary.safetensors", "metrics.jsonl", "report.html", "settings.json",
    }  # fmt: skip
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    expected = {"store": str(store), "groups": 6, "size": 2, "active": 2, "seed": 3, "select": "threshold"}
    assert settings.items() >= expected.items()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 10]
    assert BlockFeatures.load(tmp_path / "run" / "dictionary.safetensors").phi_.shape == (10, 6, 2)
    again = command("features", "--resume", "-o", "run")
    assert (again.code, again.out) == (0, "the run in run is finished: 10 steps; see run/report.html\n")
    report = command("report", "run")
    assert (report.code, report.out) == (0, "open run/report.html\n")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<title>Features of x.safetensors</title>" in page
    assert "6 features, each a subspace of 2 dimensions in a space of 10" in page
    assert "measured on 400 samples, including those of training." in page


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on(command, store, tmp_path, monkeypatch, number) -> None:
    assert command("features", store, *TINY, "-o", "whole").code == 0
    advance = FeatureRun.advance

    def interrupted(run: FeatureRun) -> object:
        if run.step == 5 and run.metrics:  # not in the trial before the first row of metrics
            os.kill(os.getpid(), number)
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureRun, "advance", interrupted)
        done = command("features", store, *TINY, "-o", "run")
    assert (done.code, done.err) == (0, "")
    assert "stopped at step 6 of 10; writing the report\nto continue: gramian features --resume --out run\n" in done.out
    done = command("features", "--resume", "-o", "run")
    assert (done.code, done.err) == (0, "")
    resumed, whole = (load_file(tmp_path / folder / "dictionary.safetensors") for folder in ("run", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_the_next_free_folder_and_seconds(command, store, tmp_path) -> None:
    done = command("features", store, "--groups", "4x2", "--active", "1", "--batch", "16", "--seconds", "0.1")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "runs" / "001" / "dictionary.safetensors").exists()


def test_encode_and_decode(command, store, tmp_path) -> None:
    assert command("features", store, *TINY, "-o", "run").code == 0
    done = command("encode", "run", store, "-o", "codes.safetensors")
    assert (done.code, done.err) == (0, "")
    assert "codes.safetensors: 400 activations, 2.0 of 6 groups active, " in done.out
    inferred = command("encode", "run/dictionary.safetensors", store, "-o", "inferred.safetensors", "--infer")
    assert "400 activations, 2.0 of 6 groups active" in inferred.out
    done = command("decode", "run", "codes.safetensors", "-o", "back.npy")
    assert (done.code, done.err, done.out) == (0, "", "back.npy: 400 activations\n")
    back, x = torch.from_numpy(np.load(tmp_path / "back.npy")), load_file(store)["x"]
    features = BlockFeatures.load(tmp_path / "run" / "dictionary.safetensors")
    assert 1 - (x - back).square().sum() / (x - x.mean(dim=0)).square().sum() == pytest.approx(
        features.score(x), abs=1e-3
    )
    compared = command("compare", "run", "run/dictionary.safetensors", "-o", "table.md")
    assert compared.code == 0, compared.err
    assert command("inspect", "run/dictionary.safetensors").code == 0
    for arguments, words in (
        (("encode", "run", store, "-o", "codes.safetensors"), "exists already; try another name, or --force"),
        (("encode", "run", store, "-o", "codes"), "must end in .safetensors here"),
        (("encode", "run", store, "-o", "c.safetensors", "--stride", "2"), "is one of activations; got --stride as"),
        (("encode", "run", store, "-o", "c.safetensors", "--device", "x"), "device must be available to torch"),
        (("encode", "run", "none", "-o", "c.safetensors"), "must be the folder of a store"),
        (("decode", "run", store, "-o", "b.npy"), "must hold codes of activations"),
        (("decode", "run", "codes.safetensors", "codes.safetensors", "-o", "b.npy"), "one file of codes"),
        (("decode", "run", "codes.safetensors", "-o", "b.png"), "must end in .npy here"),
        (("decode", "codes.safetensors", "codes.safetensors", "-o", "b.npy"), "must be a dictionary file of format"),
    ):
        failed = command(*arguments)
        assert failed.code == 2, words
        assert words in failed.err
        assert failed.err.count("\n") == 1
    assert command("encode", "run", store, "-o", "codes.safetensors", "--force").code == 0


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
def test_torchrun_learns_one_run(command, store, tmp_path) -> None:
    options = [*TINY, "--select", "batch_topk"]
    assert command("features", store, *options, "-o", "alone").code == 0
    arguments = ["--nproc-per-node=2", "--no-python", sys.executable, "-c", "from gramian.cli import main; main()"]
    done = subprocess.run(
        [*TORCHRUN, *arguments, "features", str(store), *options, "-o", "run"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learned\n") == 1
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"dictionary.safetensors", "metrics.jsonl", "settings.json"}
    run, alone = (load_file(tmp_path / folder / "dictionary.safetensors") for folder in ("run", "alone"))
    assert run.keys() == alone.keys()
    for name, value in run.items():
        torch.testing.assert_close(value, alone[name], rtol=0, atol=2e-4)


def test_errors_are_one_line(command, store, tmp_path) -> None:
    for arguments, words in (
        ((), "a new run needs STORE; got none"),
        ((store, "--groups", "axb"), "--groups must be a number, or two as in 64x4"),
        ((store, "--steps", 3, "--seconds", 3), "the duration must be given once, by --steps or --seconds"),
        (
            (store, "--groups", "4x11", "--active", 2),
            "as many orthonormal atoms as a sample has numbers, 10; got size 11",
        ),
        ((store, "--groups", "4", "--active", "5"), "must be at most that of groups, 4; got 5"),
        ((store, "--encoder", "none"), "encoder must be one of 'linear', 'tied', 'iterative'; got 'none'"),
        ((store, "--layer", "none"), "must be selected; got none of this name, 'none': 'x'"),
        (("missing",), "must be the folder of a store, or a file .npy or .safetensors"),
        ((store, "--resume", "--warm-up", 2), "--resume uses the settings of the run; got STORE, --warm-up as well"),
        (("--resume",), "there must be a run in runs/ to resume"),
    ):
        done = command("features", *arguments)
        assert done.code == 2, words
        assert words in done.err
        assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
