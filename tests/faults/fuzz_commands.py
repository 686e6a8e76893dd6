"""Command lines at random: whatever is typed ends with a known status and few lines, and replaces nothing unasked.

    python -m tests.faults.fuzz_commands --seconds 60 --seed 1

Every command runs in a fork of this process, in a folder that holds the same files each time.
"""

import argparse
import contextlib
import hashlib
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gramian.cli import main

STATUSES = {0, 1, 2}
"""This searches for status 70, an unexpected error."""
_LINES = 12
"""A usage error in a box takes the most."""
_LIMIT = 90

NUMBERS = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "1e308",
    "1e-320",
    str(2**70),
    "-0.0",
    "",
    "x",
    "0x10",
    "٣",
    " 2",
]
TEXTS = [
    "",
    "-",
    "--",
    "[red]x[/]",
    "β",
    "caf\udce9",
    "a b",
    "x" * 300,
    "\n",
    "\x1b[31m",
    "*",
    "=",
    ";",
    "->",
    "a -> b",
]
LAYOUTS = [
    "o i -> i () o",
    "*=o i -> i () o; h=2",
    "*=(h d) i -> i h d; h=0",
    "reduction i -> i () reduction",
    "*=->; h=x",
]
NAMES = ["l1", "huber", "logdet", "coherence", "proximal", "polyak", "subgradient", "lca", "zca", "none", "online"]
PLACES = [
    "w.npz", "w.safetensors", "p.png", "a.npy", "pictures", "empty", "nowhere", "nowhere/x.npz", "/dev/null",
    "/dev/full", ".", "..", "w.npz/x", "new.npz", "new.safetensors", "new.html", "new", "w.npz.html", "β.npz",
    "caf\udce9.html", "link.npz", "dangling.npz", "text.txt", "none.safetensors",
]  # fmt: skip

OPTIONS = {
    "explain": {
        "--l": NUMBERS, "--m": NUMBERS, "--n": NUMBERS, "--penalty": NAMES + TEXTS, "--vector": NUMBERS,
        "--seed": NUMBERS, "--latex": None, "--markdown": None,
    },
    "inspect": {"--select": TEXTS, "--layout": LAYOUTS + TEXTS, "--json": None, "--html": PLACES, "": PLACES},
    "orthogonalize": {
        "--out": PLACES, "--select": TEXTS, "--layout": LAYOUTS + TEXTS, "--rule": NAMES + TEXTS,
        "--penalty": NAMES + TEXTS, "--max-steps": NUMBERS, "": PLACES,
    },
    "encode": {
        "--out": PLACES, "--stride": NUMBERS, "--tol": NUMBERS, "--layer": TEXTS, "--infer": None,
        "--device": ["cpu", "meta", "x"], "": PLACES,
    },
    "features": {
        "--out": PLACES, "--resume": None, "--groups": [*NUMBERS, "2x2", "0x0", "2x", "x2"], "--active": NUMBERS,
        "--encoder": NAMES + TEXTS, "--select": NAMES + TEXTS, "--rate": NUMBERS, "--beta": NUMBERS,
        "--patience": NUMBERS, "--lr": NUMBERS, "--warm-up": NUMBERS, "--seconds": ["nan", "-1", "0", "inf", "1"],
        "--steps": ["0", "-1", "nan", "1", "2"], "--batch": NUMBERS, "--layer": TEXTS,
        "--device": ["cpu", "meta", "cuda:99", "x", ""], "--seed": NUMBERS, "": PLACES,
    },
    "decode": {"--out": PLACES, "": PLACES},
    "report": {"": PLACES},
    "compare": {
        "--images": PLACES, "--out": PLACES, "--groups": [*NUMBERS, "2x2", "0x0", "2x", "x2"], "--patch": NUMBERS,
        "--lam": NUMBERS, "--beta": NUMBERS, "--seed": NUMBERS, "--steps": ["0", "-1", "nan", "1"],
        "--tensor": TEXTS, "--layout": LAYOUTS + TEXTS, "": PLACES,
    },
    "learn": {
        "--images": PLACES, "--out": PLACES, "--resume": None, "--groups": [*NUMBERS, "2x2", "0x0", "2x", "x2"],
        "--size": NUMBERS, "--patch": NUMBERS, "--colour": None, "--whiten": NAMES + TEXTS, "--lam": NUMBERS,
        "--target-active": NUMBERS, "--beta": NUMBERS, "--lr": NUMBERS, "--seconds": ["nan", "-1", "0", "inf", "1"],
        "--steps": ["0", "-1", "nan", "1", "2"], "--batch": NUMBERS, "--rule": NAMES + TEXTS,
        "--penalty": NAMES + TEXTS, "--update": NAMES + TEXTS, "--prior": NAMES + TEXTS, "--infer": NAMES + TEXTS,
        "--device": ["cpu", "meta", "cuda:99", "x", ""], "--spread": NUMBERS, "--seed": NUMBERS,
    },
}  # fmt: skip


