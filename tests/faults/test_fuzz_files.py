"""The fuzzer of files finds nothing, is repeatable, and sees a fault where there is one."""

import tempfile
from pathlib import Path

import pytest

from gramian.weights import entries
from tests.faults import fuzz_files


def test_the_first_cases(tmp_path) -> None:
    for seed in range(60):
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        fuzz_files.case(seed, folder)


@pytest.mark.slow
def test_some_seconds_of_it() -> None:
    assert fuzz_files.run(20, seed=1_000_000) > 20


def test_it_shows_the_seed_of_a_failure(monkeypatch, tmp_path) -> None:
    def broken(self, name) -> None:
        raise OverflowError("a raw error")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(entries.Weights, "read", broken)
    shown: list[str] = []
    with pytest.raises(OverflowError):
        fuzz_files.run(60, seed=0, show=shown.append)
    (line,) = shown
    assert "fails with OverflowError" in line
    assert any(Path(line.rpartition(" ")[2]).iterdir())
