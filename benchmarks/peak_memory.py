"""Peak memory of one call, measured in a new process."""

import resource
import subprocess
import sys
import threading
from pathlib import Path

import torch
from peers import METHODS, Work, prepare
from timing import draw

__all__ = ["peak", "print_peak"]


def peak(shape: tuple[int, int, int], method: str) -> float | None:
    """Return the peak memory of one call in MiB beyond Φ, measured in a new process; None if it does not finish."""
    command = [sys.executable, str(Path(__file__).with_name("kernels.py")), "--peak", method, *map(str, shape)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def print_peak(method: str, shape: tuple[int, int, int]) -> None:
    phi = draw(shape)
    work = prepare(next(each for each in METHODS if each.name == method), phi)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    print(memory_needed(work) / 2**20)


def resident() -> int:
    """Return the bytes of memory in use, on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory_needed(work: Work) -> int:
    """Run a function, and return the bytes of memory that it needed at most beyond those in use before it."""
    most, done = 0, threading.Event()

    def watch() -> None:  # the peak that the system reports includes that of the parent process
        nonlocal most
        while not done.wait(0.0005):
            most = max(most, resident())

    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(most, resident()) - before
