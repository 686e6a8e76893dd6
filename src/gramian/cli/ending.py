"""How a command ends, whatever happens: one line, an exit status, and no work or file lost on the way."""

import contextlib
import errno
import io
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from gramian import __version__
from gramian.errors import GramianError, printable

__all__ = ["CLOSED_PIPE", "INTERRUPTED", "REFUSED", "UNFORESEEN", "end"]

REFUSED, UNFORESEEN, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141
"""Exit statuses; 1 is left to commands that did a part of what was asked for, 128 + number to signals."""

_STOPPED = {129: "the terminal is closed", INTERRUPTED: "interrupted", 143: "told to stop"}
_LONGEST = 300
"""Characters of a message that nobody foresaw."""


def end(command: Callable[[], None]) -> int:
    """Run a command, and give its exit status.

    Output that cannot be encoded is shown with other characters. SIGTERM and SIGHUP become an exit, so that temporary
    files are removed. Warnings, errors and what nobody foresaw become one line each.

    Args:
        command: What to run.

    Returns:
        The exit status.
    """
    _prepare_streams()
    with _one_line_warnings(), _exit_at_signals():
        code = _outcome(command)
        flushed = _outcome(sys.stdout.flush)
    if flushed:
        _silence(sys.stdout)  # what is left cannot be written: the interpreter would try, and complain, at its end
    return code or flushed


def _outcome(action: Callable[[], object]) -> int:
    try:
        action()
    except SystemExit as error:
        return _of_exit(error)
    except KeyboardInterrupt:
        _say(_STOPPED[INTERRUPTED])
        return INTERRUPTED
    except GramianError as error:
        _say(str(error))
        return REFUSED
    except BrokenPipeError:
        return CLOSED_PIPE
    except Exception as error:
        refusal = _refusal(error)
        _say(refusal or _unforeseen(error))
        return REFUSED if refusal else UNFORESEEN
    return 0


def _of_exit(error: SystemExit) -> int:
    """Read the exit status; Typer and Rich turn a closed pipe and Ctrl-C into exits of theirs."""
    before = list(_before(error))
    if any(isinstance(each, OSError) and each.errno == errno.EPIPE for each in before):
        return CLOSED_PIPE
    code = INTERRUPTED if any(isinstance(each, KeyboardInterrupt) for each in before) else error.code
    if code is None:
        return 0
    if not isinstance(code, int):
        _say(str(code))
        return REFUSED
    if code in _STOPPED:
        _say(_STOPPED[code])
    return code


def _before(error: BaseException) -> Iterator[BaseException]:
    """Give the errors during whose handling this one was raised."""
    seen = {id(error)}
    while (error_before := error.__context__) is not None and id(error_before) not in seen:
        yield error_before
        seen.add(id(error_before))
        error = error_before


def _refusal(error: Exception) -> str | None:
    """Give a sentence about what the machine refuses: memory, or something to do with a file."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return "the memory must suffice; got an allocation that was refused; try smaller sizes"
    if isinstance(error, OSError) and error.errno is not None:
        names = [os.fsdecode(each) for each in (error.filename, error.filename2) if isinstance(each, str | bytes)]
        return f"the system refuses {' and '.join(names) or 'a file or a stream'}: {error.strerror or error}"
    return None


def _unforeseen(error: Exception) -> str:
    what = f"{type(error).__name__}: {_one_line(str(error))}".removesuffix(": ")
    what = what if len(what) <= _LONGEST else f"{what[:_LONGEST]}…"
    text = "".join(traceback.format_exception(error))
    try:
        return f"an error that nobody foresaw: {what}; the traceback is in {_log(text)}"
    except OSError as refusal:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return f"an error that nobody foresaw: {what}; no log could be written: {refusal.strerror or refusal}"


def _log(text: str) -> Path:
    torch = sys.modules.get("torch")
    versions = f"gramian {__version__}, Python {platform.python_version()}, torch {getattr(torch, '__version__', '–')}"
    descriptor, name = tempfile.mkstemp(prefix="gramian-error-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{versions}, {platform.platform()}\n{sys.argv}\n\n{text}")
    return Path(name)


def _say(message: str) -> None:
    try:
        print(f"gramian: {_one_line(message)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _silence(sys.stderr)


def _one_line(text: str) -> str:
    """Write a message in one line, without what would steer the terminal."""
    return printable(" ".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).split("\n")).strip())


def _prepare_streams() -> None:
    """Let no stream fail for a character, nor for being closed from the start."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next file would become the output
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def _silence(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(descriptor, stream.fileno())
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _one_line_warnings() -> Generator[None]:
    """Show a warning in one line, and once for each place in the code, whatever numbers it holds."""
    previous = warnings.formatwarning
    shown: set[tuple[str, int]] = set()

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        del category, line
        if (filename, lineno) in shown:
            return ""
        shown.add((filename, lineno))
        return f"gramian: warning: {_one_line(str(message))}\n"

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = previous


@contextlib.contextmanager
def _exit_at_signals() -> Generator[None]:
    """Make an exit of the first SIGTERM or SIGHUP, where they are not ignored; the second one ends the process."""
    previous: dict[int, signal.Handlers] = {}

    def leave(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.SIG_DFL
                signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
