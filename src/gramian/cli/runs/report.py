"""Measure and write the report of a run, with progress bars; the file is replaced as a whole."""

import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from gramian.coding.features.file import FEATURES
from gramian.coding.files.checksum import stored_format
from gramian.coding.runs.folder import DICTIONARY, REPORT
from gramian.coding.runs.run import Run

__all__ = ["ReportProgress", "WritePage", "make_report", "write_report"]


ReportProgress = Callable[[str, int, int], None]
"""A function that is called with a stage, the number of its parts that are done, and the number of all its parts."""

WritePage = Callable[[Any, Path, ReportProgress], None]
"""A function that measures a run and writes the page of its report to a path, atomically."""


def write_report(folder: Path) -> None:
    """Write the report of a saved run.

    Raises:
        RunError: If there is no run, or the report cannot be written.
        DataError: If the data of the run cannot be read any more.
    """
    application = _application_of(folder)
    make_report(application.run.resume(folder), folder, application.page)
    print(f"open {folder / REPORT}")


def _application_of(folder: Path) -> Any:
    """Return the application that learned a run; a folder without a run counts as one of pictures."""
    if stored_format(folder / DICTIONARY) == FEATURES:
        from gramian.cli.runs.features import ACTIVATIONS

        return ACTIVATIONS
    from gramian.cli.runs.images import IMAGES

    return IMAGES


def make_report(run: Run[Any], folder: Path, page: WritePage) -> None:
    """Write the report of a run; if that fails or is interrupted, print which files exist and how to continue.

    Raises:
        RunError: If the report cannot be written.
        SystemExit: If a signal interrupts, with status 128 + its number.
    """
    try:
        with _interruptible(), _StageProgress() as progress:
            page(run, folder / REPORT, progress)
    except BaseException as error:
        print(f"the dictionary and the metrics are in {folder}; no report yet; to write it: gramian report {folder}")
        if isinstance(error, _Interrupted):
            sys.exit(128 + error.number)
        raise


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _interruptible() -> Generator[None]:
    """Raise `_Interrupted` with the number of the signal when SIGINT or SIGTERM arrives in the block."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise _Interrupted(number)

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _StageProgress:
    """Show a progress bar for each stage of the report on a terminal, and remove them at the end."""

    def __init__(self) -> None:
        console = Console()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._stage: str | None = None
        self._task = TaskID(0)

    def __enter__(self) -> "_StageProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._progress.disable:  # rich before 14.3 prints an empty line at the end of bars that it did not show
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Update the progress of a stage."""
        if stage != self._stage:
            self._stage, self._task = stage, self._progress.add_task(stage, total=total)
        self._progress.update(self._task, completed=done, total=total)
