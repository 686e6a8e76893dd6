"""Memory: what a run needs at least, and what there is."""

import pytest

from gramian.coding import memory
from gramian.coding.learning_run import LearningRun
from gramian.coding.run_settings import RunSettings
from gramian.errors import OptionError


@pytest.mark.parametrize("changed", [{"groups": 10**12}, {"batch": 10**12}, {"groups": 10**7, "update": "online"}])
def test_what_cannot_fit_is_refused_before_pictures_are_loaded(changed) -> None:
    settings = RunSettings(images="nowhere", **changed)
    with pytest.raises(
        OptionError, match=r"must fit into memory; .* need at least .* GB, and .* GB are free; try fewer"
    ):
        LearningRun(settings)


def test_what_each_process_needs() -> None:
    assert sum(memory.least_memory(RunSettings())) < 5e6
    alone, shared = (sum(memory.least_memory(RunSettings(batch=1 << 20), sharing=share)) for share in (1, 4))
    assert 2 < alone / shared < 4  # all draw the whole batch


def test_what_there_is(tmp_path, monkeypatch) -> None:
    assert 1e7 < memory.available_memory() < 1e15
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 3000 kB\nSwapFree: 1000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTAINER", (tmp_path / "none", tmp_path / "limit"))
    assert memory.available_memory() == 4000 * 1024
    (tmp_path / "limit").write_text("max\n")
    assert memory.available_memory() == 4000 * 1024
    (tmp_path / "limit").write_text("1000\n")
    assert memory.available_memory() == 1000
    for damaged in ("", "MemAvailable:\nSwapFree: 3 kB", "MemAvailable: x kB\nSwapFree: 3 kB"):
        (tmp_path / "meminfo").write_text(damaged)
        (tmp_path / "limit").write_text("max\n")
        assert memory.available_memory() > 4000 * 1024
