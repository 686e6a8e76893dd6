"""The `gramian` command in this process: what a user types, sees and is left with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gramian.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["gramian", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return Ended(int(left.value.code or 0), *capfd.readouterr())

    return run
