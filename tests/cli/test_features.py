"""`gramian features`: runs on activations, from the command line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

TINY = ("--groups", "6x2", "--active", "2", "--batch", "16", "--steps", "20")


@pytest.fixture
def store(tmp_path):
    save_file({"x": torch.randn(400, 10) + 1}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_a_run(command, store, tmp_path) -> None:
    done = command("features", store, *TINY, "-o", "run", "--seed", "3", "--infer", "fista")
    assert (done.code, done.err) == (0, "")
    assert "learning 6 groups of 2 atoms of 10 numbers from 380 activations" in done.out
    assert "learned\nthe dictionary and the metrics are in run" in done.out
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "dictionary.safetensors", "metrics.jsonl", "settings.json",
    }  # fmt: skip
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings.items() >= {"store": str(store), "groups": 6, "size": 2, "target_active": 2, "seed": 3}.items()
    assert load_file(tmp_path / "run" / "dictionary.safetensors")["phi"].shape == (10, 6, 2)
    again = command("features", "--resume", "-o", "run")
    assert (again.code, again.out) == (0, "the run in run is finished: 20 steps\n")


def test_the_next_free_folder_and_seconds(command, store, tmp_path) -> None:
    done = command("features", store, "--groups", "4x2", "--active", "1", "--batch", "16", "--seconds", "0.1")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "runs" / "001" / "dictionary.safetensors").exists()


def test_errors_are_one_line(command, store, tmp_path) -> None:
    for arguments, words in (
        ((), "a new run needs STORE; got none"),
        ((store, "--groups", "axb"), "--groups must be a number, or two as in 64x4"),
        ((store, "--steps", 3, "--seconds", 3), "give --steps or --seconds"),
        (
            (store, "--groups", "4x11", "--active", 2),
            "as many orthonormal atoms as a sample has numbers, 10; got size 11",
        ),
        ((store, "--groups", "4", "--active", "5"), "must be at most that of groups, 4; got 5"),
        ((store, "--layer", "none"), "must be selected; got none of this name, 'none': 'x'"),
        (("missing",), "must be the folder of a store, or a file .npy or .safetensors"),
        ((store, "--resume"), "--resume uses the settings of the run; got store as well"),
        (("--resume",), "there must be a run in runs/ to resume"),
    ):
        done = command("features", *arguments)
        assert done.code == 2, words
        assert words in done.err
        assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
