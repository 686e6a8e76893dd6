"""The loop of a learning run, for any application, and the folder of the run."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed

from gramian.cli.runs.display import RunDisplay
from gramian.cli.runs.report import WritePage, make_report
from gramian.cli.runs.tensorboard import TensorBoardLogger, require_tensorboard
from gramian.coding.runs.folder import (
    REPORT,
    SETTINGS,
    check_free,
    check_run,
    holds_run,
    latest_run,
    new_run,
    not_begun,
    old_run,
)
from gramian.coding.runs.run import Run, RunOptions
from gramian.errors import OptionError, RunError
from gramian.torch_internals import restart_count, store_of_this_start

__all__ = ["Application", "continue_run", "start_run"]

_RUNS = Path("runs")
_FOLDER = "gramian/folder"
"""Key of the run's folder in the store that processes share when torchrun restarts them."""
_STOP_CHECK_EVERY = 10
"""Number of steps after which processes exchange whether one of them received a stop signal."""


@dataclass(frozen=True)
class Application:
    """What the loop needs to know of an application.

    Attributes:
        command: Name of the command, for messages.
        run: The class of its runs.
        display: Shows a run.
        page: Writes the page of a report.
    """

    command: str
    run: type[Run[Any]]
    display: Callable[[Any, Path], RunDisplay[Any]]
    page: WritePage

    def read_settings(self, path: Path) -> RunOptions:
        """Read the settings of a run."""
        return self.run.read_settings(path)


def start_run(
    application: Application,
    settings: RunOptions,
    out: Path | None,
    *,
    seconds: float | None = None,
    tensorboard: bool = False,
) -> None:
    """Start a run in a new or empty folder.

    The function writes nothing before a trial step succeeds. If torchrun restarts it after a worker has failed, it
    continues from the last checkpoint.

    Args:
        application: The application.
        settings: Settings of the run.
        out: Folder for the result; by default the next free folder of runs/.
        seconds: Duration of learning; by default the number of steps in the settings applies.
        tensorboard: Whether to write the metrics for TensorBoard too.

    Raises:
        RunError: If the folder is not empty, or cannot be written.
        DataError: If the data cannot be used.
        OptionError: If the settings do not fit the data or the memory.
    """
    if tensorboard:
        require_tensorboard()
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise OptionError(f"seconds must be a positive finite number; got {seconds:g}")
    store = _join_others()
    earlier = _folder_before_restart(store, out, application)
    if earlier is not None:
        if holds_run(earlier) or not_begun(earlier, application.read_settings):
            continue_run(application, earlier, tensorboard=tensorboard)
            return
        out = earlier
    if out is not None and _is_first():
        check_free(out, application.read_settings)  # before loading data, which is slow
    run = application.run(settings)
    step_seconds = run.grid.max_over_all(_time_step(run, 1 if seconds is None else 10))
    if seconds is not None:
        run.settings = replace(settings, steps=max(1, round(seconds / step_seconds)))
    run.log_metrics(seconds=0.0)
    run_folder: AbstractContextManager[Path] = (
        new_run(out, application.read_settings, runs=_RUNS) if run.grid.is_main else nullcontext(_RUNS)
    )
    with run_folder as folder:
        if store is not None and run.grid.is_main:
            store.set(_FOLDER, os.fsencode(folder))
        _begin(run, folder, tensorboard=tensorboard, application=application)


def continue_run(application: Application, out: Path | None, *, tensorboard: bool = False) -> None:
    """Continue a stopped run; the result equals that of an uninterrupted run.

    A run that stopped before its first checkpoint starts again with the same settings.

    Args:
        application: The application.
        out: Folder of the run; by default the latest in runs/.
        tensorboard: Whether to write the metrics for TensorBoard too.

    Raises:
        RunError: If there is no run, it cannot be read, or another process is using it.
    """
    if tensorboard:
        require_tensorboard()
    _join_others()
    folder = _latest(application) if out is None else out
    check_run(folder, application.read_settings)
    with old_run(folder, application.read_settings) if _is_first() else nullcontext():
        if not holds_run(folder):
            if _is_first():
                print(f"the run in {folder} stopped before its first checkpoint; it starts again from step 0")
            run = application.run(application.read_settings(folder / SETTINGS))
            run.log_metrics(seconds=0.0)
            _begin(run, folder, tensorboard=tensorboard, application=application)
            return
        run = application.run.resume(folder)
        if run.finished:
            see = "" if application.page is None else f"; see {folder / REPORT}"
            print(f"the run in {folder} is finished: {run.step} steps{see}")
            if application.page is None or (folder / REPORT).is_file():
                return
        _learn(run, folder, tensorboard=tensorboard, application=application)


