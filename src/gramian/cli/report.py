"""Measure and write the report of a run, with progress bars; the file is replaced as a whole."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from gramian.coding.runs.folder import REPORT
from gramian.files import replace_file
from gramian.images.evaluation.record import learning_record
from gramian.images.page import render_report
from gramian.images.run import LearningRun

__all__ = ["make_report", "write_report"]


def write_report(folder: Path) -> None:
    """Write the report of a saved run.

    Raises:
        RunError: If there is no run, or the report cannot be written.
        DataError: If the pictures of the run cannot be read any more.
    """
    make_report(LearningRun.resume(folder), folder)
    print(f"open {folder / REPORT}")


def make_report(run: LearningRun, folder: Path) -> None:
    """Write the report of a run. If that fails or is interrupted, print which files exist and the command to use.

    Raises:
        RunError: If the report cannot be written.
        SystemExit: If a signal interrupts, with status 128 + its number.
    """
    try:
        with _interruptible(), _StageProgress() as progress:
            page = render_report(learning_record(run, progress=progress), progress=progress)
            # File names are bytes, and may hold surrogates that UTF-8 cannot encode.
            replace_file(folder / REPORT, page.encode(errors="replace"))
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
