"""Makes the calls that put a file in place fail, or the process die, at the n-th of them."""

import builtins
import contextlib
import errno
import io
import os
import pathlib
import signal
from collections.abc import Callable, Iterator

CALLS = ("open", "replace", "rename", "fsync", "chmod", "mkdir", "sendfile", "ftruncate")
"""Functions of `os`; writing and opening for writing are counted beside."""

ACCESSOR = getattr(pathlib, "_NormalAccessor", None)
"""Where `pathlib` of Python 3.10 keeps the functions of `os` that it calls; later versions call those of the module."""


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt() -> None:
    raise KeyboardInterrupt


def leave() -> None:
    raise SystemExit(143)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Fault:
    """Counts calls, and acts at one of them."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self.at, self.action, self.calls, self.log = at, action, 0, []

    def __call__(self, name: str) -> None:
        self.log.append(name)
        self.calls += 1
        if self.calls == self.at:
            self.action()


@contextlib.contextmanager
def injected(at: int, action: Callable[[], None]) -> Iterator[Fault]:
    """Do `action` instead of the call number `at`, counted from 1."""
    fault = Fault(at, action)
    kept = {name: getattr(os, name) for name in CALLS}
    kept_open = io.open

    def counted(name: str) -> Callable[..., object]:
        def call(*arguments, **options):
            fault(f"os.{name}")
            return kept[name](*arguments, **options)

        return call

    class Written(io.FileIO):
        def write(self, content):
            fault("write")
            return super().write(content)

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if not set(mode) & set("wax+") or isinstance(file, int):
            return kept_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        fault("open to write")
        raw = Written(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def install(functions: dict[str, Callable[..., object]], new_open: Callable[..., object]) -> None:
        for name, function in functions.items():
            setattr(os, name, function)
            if hasattr(ACCESSOR, name):
                setattr(ACCESSOR, name, staticmethod(function))
        io.open = builtins.open = new_open
        if ACCESSOR is not None:
            ACCESSOR.open = staticmethod(new_open)

    try:
        install({name: counted(name) for name in CALLS}, opened)
        yield fault
    finally:
        install(kept, kept_open)
