"""Folders of runs: free or not, made and held, taken back."""

import os
from functools import partial
from pathlib import Path

import pytest

from gramian.coding.runs import folder as run_folder
from gramian.coding.runs.folder import holds_run
from gramian.errors import RunError
from gramian.files import lock_folder

SETTINGS = '{"application": "a test"}'


def read_settings(path: Path) -> None:
    if path.read_text() != SETTINGS:
        raise RunError(f"{path} must hold the settings of a test")


check_free, check_run, latest_run, new_run, not_begun, old_run = (
    partial(getattr(run_folder, name), read_settings=read_settings)
    for name in ("check_free", "check_run", "latest_run", "new_run", "not_begun", "old_run")
)


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def interrupted(folder: Path, **files: str) -> None:
    fill(folder, **files)
    raise KeyboardInterrupt


class TestFree:
    @pytest.mark.parametrize(
        "files",
        [
            {},
            {"settings__json": SETTINGS},
            {"settings__json": SETTINGS, "metrics__jsonl": ""},
            {"settings__json": SETTINGS, "__gramian-0123456789ab__tmp": "half a dictionary"},
            {"__gramian-0123456789ab__tmp": "half of the settings"},
        ],
    )
    def test_where_no_run_began(self, tmp_path, files) -> None:
        folder = fill(tmp_path / "run", **files)
        check_free(folder)
        with new_run(folder, runs=tmp_path) as held:
            assert held == folder
            assert not list(folder.glob(".gramian-*"))

    @pytest.mark.parametrize(
        "files",
        [
            {"settings__json": '{"editor.fontSize": 12}'},  # another program's
            {"settings__json": SETTINGS, "thesis__tex": ""},
            {"metrics__jsonl": ""},
            {"dictionary__safetensors": ""},
            {"__git": ""},
        ],
    )
    def test_something_else_is_left_alone(self, tmp_path, files) -> None:
        folder = fill(tmp_path / "run", **files)
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(RunError, match="must be a new or an empty folder; it already holds something else; try"):
            check_free(folder)
        with pytest.raises(RunError, match="it already holds something else"), new_run(folder, runs=tmp_path):
            pass
        with pytest.raises(RunError, match=r"must hold a run, .*; try without --resume"):
            check_run(folder)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before

    def test_a_file_and_a_link_to_nowhere(self, tmp_path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to("nowhere")
        for name in ("file", "link"):
            with pytest.raises(RunError, match="it already holds something else"):
                check_free(tmp_path / name)
        for folder, runs in ((tmp_path / "file" / "run", tmp_path), (None, tmp_path / "file")):
            with pytest.raises(RunError, match="could not be created: Not a directory"), new_run(folder, runs=runs):
                pass
        with pytest.raises(RunError, match="could not be accessed: File name too long"):
            check_free(tmp_path / ("a" * 300))

    def test_a_run(self, tmp_path) -> None:
        folder = fill(tmp_path / "run", settings__json=SETTINGS, dictionary__safetensors="")
        assert holds_run(folder)
        assert not not_begun(folder)
        with pytest.raises(RunError, match="it already holds a run; try another --out, or --resume to continue it"):
            check_free(folder)


class TestHeld:
    def test_each_gets_a_number(self, tmp_path) -> None:
        runs = tmp_path / "deep" / "runs"
        with new_run(None, runs=runs) as first, new_run(None, runs=runs) as second:
            assert (first, second) == (runs / "001", runs / "002")
            fill(runs / "005")
            (runs / "006").touch()
            with new_run(None, runs=runs) as third:
                assert third == runs / "007"

    def test_by_one_alone(self, tmp_path) -> None:
        folder = fill(tmp_path / "run", settings__json=SETTINGS)
        with new_run(folder, runs=tmp_path):
            for other in (new_run(folder, runs=tmp_path), old_run(folder), lock_folder(folder)):
                with (
                    pytest.raises(RunError, match="must be used by one process at a time; got one that uses it now"),
                    other,
                ):
                    pass
        with old_run(folder):
            pass

    def test_what_fails_leaves_no_trace(self, tmp_path) -> None:
        folder = tmp_path / "deep" / "run"
        with pytest.raises(KeyboardInterrupt), new_run(folder, runs=tmp_path):
            interrupted(folder, settings__json=SETTINGS, metrics__jsonl="")
        assert not list(tmp_path.iterdir())
        with pytest.raises(KeyboardInterrupt), new_run(None, runs=tmp_path / "runs"):
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())

    def test_what_fails_after_a_checkpoint_stays(self, tmp_path) -> None:
        folder = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt), new_run(folder, runs=tmp_path):
            interrupted(folder, settings__json=SETTINGS, dictionary__safetensors="")
        assert holds_run(folder)

    def test_what_others_put_there_stays(self, tmp_path) -> None:
        folder = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt), new_run(folder, runs=tmp_path):
            interrupted(folder, settings__json=SETTINGS, thesis__tex="")
        assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


def test_the_latest_that_can_go_on(tmp_path) -> None:
    assert latest_run(tmp_path / "nowhere") is None
    assert latest_run(tmp_path) is None
    fill(tmp_path / "009", settings__json=SETTINGS, dictionary__safetensors="")
    fill(tmp_path / "010", settings__json=SETTINGS)
    fill(tmp_path / "011")
    fill(tmp_path / "notes", settings__json=SETTINGS, dictionary__safetensors="")
    assert latest_run(tmp_path) == tmp_path / "010"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_closed_to_the_user(tmp_path) -> None:
    folder = fill(tmp_path / "run")
    folder.chmod(0)
    try:
        for ask in (check_free, check_run, holds_run, not_begun):
            with pytest.raises(RunError, match="could not be read: Permission denied"):
                ask(folder)
    finally:
        folder.chmod(0o700)