def _begin(run: Run[Any], folder: Path, *, tensorboard: bool, application: Application) -> None:
    # Save before the first step, so that a full or read-only disk raises now and not after learning.
    run.save(folder)
    _learn(run, folder, tensorboard=tensorboard, application=application)


def _learn(run: Run[Any], folder: Path, *, tensorboard: bool, application: Application) -> None:
    before = run.metrics[-1]["seconds"] if run.metrics else 0.0
    began = time.monotonic()
    first, saved = run.grid.is_main, run.step
    display = application.display(run, folder) if first else nullcontext()
    board = TensorBoardLogger(folder if tensorboard and first else None, run)
    try:
        with display as panel, board, _stop_signal() as stop:
            while not (run.finished or _should_stop(run, stop)):
                run.advance()
                if panel:
                    panel.advance()
                if run.should_report:
                    run.log_metrics(seconds=before + time.monotonic() - began)
                    run.save(folder)
                    saved = run.step
                    board.write()
                    if panel:
                        panel.report()
            if not run.should_report:
                run.save(folder)
                saved = run.step
    except KeyboardInterrupt:  # a second Ctrl-C during a step
        if first:
            print(f"interrupted; {folder} holds the dictionary of step {saved}")
            print(f"to continue: gramian {application.command} --resume --out {folder}")
        sys.exit(130)
    if first:
        ended = "learned" if run.finished else f"stopped at step {run.step} of {run.settings.steps}"
        print(f"{ended}; writing the report", flush=True)
        if not run.finished:
            print(f"to continue: gramian {application.command} --resume --out {folder}")
        make_report(run, folder, application.page)
        print(f"the dictionary, the metrics and the report are in {folder}: open {folder / REPORT}")
    leave_group(run)


def _time_step(run: Run[Any], trials: int) -> float:
    """Measure the seconds of a learning step without changing the run.

    Raises:
        OptionError: If the step fails, for example for lack of memory.
    """
    try:
        return run.seconds_per_step(trials)
    except (MemoryError, RuntimeError) as error:
        if not run.grid.is_single:  # the cause may be in another process
            raise
        reason = str(error).split("\n", 1)[0]
        raise OptionError(
            f"a learning step with these settings must succeed; got {reason}; try a smaller batch or fewer groups if "
            "memory is too small"
        ) from error


def _should_stop(run: Run[Any], stop: list[int]) -> bool:
    """Return whether to stop. Several processes stop at the same step; otherwise the remaining ones would deadlock."""
    if run.grid.is_single:
        return bool(stop)
    return run.step % _STOP_CHECK_EVERY == 0 and run.grid.any(bool(stop))


def _join_others() -> Any:
    """Initialise the process group if torchrun has started several processes; return their store, or None."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not distributed.is_available() or distributed.is_initialized():
        return None
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available():  # gloo for CPU tensors, NCCL for CUDA tensors; one device per process
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = None
    store, rank, world = next(rendezvous("env://"))
    distributed.init_process_group(backend, store=store_of_this_start(store), rank=rank, world_size=world)
    return store


def _is_first() -> bool:
    """Return whether this is the process that writes and prints."""
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _folder_before_restart(store: Any, out: Path | None, application: Application) -> Path | None:
    """Return the folder that this run used before torchrun restarted it; None if there is none."""
    if store is None or restart_count() == 0:
        if store is not None and _is_first():
            store.set(_FOLDER, "")
        return None
    if not store.check([_FOLDER]):  # the store ended with its processes
        return latest_run(_RUNS, application.read_settings) if out is None else out
    folder = store.get(_FOLDER).decode(errors="surrogateescape")
    return Path(folder) if folder else None


def leave_group(run: Run[Any]) -> None:
    if not run.grid.is_single:
        distributed.barrier()  # leaving earlier may fail a process that still communicates
        distributed.destroy_process_group()


@contextmanager
def _stop_signal() -> Generator[list[int]]:
    """Append the first Ctrl-C to a list, which the loop checks between steps; the second Ctrl-C interrupts."""
    received: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _latest(application: Application) -> Path:
    latest = latest_run(_RUNS, application.read_settings)
    if latest is None:
        raise RunError(f"there must be a run in {_RUNS}/ to resume; got none; try --out FOLDER")
    return latest
