"""All fuzzers, one after the other: `make fuzz SECONDS=600`, or a minute of it in the slow suite.

Each fuzzer is a module `fuzz_*.py` beside this one with a function `run(seconds, seed)`, which raises `AssertionError`
or the unforeseen error itself at the first input that is not answered as promised. The seed that is printed repeats it.
"""

import argparse
import importlib
import secrets
import time
from pathlib import Path

FUZZERS = sorted(path.stem for path in Path(__file__).parent.glob("fuzz_*.py"))


def run(seconds: float, seed: int) -> None:
    """Give every fuzzer an equal share of the time, and all of them the same seed."""
    for name in FUZZERS:
        began = time.monotonic()
        print(f"{name}: {seconds / len(FUZZERS):.0f} s with seed {seed}", flush=True)
        importlib.import_module(f"tests.faults.{name}").run(seconds / len(FUZZERS), seed)
        print(f"{name}: nothing in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Feed the package hostile files, tensors and command lines.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, over all fuzzers (60)")
    parser.add_argument("--seed", type=int, default=None, help="repeat an earlier run (default: a new one, printed)")
    given = parser.parse_args()
    run(given.seconds, secrets.randbelow(2**31) if given.seed is None else given.seed)
