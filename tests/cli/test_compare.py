"""`gramian compare`: what the penalty and the groups do, as a table on the screen and in a file."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gramian.images.evaluation import comparison
from gramian.images.evaluation.comparison import compare
from gramian.images.run import LearningRun, RunSettings

TINY = ("--groups", "6x2", "--patch", "6", "--steps", "20")


def test_the_table(command, tmp_path) -> None:
    (tmp_path / "compare.md").write_text("an older one")
    done = command("compare", *TINY, "--force")
    assert (done.code, done.err) == (0, "")
    assert done.out.rstrip().endswith("written to compare.md")
    lines = (tmp_path / "compare.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split(" | ")] for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert [row[0].removeprefix("| ") for row in rows[2:]] == [
        "groups of 2, with the penalty",
        "groups of 2, without",
        "single atoms",
        "scikit-learn",
    ]
    assert all(re.fullmatch(r"-?\d+\.\d\d", row[5]) for row in rows[2:])
    assert "12 atoms of 6 × 6 pixels, 20 steps of 128 patches" in lines[-1]
    assert "at 12 coefficients for all four" in lines[-1]
    assert (
        "wall time of the learning steps only, one dictionary after the other, each after a warm-up, on 1 thread"
        in lines[-1]
    )
    assert {entry.name for entry in tmp_path.iterdir()} == {"compare.md"}


def test_the_warm_up_does_not_change_the_dictionary() -> None:
    settings = RunSettings(groups=4, size=2, patch=6, steps=4, batch=16, patience=2)
    plain, warmed = LearningRun(settings), LearningRun(settings)
    while not plain.finished:
        plain.advance()
    phi, seconds = comparison._learned(warmed)
    assert torch.equal(phi, plain.phi)
    assert seconds > 0


@pytest.mark.parametrize(("size", "active"), [(1, 32), (3, 30), (5, 30), (40, 40)])
def test_all_are_measured_at_as_many_coefficients(monkeypatch, size, active) -> None:
    monkeypatch.setattr(comparison, "LearningRun", lambda settings: SimpleNamespace(learner=SimpleNamespace()))
    monkeypatch.setattr(comparison, "_learned", lambda run: (None, 0.0))
    monkeypatch.setattr(comparison, "_scikit_learn", lambda run: (None, 0.0))
    monkeypatch.setattr(comparison, "_measured", lambda name, run, phi, seconds, active: active)
    assert list(compare(RunSettings(groups=64, size=size))) == 4 * [active]


@pytest.mark.slow
def test_the_measures_of_all_dictionaries() -> None:
    penalised, free, single, theirs = compare(RunSettings(groups=8, size=2, patch=6, steps=150, lr=1.0))
    assert penalised.cosine < 1e-5 < free.cosine
    assert penalised.collapsed == 0
    assert penalised.effective_rank == pytest.approx(2, abs=1e-4)
    assert free.effective_rank < penalised.effective_rank
    assert penalised.active == free.active == single.active == theirs.active == 16
    for each in (penalised, free, single, theirs):
        assert each.debiased >= each.snr > 0.5
        assert each.seconds > 0
    assert abs(single.snr - theirs.snr) < 1.0


def test_bad_options_are_refused_before_learning(command, tmp_path) -> None:
    (tmp_path / "compare.md").write_text("mine")
    for options, message in (
        (TINY, "compare.md exists already; try another name, or --force to replace it"),
        ((*TINY, "-o", "nowhere/table.md"), "the folder of nowhere/table.md must exist; got none"),
        ((*TINY, "-o", "table.py"), "the name of an output must end in .md here; got table.py"),
        ((*TINY, "-o", "new.md", "--images", "nowhere"), "which does not exist"),
        ((*TINY, "-o", "new.md", "--groups", "many"), "--groups must be a number"),
    ):
        done = command("compare", *options)
        assert (done.code, done.out) == (2, "")
        assert message in done.err
    assert (tmp_path / "compare.md").read_text() == "mine"
    assert {entry.name for entry in tmp_path.iterdir()} == {"compare.md"}


class TestDictionaries:
    """`gramian compare A B …`: which subspaces are the same."""

    @pytest.fixture
    def phi(self, tmp_path) -> torch.Tensor:
        phi = torch.linalg.qr(torch.randn(10, 24, 3)).Q.permute(1, 0, 2).contiguous()
        save_file({"phi": phi}, tmp_path / "a.safetensors")
        np.save(tmp_path / "b.npy", (phi.flip(1) @ torch.randn(3, 3)).permute(1, 2, 0).numpy())
        np.save(tmp_path / "random.npy", torch.randn(10, 3, 24).numpy())
        return phi

    def test_two_of_them(self, command, tmp_path, phi) -> None:
        done = command("compare", "a.safetensors", "b.npy")
        assert (done.code, done.err) == (0, "")
        assert "a.safetensors and b.npy: SubspaceMatch(10 of 10 groups come back, mean overlap 1.000" in done.out
        text = (tmp_path / "compare.md").read_text()
        row = next(line for line in text.splitlines() if line.startswith("| a.safetensors"))
        assert row.split(" | ")[2:5] == ["10, 10", "100 %", "1.000"]
        pairs = text.split("```")[1].split("\n")[2:-1]
        assert sorted((int(pair.split()[0]), int(pair.split()[1])) for pair in pairs) == [(i, 9 - i) for i in range(10)]

    def test_every_two_of_three(self, command, tmp_path, phi) -> None:
        done = command("compare", "a.safetensors", "b.npy", "random.npy", "-o", "t.md")
        assert done.code == 0
        rows = [line.strip("| ").split(" | ") for line in (tmp_path / "t.md").read_text().splitlines()[2:5]]
        assert [row[:2] for row in rows] == [
            ["a.safetensors", "b.npy"],
            ["a.safetensors", "random.npy"],
            ["b.npy", "random.npy"],
        ]
        assert rows[0][3] == "100 %"
        assert int(rows[1][3].split()[0]) <= 20

    def test_a_named_tensor_in_a_layout(self, command, tmp_path, phi) -> None:
        for name in ("c", "d"):
            save_file(
                {"W_dec": phi.flatten(1).T.contiguous(), "W_enc": phi.flatten(1)}, tmp_path / f"{name}.safetensors"
            )
        done = command(
            "compare", "c.safetensors", "d.safetensors", "--tensor", "W_dec", "--layout", "(m n) l -> l m n; n=3"
        )
        assert "10 of 10 groups come back" in done.out

    def test_mistakes(self, command, tmp_path, phi) -> None:
        np.save(tmp_path / "short.npy", np.ones((10, 3, 20)))
        for arguments, message in (
            (("a.safetensors",), "there must be two or more dictionaries to compare; got a.safetensors only"),
            (("a.safetensors", "b.npy", "--steps", "3"), "matched as they are, without learning; got --steps"),
            (("a.safetensors", "none.npy"), "none.npy must be an array of numbers; it cannot be read"),
            (("a.safetensors", "short.npy"), "a.safetensors and short.npy: the vectors of both dictionaries"),
            (("a.safetensors", "b.npy", "-o", "b.npy", "--force"), "must end in .md here"),
            (("--tensor", "phi"), "--tensor and --layout need dictionaries"),
        ):
            done = command("compare", *arguments)
            assert (done.code, done.out) == (2, "")
            assert message in done.err
        assert not (tmp_path / "compare.md").exists()
