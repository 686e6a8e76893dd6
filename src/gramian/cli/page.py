"""The report of a run: measured and drawn in view of the user, and never half-written."""

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from gramian.cli.record import learning_record
from gramian.coding.learning_run import LearningRun
from gramian.coding.run_folder import REPORT
from gramian.files import replace_file
from gramian.report import render_report

__all__ = ["make_report", "write_report"]


def write_report(folder: Path) -> None:
    """Make the report of a run anew.

    Raises:
        RunError: If there is no run, or the report cannot be written.
        DataError: If the pictures it learned from are gone.
    """
    make_report(LearningRun.resume(folder), folder)
    print(f"open {folder / REPORT}")


def make_report(run: LearningRun, folder: Path) -> None:
    """Make the report of a run. If it is interrupted, or fails, the user is told what is kept and how to make it.

    Raises:
        RunError: If it cannot be written.
        SystemExit: With status 128 + the number of the signal, if it is interrupted.
    """
    try:
        with _interruptible(), _Shown() as progress:
            page = render_report(learning_record(run, progress=progress), progress=progress)
            # A name in the page may hold what UTF-8 does not: files are named by bytes.
            replace_file(folder / REPORT, page.encode(errors="replace"))
    except BaseException as error:
        print(f"the dictionary and the metrics are in {folder}; the report is not; to make it: gramian report {folder}")
        if isinstance(error, _Interrupted):
            sys.exit(128 + error.number)
        raise


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _interruptible() -> Generator[None]:
    """Let signals end the block, with their number, wherever it is."""

    def end(number: int, _: FrameType | None) -> None:
        raise _Interrupted(number)

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Shown:
    """A bar for each stage of the report, on a terminal alone; nothing is left of it."""

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

    def __enter__(self) -> "_Shown":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note how far a stage is."""
        if stage != self._stage:
            self._stage, self._task = stage, self._progress.add_task(stage, total=total)
        self._progress.update(self._task, completed=done, total=total)
