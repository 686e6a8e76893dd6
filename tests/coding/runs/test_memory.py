"""The memory that is available, from the files of the system."""

from gramian.coding.runs import memory


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
