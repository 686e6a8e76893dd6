"""`gramian learn`: the loop around a learning run, and the folder that it leaves."""

import math
import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed

from gramian.cli.board import Board, require_tensorboard
from gramian.cli.display import LearningDisplay
from gramian.cli.page import make_report, write_report
from gramian.coding.learning_run import LearningRun, RunSettings
from gramian.coding.run_folder import (
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
from gramian.coding.run_settings import read_settings
from gramian.errors import OptionError, RunError

__all__ = ["continue_run", "start_run", "write_report"]

_RUNS = Path("runs")
_FOLDER = "gramian/folder"
"""Under which name processes that torchrun starts again find the folder of their run."""
_ASK_EVERY = 10
"""After how many steps processes ask each other whether one was told to stop."""


def start_run(
    settings: RunSettings, out: Path | None, *, seconds: float | None = None, tensorboard: bool = False
) -> None:
    """Start a run in a folder that holds none yet.

    Nothing is written before a first step has been tried. Started again by torchrun after a worker was lost, it goes on
    from the last checkpoint.

    Args:
        settings: What to do.
        out: Folder for the result; default the next free one of runs/.
        seconds: As many steps as fit; default those of the settings.
        tensorboard: Whether to write the metrics for TensorBoard too.

    Raises:
        RunError: If the folder holds something already, or cannot be written.
        DataError: If the pictures cannot be used.
        OptionError: If the settings do not fit them, or the memory.
    """
    if tensorboard:
        require_tensorboard()
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise OptionError(f"seconds must be a positive finite number; got {seconds:g}")
    store = _join_others()
    before = _folder_before(store, out)
    if before is not None:
        if holds_run(before) or not_begun(before):
            continue_run(before, tensorboard=tensorboard)
            return
        out = before
    if out is not None and _is_first():
        check_free(out)  # before pictures are loaded, which takes a while
    run = LearningRun(settings)
    took = run.parallel.slowest(_tried(run, 1 if seconds is None else 10))
    if seconds is not None:
        run.settings = replace(settings, steps=max(1, round(seconds / took)))
    run.note(seconds=0.0)
    held: AbstractContextManager[Path] = new_run(out, runs=_RUNS) if run.parallel.first else nullcontext(_RUNS)
    with held as folder:
        if store is not None and run.parallel.first:
            store.set(_FOLDER, os.fsencode(folder))
        _begin(run, folder, tensorboard=tensorboard)


def continue_run(out: Path | None, *, tensorboard: bool = False) -> None:
    """Go on with a run where it stopped; the result is that of a run that never did.

    A run that was ended before its first checkpoint begins anew, with its settings.

    Args:
        out: Its folder; default the latest of runs/.
        tensorboard: Whether to write the metrics for TensorBoard too.

    Raises:
        RunError: If there is no run, it cannot be read, or another process works on it.
    """
    if tensorboard:
        require_tensorboard()
    _join_others()
    folder = _latest() if out is None else out
    check_run(folder)
    with old_run(folder) if _is_first() else nullcontext():
        if not holds_run(folder):
            if _is_first():
                print(f"the run in {folder} was ended before its first checkpoint; it begins again")
            run = LearningRun(read_settings(folder / SETTINGS))
            run.note(seconds=0.0)
            _begin(run, folder, tensorboard=tensorboard)
            return
        run = LearningRun.resume(folder)
        if run.finished:
            print(f"the run in {folder} is finished: {run.step} steps; see {folder / REPORT}")
            if (folder / REPORT).is_file():
                return
        _learn(run, folder, tensorboard=tensorboard)


def _begin(run: LearningRun, folder: Path, *, tensorboard: bool) -> None:
    # Written before the first step: a disk that is full or read-only is found at once, not after the learning.
    run.save(folder)
    _learn(run, folder, tensorboard=tensorboard)


def _learn(run: LearningRun, folder: Path, *, tensorboard: bool) -> None:
    before = run.metrics[-1]["seconds"] if run.metrics else 0.0
    began = time.monotonic()
    first, saved = run.parallel.first, run.step
    display = LearningDisplay(run, folder) if first else nullcontext()
    board = Board(folder if tensorboard and first else None, run)
    try:
        with display as shown, board, _stop_signal() as stop:
            while not (run.finished or _told_to_stop(run, stop)):
                run.advance()
                if shown:
                    shown.advance()
                if run.due:
                    run.note(seconds=before + time.monotonic() - began)
                    run.save(folder)
                    saved = run.step
                    board.write()
                    if shown:
                        shown.report()
            if not run.due:
                run.save(folder)
                saved = run.step
    except KeyboardInterrupt:  # Ctrl-C again, before the step was done
        if first:
            print(f"interrupted; {folder} holds the dictionary of step {saved}")
            print(f"to go on: gramian learn --resume --out {folder}")
        sys.exit(130)
    if first:
        print("learned" if run.finished else f"stopped at step {run.step} of {run.settings.steps}", end="; ")
        print("making the report", flush=True)
        if not run.finished:
            print(f"to go on: gramian learn --resume --out {folder}")
        make_report(run, folder)
        print(f"the dictionary, the metrics and the report are in {folder}: open {folder / REPORT}")
    _part(run)


def _tried(run: LearningRun, trials: int) -> float:
    """Try what a learning step takes, and leave no trace of it.

    Raises:
        OptionError: If it cannot be made here: memory that is promised need not be there.
    """
    try:
        return run.seconds_per_step(trials)
    except (MemoryError, RuntimeError) as error:
        if not run.parallel.alone:  # others may have failed, and this one with them
            raise
        reason = str(error).split("\n", 1)[0]
        raise OptionError(
            f"a learning step with these settings must be possible here; it failed: {reason}; try a smaller batch, or "
            "fewer groups, if memory is what was missing"
        ) from error


def _told_to_stop(run: LearningRun, stop: list[int]) -> bool:
    """Say whether to stop: for several processes at the same step, or those left would wait for the others forever."""
    if run.parallel.alone:
        return bool(stop)
    return run.step % _ASK_EVERY == 0 and run.parallel.any(bool(stop))


def _join_others() -> Any:
    """Meet the other processes, if torchrun has started several; give what they share, None if there are none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not distributed.is_available() or distributed.is_initialized():
        return None
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
    return store


def _is_first() -> bool:
    """Say whether this is the process that writes and prints."""
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _folder_before(store: Any, out: Path | None) -> Path | None:
    """Give the folder that this run has if torchrun starts its processes again; None if it has none yet."""
    if store is None or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        if store is not None and _is_first():
            store.set(_FOLDER, "")
        return None
    if not store.check([_FOLDER]):  # a store that ended with the processes that had it
        return latest_run(_RUNS) if out is None else out
    folder = store.get(_FOLDER).decode(errors="surrogateescape")
    return Path(folder) if folder else None


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


def _latest() -> Path:
    latest = latest_run(_RUNS)
    if latest is None:
        raise RunError(f"there must be a run in {_RUNS}/ to be resumed; got none; try --out FOLDER")
    return latest
