"""`gramian learn`: the loop around a learning run, and the folder that it leaves."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gramian.cli.display import LearningDisplay
from gramian.cli.record import learning_record
from gramian.coding.learning_run import LearningRun, RunSettings, holds_run
from gramian.errors import RunError
from gramian.files import replace_file
from gramian.report import render_report

__all__ = ["continue_run", "start_run"]

_RUNS = Path("runs")


def start_run(settings: RunSettings, out: Path | None) -> None:
    """Start a run in a folder that holds none yet.

    Raises:
        RunError: If the folder holds something already, or cannot be written.
        DataError: If the pictures cannot be used.
    """
    folder = _next_free() if out is None else out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "a run" if holds_run(folder) else "something else"
        raise RunError(
            f"{folder} must be a new or an empty folder; it already holds {what}; try another --out"
            + (", or --resume to go on with it" if what == "a run" else "")
        )
    run = LearningRun(settings)
    # Written before the first step: a disk that is full or read-only is found at once, not after the learning.
    run.metrics.append(run.evaluate(seconds=0.0))
    run.save(folder)
    _learn(run, folder)


def continue_run(out: Path | None) -> None:
    """Go on with a run where it stopped; the result is that of a run that never did.

    Raises:
        RunError: If there is no run, or it cannot be read.
    """
    folder = _latest() if out is None else out
    run = LearningRun.resume(folder)
    if run.finished:
        print(f"the run in {folder} is finished: {run.step} steps; see {folder / 'report.html'}")
        if (folder / "report.html").is_file():
            return
    _learn(run, folder)


def _learn(run: LearningRun, folder: Path) -> None:
    before = run.metrics[-1]["seconds"] if run.metrics else 0.0
    began = time.monotonic()
    with LearningDisplay(run, folder) as display, _stop_signal() as stop:
        while not run.finished and not stop:
            run.advance()
            display.advance()
            if run.due:
                run.metrics.append(run.evaluate(seconds=before + time.monotonic() - began))
                run.save(folder)
                display.report()
    if run.due:
        print("learned; making the report")
    else:
        run.save(folder)
        print(f"stopped at step {run.step} of {run.settings.steps}; making the report")
    replace_file(folder / "report.html", render_report(learning_record(run)).encode())
    print(f"the dictionary, the metrics and the report are in {folder}: open {folder / 'report.html'}")
    if not run.finished:
        print(f"to go on: gramian learn --resume --out {folder}")


@contextmanager
def _stop_signal() -> Generator[list[int]]:
    """Turn the first Ctrl-C into an entry of a list, which is looked at between steps; the second one interrupts."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _next_free() -> Path:
    taken = [int(entry.name) for entry in _runs()]
    return _RUNS / f"{max(taken, default=0) + 1:03d}"


def _latest() -> Path:
    runs = [entry for entry in _runs() if holds_run(entry)]
    if not runs:
        raise RunError(f"there must be a run in {_RUNS}/ to be resumed; got none; try --out FOLDER")
    return max(runs, key=lambda entry: int(entry.name))


def _runs() -> list[Path]:
    return [entry for entry in _RUNS.iterdir() if entry.name.isdecimal()] if _RUNS.is_dir() else []
