"""Run a command and turn every outcome into at most one line on stderr and an exit status."""

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

__all__ = ["CLOSED_PIPE", "INTERRUPTED", "REFUSED", "UNEXPECTED", "end"]

REFUSED, UNEXPECTED, INTERRUPTED, CLOSED_PIPE = 2, 70, 130, 141
"""Exit statuses; commands use 1 for partial success; a signal gives 128 + its number."""

_STOPPED = {129: "the terminal is closed", INTERRUPTED: "interrupted", 143: "stopped by SIGTERM"}
_LONGEST = 300
"""Largest number of characters of an unexpected error's message."""


def end(command: Callable[[], None]) -> int:
    """Run a command and return its exit status.

    Characters that the output's encoding lacks are replaced. SIGTERM and SIGHUP raise `SystemExit`, so that temporary
    files are removed. Every warning and every error is printed in one line.

    Args:
        command: The command.

    Returns:
        The exit status.
    """
    _prepare_streams()
    with _one_line_warnings(), _exit_at_signals():
        code = _outcome(command)
        flushed = _outcome(sys.stdout.flush)
    if flushed:
        _silence(sys.stdout)  # otherwise the interpreter flushes again at exit and prints an error
    return code or flushed


def _outcome(action: Callable[[], object]) -> int:
    try:
        action()
    except SystemExit as error:
        return _of_exit(error)
    except KeyboardInterrupt:
        _print_error(_STOPPED[INTERRUPTED])
        return INTERRUPTED
    except GramianError as error:
        _print_error(str(error))
        return REFUSED
    except BrokenPipeError:
        return CLOSED_PIPE
    except Exception as error:
        refusal = _refusal(error)
        _print_error(refusal or _unexpected(error))
        return REFUSED if refusal else UNEXPECTED
    return 0


def _of_exit(error: SystemExit) -> int:
    """Return the exit status; Typer and Rich raise `SystemExit` for a closed pipe and Ctrl-C."""
    chain = list(_context_chain(error))
    if any(isinstance(cause, OSError) and cause.errno == errno.EPIPE for cause in chain):
        return CLOSED_PIPE
    code = INTERRUPTED if any(isinstance(cause, KeyboardInterrupt) for cause in chain) else error.code
    if code is None:
        return 0
    if not isinstance(code, int):
        _print_error(str(code))
        return REFUSED
    if code in _STOPPED:
        _print_error(_STOPPED[code])
    return code


def _context_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the chain of errors that were being handled when this one was raised."""
    seen = {id(error)}
    while (context := error.__context__) is not None and id(context) not in seen:
        yield context
        seen.add(id(context))
        error = context


def _refusal(error: Exception) -> str | None:
    """Return a message if the system refuses memory or a file operation, else None."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return "there must be enough memory; got an allocation that was refused; try smaller sizes"
    if isinstance(error, OSError) and error.errno is not None:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        return f"the system refuses {' and '.join(names) or 'a file or a stream'}: {error.strerror or error}"
    return None


def _unexpected(error: Exception) -> str:
    message = f"{type(error).__name__}: {_one_line(str(error))}".removesuffix(": ")
    message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    text = "".join(traceback.format_exception(error))
    try:
        return f"unexpected error: {message}; the traceback is in {_log(text)}"
    except OSError as refusal:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
        return f"unexpected error: {message}; no log could be written: {refusal.strerror or refusal}"


def _log(text: str) -> Path:
    torch = sys.modules.get("torch")
    versions = f"gramian {__version__}, Python {platform.python_version()}, torch {getattr(torch, '__version__', '–')}"
    descriptor, name = tempfile.mkstemp(prefix="gramian-error-", suffix=".log")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{versions}, {platform.platform()}\n{sys.argv}\n\n{text}")
    return Path(name)


def _print_error(message: str) -> None:
    try:
        print(f"gramian: {_one_line(message)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _silence(sys.stderr)


def _one_line(text: str) -> str:
    """Return a message as one line without terminal control sequences."""
    return printable(" ".join(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).split("\n")).strip())


def _prepare_streams() -> None:
    """Make the standard streams accept every character, and replace closed ones by the null device."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # otherwise the next file opened would become stdout
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
    """Print a warning in one line, and only once for each place in the code, even if its numbers differ."""
    previous = warnings.formatwarning
    printed: set[tuple[str, int]] = set()

    def formatted(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        del category, line
        if (filename, lineno) in printed:
            return ""
        printed.add((filename, lineno))
        return f"gramian: warning: {_one_line(str(message))}\n"

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = previous


@contextlib.contextmanager
def _exit_at_signals() -> Generator[None]:
    """Raise `SystemExit` on the first SIGTERM or SIGHUP unless it is ignored; the second one ends the process."""
    previous: dict[int, signal.Handlers] = {}

    def exit_on_signal(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.SIG_DFL
                signal.signal(number, exit_on_signal)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
