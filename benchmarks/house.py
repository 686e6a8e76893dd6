"""Measure the size of the package, how many files a call passes through, and how long imports and steps take.

    python benchmarks/house.py [SRC] [--before SRC] [--write]

`SRC` is the `src` folder of a version of the package; the default is the one of this repository. `--before` adds a
column for another version: check it out into another folder, for example with `git worktree`. `--write` also writes the
table to benchmarks/results/house.md.
"""

import argparse
import ast
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import record

HERE = Path(__file__).resolve().parent.parent / "src"

TRACE = """
import json, sys
import torch, gramian

folder = sys.argv[1]

def walk(call):
    call()  # not counted: the first call imports modules and selects kernels
    files, calls, crossings, last = set(), 0, 0, None
    def profile(frame, event, _):
        nonlocal calls, crossings, last
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(folder):
            calls += 1
            crossings += name != last
            files.add(name)
            last = name
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {"files": len(files), "calls": calls, "crossings": crossings}

model = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.Linear(16, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
gramian.attach(optimizer, model, beta=1.0)
for parameter in model.parameters():
    parameter.grad = torch.zeros_like(parameter)
phi = torch.randn(64, 8, 4)
print(json.dumps({
    "an attached step": walk(optimizer.step),
    "value_and_grad": walk(lambda: gramian.value_and_grad(phi)),
    "step_": walk(lambda: gramian.step_(phi, lr=0.1)),
}))
"""

SPEED = """
import json, statistics, time
import torch, gramian
from gramian.coding import Learner, initial_dictionary

def learner():
    phi = initial_dictionary(256, 64, 4, seed=0)
    try:
        from gramian.coding import LearningOptions
    except ImportError:  # before the options had a class
        return Learner(phi, lam=2.0, beta=0.3)
    return Learner(phi, LearningOptions(lam=2.0, beta=0.3))

def median_ms(call):
    for _ in range(5):
        call()
    times = []
    for _ in range(60):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)

torch.manual_seed(0)
small, large, square = torch.randn(64, 4096, 4), torch.randn(256, 16, 64), torch.randn(1024, 1, 1024)
x, coder = torch.randn(128, 256), learner()
print(json.dumps({
    "value_and_grad (64, 4096, 4)": median_ms(lambda: gramian.value_and_grad(small)),
    "value_and_grad (256, 16, 64)": median_ms(lambda: gramian.value_and_grad(large)),
    "value_and_grad (1024, 1, 1024)": median_ms(lambda: gramian.value_and_grad(square)),
    "step_ (64, 4096, 4)": median_ms(lambda: gramian.step_(small, lr=0.01)),
    "step_ (256, 16, 64)": median_ms(lambda: gramian.step_(large, lr=0.01)),
    "learning step (256, 64, 4), batch 128": median_ms(lambda: coder.step(x, lr=0.1)),
}))
"""


def public_names(path: Path) -> list[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def size(source: Path) -> dict[str, int]:
    files = sorted((source / "gramian").rglob("*.py"))
    lines = [path.read_text(encoding="utf-8").splitlines() for path in files]
    code = 0
    for path in files:
        code += sum(1 for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.stmt))
    return {
        "files": len(files),
        "lines": sum(map(len, lines)),
        "lines that are not blank": sum(1 for text in lines for line in text if line.strip()),
        "statements": code,
        "most files in one folder": max(len(list(folder.glob("*.py"))) for folder in {path.parent for path in files}),
        "names at the root": len(public_names(source / "gramian" / "__init__.py")),
        "public names of the packages": len(
            {name for path in files if path.name == "__init__.py" for name in public_names(path)}
        ),
        "names in __all__ of all modules": sum(len(public_names(path)) for path in files if path.name != "__init__.py"),
    }


def run(source: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(source)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def seconds(sources: list[Path], trials: int, command: Sequence[str]) -> list[float]:
    """Return the median time of a command for each version; runs are interleaved, the first round is not counted."""
    times: list[list[float]] = [[] for _ in sources]
    for trial in range(trials + 1):
        for column, source in zip(times, sources, strict=True):
            start = time.perf_counter()
            run(source, *command)
            if trial:
                column.append(time.perf_counter() - start)
    return [statistics.median(column) for column in times]


IMPORTS = {
    "python -c pass": "pass",
    "import torch": "import torch",
    "import torch, gramian (all of it)": "import torch, gramian; gramian.loss, gramian.attach",
    "gramian --version": "import sys; sys.argv = ['gramian', '--version']; from gramian.cli import main; main()",
}


def measure(sources: list[Path], trials: int) -> list[list[str]]:
    """Return one row for each quantity, with one cell for each version."""
    sizes = [size(source) for source in sources]
    rows = [[name, *(str(column[name]) for column in sizes)] for name in sizes[0]]
    traces = [json.loads(run(source, sys.executable, "-c", TRACE, str(source / "gramian"))) for source in sources]
    for name, counts in traces[0].items():
        rows += [[f"{name}: {what}", *(str(column[name][what]) for column in traces)] for what in counts]
    for name, code in IMPORTS.items():
        medians = seconds(sources, trials, (sys.executable, "-c", code))
        rows.append([f"`{name}`, seconds", *(f"{median:.3f}" for median in medians)])
    speeds: list[list[dict[str, float]]] = [[] for _ in sources]
    for _ in range(trials):
        for column, source in zip(speeds, sources, strict=True):
            column.append(json.loads(run(source, sys.executable, "-c", SPEED)))
    for name in speeds[0][0]:
        medians = [statistics.median(each[name] for each in column) for column in speeds]
        rows.append([f"{name}, ms", *(f"{median:.2f}" for median in medians)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, default=HERE, metavar="SRC")
    parser.add_argument("--before", type=Path, metavar="SRC", help="another version, in a column before this one")
    parser.add_argument("--trials", type=int, default=7, help="timed processes for each number (default 7)")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results/house.md")
    options = parser.parse_args()
    sources = [source.resolve() for source in (options.before, options.source) if source is not None]
    for source in sources:
        if not (source / "gramian" / "__init__.py").is_file():
            parser.error(f"SRC must be a folder that holds gramian/__init__.py; got {source}; try .../src")
    text = record.table(
        ["", "before", "after"][: 1 + len(sources)] if options.before else ["", "now"], measure(sources, options.trials)
    )
    text += f"""
Calls: Python functions of the package in one call, after a first one; crossings: calls from one file into another.
Imports: medians of {options.trials} whole processes. Steps: medians of {options.trials} processes in turn, each a
median of 60 calls.

Measured by `python benchmarks/house.py` on {record.machine()}.
"""
    if options.write:
        record.write("house.md", text)
    else:
        print(text)


if __name__ == "__main__":
    main()
