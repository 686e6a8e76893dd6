"""The folder of a learning run: its files, its lock, and its removal after a failure before the first checkpoint."""

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

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
    "remove_on_failure",
]

DICTIONARY = "dictionary.safetensors"
METRICS = "metrics.jsonl"
REPORT = "report.html"
SETTINGS = "settings.json"

ReadSettings = Callable[[Path], object]
"""A function that reads a file of settings and raises a `RunError` if they are not settings of the application."""


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a run with a checkpoint.

    Raises:
        RunError: If the user has no permission to read the folder.
    """
    return {DICTIONARY, SETTINGS} <= _names(folder)


def not_begun(folder: Path, read_settings: ReadSettings) -> bool:
    """Return whether a run ended before its first checkpoint: the folder holds its settings, but no dictionary.

    Raises:
        RunError: If the user has no permission to read the folder.
    """
    names = _names(folder)
    if SETTINGS not in names or not names <= {SETTINGS, METRICS}:
        return False
    try:
        read_settings(folder / SETTINGS)
    except RunError:  # settings of another program
        return False
    return True


def check_run(folder: Path, read_settings: ReadSettings) -> None:
    """Check that a folder holds a run to resume, with a checkpoint or ended before the first one.

    Raises:
        RunError: If it does not, or the user has no permission to read it.
    """
    if not (holds_run(folder) or not_begun(folder, read_settings)):
        raise RunError(
            f"{folder} must hold a run, to be resumed; got no {DICTIONARY} and {SETTINGS} there; try without --resume, "
            "to start a new run there"
        )


def check_free(folder: Path, read_settings: ReadSettings) -> None:
    """Check that a new run may use a folder: it does not exist, is empty, or holds a run without a checkpoint.

    Raises:
        RunError: If it holds other files, or the user has no permission to read it.
    """
    try:
        exists = folder.is_symlink() or folder.exists()
        is_folder = folder.is_dir()
    except OSError as error:
        raise RunError(f"{folder} could not be accessed: {error.strerror or error}") from error
    if not exists or (is_folder and (not _names(folder) or not_begun(folder, read_settings))):
        return
    content = "a run" if holds_run(folder) else "something else"
    raise RunError(
        f"{folder} must be a new or an empty folder; it already holds {content}; try another --out"
        + (", or --resume to continue it" if content == "a run" else "")
    )


@contextlib.contextmanager
def new_run(folder: Path | None, read_settings: ReadSettings, *, runs: Path) -> Generator[Path]:
    """Create a folder for a new run, and lock it for this process.

    Processes that ask for the next free number at the same time get different numbers. If the block raises before there
    is a checkpoint, the files of the run and the folders created for it are removed.

    Args:
        folder: A folder that passes `check_free`; None for the next free number in `runs`.
        read_settings: A function that reads the settings of the application.
        runs: Folder of the numbered runs.

    Yields:
        The folder.

    Raises:
        RunError: If the folder is not free, cannot be created, or is locked by another process.
    """
    if folder is not None:
        check_free(folder, read_settings)
    try:
        created = _next_free(runs) if folder is None else _create(folder)
    except OSError as error:
        raise RunError(f"the folder {folder or runs} could not be created: {error.strerror or error}") from error
    folder = created[-1] if folder is None else folder
    with lock_folder(folder):
        check_free(folder, read_settings)  # another process may have used it before this process locked it
        with remove_on_failure(folder, created):
            yield folder


@contextlib.contextmanager
def old_run(folder: Path, read_settings: ReadSettings) -> Generator[None]:
    """Lock the folder of a run that passes `check_run` for this process.

    Raises:
        RunError: If it holds no run, or is locked by another process.
    """
    check_run(folder, read_settings)
    with lock_folder(folder):
        sweep_temporaries(folder)
        yield


@contextlib.contextmanager
def remove_on_failure(folder: Path, created: list[Path]) -> Generator[None]:
    """If the block raises before there is a checkpoint, remove the files that it wrote, and the folders.

    Args:
        folder: The folder of a run.
        created: Folders created for the run, the outermost first; folders that hold other files are not removed.
    """
    before = _names(folder)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, RunError):
            if not holds_run(folder):
                for name in {SETTINGS, METRICS, DICTIONARY} - before:
                    (folder / name).unlink(missing_ok=True)
                for path in reversed(created):
                    path.rmdir()
        raise


def latest_run(runs: Path, read_settings: ReadSettings) -> Path | None:
    """Return the run of the largest number that can be resumed; None if there is none.

    Raises:
        RunError: If the user has no permission to read a folder.
    """
    entries = sorted(_numbered(runs), key=lambda entry: int(entry.name), reverse=True)
    return next((entry for entry in entries if holds_run(entry) or not_begun(entry, read_settings)), None)


def _create(folder: Path) -> list[Path]:
    """Create a folder and its parents; return the folders that were created."""
    created: list[Path] = []
    for path in (*reversed(folder.parents), folder):
        if not path.is_dir():
            with contextlib.suppress(FileExistsError):  # another process has created it meanwhile
                path.mkdir()
                created.append(path)
    return created


def _next_free(runs: Path) -> list[Path]:
    """Create the folder of the next free number; return the folders that were created."""
    while True:
        created = _create(runs)
        number = max((int(entry.name) for entry in _numbered(runs)), default=0)
        with contextlib.suppress(FileNotFoundError):  # another process removed `runs` after its run had failed
            while True:
                number += 1
                path = runs / f"{number:03d}"
                with contextlib.suppress(FileExistsError):
                    path.mkdir()  # succeeds in one process only
                    return [*created, path]


def _numbered(runs: Path) -> list[Path]:
    try:
        return [entry for entry in runs.iterdir() if entry.name.isdecimal()] if runs.is_dir() else []
    except OSError as error:
        raise RunError(f"the folder {runs} could not be read: {error.strerror or error}") from error


def _names(folder: Path) -> set[str]:
    """Return the names in a folder, after removing temporary files of processes that ended."""
    try:
        if not folder.is_dir():
            return set()
        sweep_temporaries(folder)
        return {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise RunError(f"the folder {folder} could not be read: {error.strerror or error}") from error
