"""`gramian compare`: what the penalty and the groups do, as a table on the screen and in a file."""

import re
from types import SimpleNamespace

import pytest
import torch

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
