"""The folder of a learning run: which files it holds, whose it is, and what becomes of it if nothing was learned."""

import contextlib
from collections.abc import Generator
from pathlib import Path

from gramian.coding.run_settings import read_settings
from gramian.errors import RunError
from gramian.files import lock_folder, sweep_temporaries

__all__ = [
    "DICTIONARY",
    "METRICS",
    "REPORT",
    "SETTINGS",
    "check_free",
    "check_run",
    "holds_run",
    "latest_run",
    "new_run",
    "not_begun",
    "old_run",
    "taken_back",
]

DICTIONARY = "dictionary.safetensors"
METRICS = "metrics.jsonl"
REPORT = "report.html"
SETTINGS = "settings.json"


def holds_run(folder: Path) -> bool:
    """Say whether a folder holds a run, with a checkpoint.

    Raises:
        RunError: If the folder is closed to the user.
    """
    return {DICTIONARY, SETTINGS} <= _names(folder)


def not_begun(folder: Path) -> bool:
    """Say whether a run was ended in a folder before its first checkpoint: it holds its settings and no other files.

    Raises:
        RunError: If the folder is closed to the user.
    """
    names = _names(folder)
    if SETTINGS not in names or not names <= {SETTINGS, METRICS}:
        return False
    try:
        read_settings(folder / SETTINGS)
    except RunError:  # those of another program
        return False
    return True


def check_run(folder: Path) -> None:
    """Check that a folder holds a run that can go on, with a checkpoint or ended before the first one.

    Raises:
        RunError: If it does not, or is closed to the user.
    """
    if not (holds_run(folder) or not_begun(folder)):
        raise RunError(
            f"{folder} must hold a run, to be resumed; got no {DICTIONARY} and {SETTINGS} there; to begin one there, "
            "leave --resume out"
        )


def check_free(folder: Path) -> None:
    """Check that a new run may have a folder: it does not exist, is empty, or a run was ended there before it began.

    Raises:
        RunError: If it holds something else, or is closed to the user.
    """
    try:
        taken = folder.is_symlink() or folder.exists()
        is_folder = folder.is_dir()
    except OSError as error:
        raise RunError(f"{folder} could not be looked up: {error.strerror or error}") from error
    if not taken or (is_folder and (not _names(folder) or not_begun(folder))):
        return
    what = "a run" if holds_run(folder) else "something else"
    raise RunError(
        f"{folder} must be a new or an empty folder; it already holds {what}; try another --out"
        + (", or --resume to go on with it" if what == "a run" else "")
    )


@contextlib.contextmanager
def new_run(folder: Path | None, *, runs: Path) -> Generator[Path]:
    """Make a folder for a new run, and hold it for this process alone.

    Of processes that ask for the next free number at the same time, each gets another. If the block raises before there
    is a checkpoint, what was written is taken away again, with the folders that were made.

    Args:
        folder: A folder that is free, as `check_free` says; None for the next free number in `runs`.
        runs: Where runs with numbers are kept.

    Yields:
        The folder.

    Raises:
        RunError: If it is not free, cannot be made, or another process has it.
    """
    if folder is not None:
        check_free(folder)
    try:
        made = _next_free(runs) if folder is None else _made(folder)
    except OSError as error:
        raise RunError(f"the folder {folder or runs} could not be made: {error.strerror or error}") from error
    folder = made[-1] if folder is None else folder
    with lock_folder(folder):
        check_free(folder)  # another process may have filled it before this one held it
        with taken_back(folder, made):
            yield folder


@contextlib.contextmanager
def old_run(folder: Path) -> Generator[None]:
    """Hold the folder of a run, as `check_run` asks for, for this process alone.

    Raises:
        RunError: If it holds no run, or another process has it.
    """
    check_run(folder)
    with lock_folder(folder):
        sweep_temporaries(folder)
        yield


@contextlib.contextmanager
def taken_back(folder: Path, made: list[Path]) -> Generator[None]:
    """Take away what the block has written into a folder, and folders, if it raises before there is a checkpoint.

    Args:
        folder: The folder of a run.
        made: Folders that were made for it, the outermost first; those that hold something else stay.
    """
    before = _names(folder)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, RunError):
            if not holds_run(folder):
                for name in {SETTINGS, METRICS, DICTIONARY} - before:
                    (folder / name).unlink(missing_ok=True)
                for path in reversed(made):
                    path.rmdir()
        raise


def latest_run(runs: Path) -> Path | None:
    """Give the run of the largest number that can go on, None if there is none.

    Raises:
        RunError: If a folder is closed to the user.
    """
    entries = sorted(_numbered(runs), key=lambda entry: int(entry.name), reverse=True)
    return next((entry for entry in entries if holds_run(entry) or not_begun(entry)), None)


def _made(folder: Path) -> list[Path]:
    """Make a folder and those above it, and give those that were made."""
    made: list[Path] = []
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            with contextlib.suppress(FileExistsError):  # by another process, meanwhile
                path.mkdir()
                made.append(path)
    return made


def _next_free(runs: Path) -> list[Path]:
    """Make a folder of the next number that no other process makes, and give those that were made."""
    while True:
        made = _made(runs)
        number = max((int(entry.name) for entry in _numbered(runs)), default=0)
        with contextlib.suppress(FileNotFoundError):  # another process took `runs` away again: its run had failed
            while True:
                number += 1
                path = runs / f"{number:03d}"
                with contextlib.suppress(FileExistsError):
                    path.mkdir()  # this alone decides whose it is
                    return [*made, path]


def _numbered(runs: Path) -> list[Path]:
    try:
        return [entry for entry in runs.iterdir() if entry.name.isdecimal()] if runs.is_dir() else []
    except OSError as error:
        raise RunError(f"the folder {runs} could not be read: {error.strerror or error}") from error


def _names(folder: Path) -> set[str]:
    """Give the names in a folder, but for what dead processes of gramian have left there."""
    try:
        if not folder.is_dir():
            return set()
        sweep_temporaries(folder)
        return {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise RunError(f"the folder {folder} could not be read: {error.strerror or error}") from error
