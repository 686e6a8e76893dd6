"""`gramian learn`: the loop around a learning run, and the folder that it leaves."""

import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
from torch import distributed

from gramian.cli.board import Board, require_tensorboard
from gramian.cli.display import LearningDisplay
from gramian.cli.record import learning_record
from gramian.coding.learning_run import LearningRun, RunSettings, holds_run
from gramian.errors import OptionError, RunError
from gramian.files import replace_file
from gramian.report import render_report

__all__ = ["continue_run", "start_run", "write_report"]

_RUNS = Path("runs")
_ASK_EVERY = 10
"""After how many steps processes ask each other whether one was told to stop."""


def start_run(
    settings: RunSettings, out: Path | None, *, seconds: float | None = None, tensorboard: bool = False
) -> None:
    """Start a run in a folder that holds none yet.

    Started again by torchrun after a worker was lost, it goes on from the last checkpoint.

    Args:
        settings: What to do.
        out: Folder for the result; default the next free one of runs/.
        seconds: As many steps as fit; default those of the settings.
        tensorboard: Whether to write the metrics for TensorBoard too.

    Raises:
        RunError: If the folder holds something already, or cannot be written.
        DataError: If the pictures cannot be used.
    """
    if tensorboard:
        require_tensorboard()
    _join_others()
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        folder = _latest() if out is None else out
        if holds_run(folder):
            continue_run(folder, tensorboard=tensorboard)
            return
    folder = _next_free() if out is None else out
    run = LearningRun(settings)
    if run.parallel.any(folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        what = "a run" if holds_run(folder) else "something else"
        raise RunError(
            f"{folder} must be a new or an empty folder; it already holds {what}; try another --out"
            + (", or --resume to go on with it" if what == "a run" else "")
        )
    if seconds is not None:
        if not seconds > 0:
            raise OptionError(f"seconds must be positive; got {seconds:g}")
        steps = max(1, round(seconds / run.parallel.slowest(run.seconds_per_step())))
        run = LearningRun(replace(settings, steps=steps))
    # Written before the first step: a disk that is full or read-only is found at once, not after the learning.
    run.note(seconds=0.0)
    run.save(folder)
    _learn(run, folder, tensorboard=tensorboard)


def continue_run(out: Path | None, *, tensorboard: bool = False) -> None:
    """Go on with a run where it stopped; the result is that of a run that never did.

    Args:
        out: Its folder; default the latest of runs/.
        tensorboard: Whether to write the metrics for TensorBoard too.

    Raises:
        RunError: If there is no run, or it cannot be read.
    """
    if tensorboard:
        require_tensorboard()
    _join_others()
    folder = _latest() if out is None else out
    run = LearningRun.resume(folder)
    if run.finished:
        print(f"the run in {folder} is finished: {run.step} steps; see {folder / 'report.html'}")
        if (folder / "report.html").is_file():
            return
    _learn(run, folder, tensorboard=tensorboard)


def write_report(folder: Path) -> None:
    """Make the report of a run anew.

    Raises:
        RunError: If there is no run, or the report cannot be written.
        DataError: If the pictures it learned from are gone.
    """
    run = LearningRun.resume(folder)
    replace_file(folder / "report.html", render_report(learning_record(run)).encode())
    print(f"open {folder / 'report.html'}")


def _learn(run: LearningRun, folder: Path, *, tensorboard: bool) -> None:
    before = run.metrics[-1]["seconds"] if run.metrics else 0.0
    began = time.monotonic()
    first = run.parallel.first
    display = LearningDisplay(run, folder) if first else nullcontext()
    with display as shown, Board(folder if tensorboard and first else None, run) as board, _stop_signal() as stop:
        while not (run.finished or _told_to_stop(run, stop)):
            run.advance()
            if shown:
                shown.advance()
            if run.due:
                run.note(seconds=before + time.monotonic() - began)
                run.save(folder)
                board.write()
                if shown:
                    shown.report()
    if not run.due:
        run.save(folder)
    if first:
        print("learned" if run.finished else f"stopped at step {run.step} of {run.settings.steps}", end="; ")
        print("making the report")
        replace_file(folder / "report.html", render_report(learning_record(run)).encode())
        print(f"the dictionary, the metrics and the report are in {folder}: open {folder / 'report.html'}")
        if not run.finished:
            print(f"to go on: gramian learn --resume --out {folder}")
    _part(run)


def _told_to_stop(run: LearningRun, stop: list[int]) -> bool:
    """Say whether to stop: for several processes at the same step, or those left would wait for the others forever."""
    if run.parallel.alone:
        return bool(stop)
    return run.step % _ASK_EVERY == 0 and run.parallel.any(bool(stop))


def _join_others() -> None:
    """Meet the other processes, if torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not distributed.is_available() or distributed.is_initialized():
        return
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available():  # gloo for what is on the CPU, NCCL for the rest; each process its own device
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = None
    # Under torchrun the store outlives a restart: without a prefix, a process may be told where one that is dead was.
    store, rank, world = next(rendezvous("env://"))
    prefix = f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    own = distributed.PrefixStore(prefix, store)  # pyright: ignore[reportPrivateImportUsage]
    distributed.init_process_group(backend, store=own, rank=rank, world_size=world)


def _part(run: LearningRun) -> None:
    if not run.parallel.alone:
        distributed.barrier()  # a process that leaves while another still talks to it may take that one down
        distributed.destroy_process_group()


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