def furnish(folder: Path) -> None:
    """Put the files there that commands are pointed at."""
    from PIL import Image
    from safetensors.numpy import save_file

    numbers = np.random.default_rng(0)
    weights = {"a.weight": numbers.normal(size=(8, 4)).astype("float32"), "[red]": np.ones((4, 4), "float32")}
    np.savez(folder / "w.npz", **weights)
    save_file(weights, folder / "w.safetensors")
    (folder / "pictures").mkdir()
    (folder / "empty").mkdir()
    grey = (255 * numbers.random((40, 40))).astype("uint8")
    for name in ("p.png", "pictures/[b]one.png", "pictures/β.png"):
        Image.fromarray(grey).save(folder / name)
    with contextlib.suppress(OSError):  # where names must be UTF-8
        shutil.copy(folder / "p.png", folder / "pictures/caf\udce9.png")
    np.save(folder / "a.npy", grey.astype("float32") / 255)
    (folder / "text.txt").write_text("nothing\n")
    (folder / "none.safetensors").write_bytes(b"")
    (folder / "link.npz").symlink_to("w.npz")
    (folder / "dangling.npz").symlink_to("gone")


def content(folder: Path) -> dict[str, str]:
    """Give every file with a hash of what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def draw(numbers: random.Random) -> list[str]:
    """Draw a command with some of its options; small sizes stand first, for what is hostile to override."""
    name = numbers.choice(list(OPTIONS))
    arguments = [name]
    if name == "compare" and numbers.random() < 0.5:
        arguments += numbers.choices(PLACES, k=2)
    elif name in ("learn", "compare"):
        arguments += ["--images", "pictures", "--groups", "2x2", "--patch", "4", "--steps", "1"]
        arguments += ["--batch", "4"] if name == "learn" else []
    elif name == "features":
        arguments += ["w.safetensors", "--layer", "a.weight", "--groups", "2x2", "--active", "1", "--steps", "1"]
        arguments += ["--batch", "4"]
    options = OPTIONS[name]
    for option in numbers.sample(list(options), numbers.randint(0, min(3, len(options)))):
        values = options[option]
        arguments += [option] if option else []
        if values is not None:
            arguments += [numbers.choice(values)] + ([numbers.choice(values)] if option == "--vector" else [])
    if "" in options and numbers.random() < 0.7:
        arguments += numbers.choices(options[""], k=numbers.randint(1, 2))
    if "--out" in options and "--out" not in arguments and numbers.random() < 0.9:
        arguments += ["--out", numbers.choice(options["--out"])]
    return arguments


def ended(arguments: list[str], folder: Path, output: Path) -> tuple[int, str]:
    """Run a command in a fork; give its status (negative: a signal) and what it wrote to stderr."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.chdir(folder)
            signal.alarm(_LIMIT)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, 2**28))
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            tempfile.tempdir = str(output)
            os.environ["COLUMNS"] = "200"
            sys.argv = ["gramian", *arguments]
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, (output / "err").read_text(encoding="utf-8", errors="replace")


def complaint(arguments: list[str]) -> str | None:
    """Run one command in a new folder, and say what is wrong with how it ended."""
    with tempfile.TemporaryDirectory(prefix="gramian-fuzz-") as root:
        folder, output = Path(root, "here"), Path(root, "output")
        folder.mkdir()
        output.mkdir()
        furnish(folder)
        before = content(folder)
        status, err = ended(arguments, folder, output)
        after = content(folder)
        logs = "".join(path.read_text(encoding="utf-8") for path in output.glob("gramian-error-*.log"))
    lost = [name for name, there in before.items() if after.get(name) != there]
    if lost:
        return f"changed {lost}; status {status}; {err[-500:]}"
    if status not in STATUSES or "Traceback" in err or len(err.splitlines()) > _LINES:
        return f"status {status}; {err[-1500:]}\n{logs[-3000:]}"
    return None


def run(seconds: float, seed: int) -> int:
    """Draw commands for so long; give how many there were.

    Raises:
        AssertionError: If some ended badly; it lists them.
    """
    for name in ("application", "compare", "encode", "explain", "runs.features", "runs.images", "weights"):
        importlib.import_module(f"gramian.cli.{name}")  # once, not in each fork
    numbers, began, done, found = random.Random(seed), time.monotonic(), 0, []
    while time.monotonic() - began < seconds and len(found) < 20:
        arguments = draw(numbers)
        if what := complaint(arguments):
            found.append(f"seed {seed}, command {done}: {arguments!r}\n  {what}")
        done += 1
    if found:
        raise AssertionError(f"{len(found)} of {done} commands ended badly\n" + "\n".join(found))
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    print(f"{run(options.seconds, options.seed)} commands")
