"""Measure the speed-up of a learning step by several processes, and the bytes that they send.

    python benchmarks/processes.py

writes benchmarks/results/processes.md; it takes about 3 minutes on an otherwise idle machine. Every process has one
thread, so that the table shows the effect of processes alone.
"""

import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
from record import machine, table, write
from torch import distributed

from gramian.coding import Learner, LearningOptions, initial_dictionary
from gramian.distributed import ProcessGrid

GRIDS = ((1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4))
SIZES = ((64, 4, 128), (64, 4, 1024), (192, 4, 1024))
LENGTH, ROUNDS = 256, 40


def worker(spread: int) -> None:
    """Time steps in one of several processes; the first one prints the result."""
    distributed.init_process_group("gloo")
    for m, n, batch in SIZES:
        grid = ProcessGrid.arrange(spread)
        learner = Learner(initial_dictionary(LENGTH, m, n, seed=0), LearningOptions(lam=2.0, beta=0.3), grid=grid)
        x = torch.randn(batch, LENGTH, generator=torch.Generator().manual_seed(0))
        for _ in range(5):
            learner.step(x, lr=0.1)
        sent, durations = grid.sent, []
        for _ in range(ROUNDS):
            distributed.barrier()
            start = time.perf_counter()
            learner.step(x, lr=0.1)
            durations.append(time.perf_counter() - start)
        slowest = grid.max_over_all(median(durations))
        phi = grid.gather_groups(learner.phi)
        if distributed.get_rank() == 0:
            bytes_a_step = (grid.sent - sent) // ROUNDS
            print(json.dumps({"seconds": slowest, "bytes": bytes_a_step, "sum": phi.double().abs().sum().item()}))
    distributed.destroy_process_group()


def measured(processes: int, spread: int) -> list[dict[str, Any]]:
    """Start processes by torchrun, and parse what they print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, __file__, "--worker", str(spread)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> None:
    if "--worker" in sys.argv:
        worker(int(sys.argv[-1]))
        return
    results = {grid: measured(*grid) for grid in GRIDS}
    rows: list[list[str]] = []
    for index, (m, n, batch) in enumerate(SIZES):
        one = results[1, 1][index]
        for processes, spread in GRIDS:
            each = results[processes, spread][index]
            if abs(each["sum"] / one["sum"] - 1) > 1e-4:
                sys.exit(
                    f"{processes} processes must learn the dictionary of one; got Σ|Φ| {each['sum']} and {one['sum']}"
                )
            rows.append([
                f"{m} groups of {n}, batch {batch}", str(processes), f"{processes // spread} × {spread}",
                f"{1e3 * each['seconds']:.1f}", f"{one['seconds'] / each['seconds']:.2f}",
                f"{each['bytes'] / 2**20:.2f}" if processes > 1 else "0",
            ])  # fmt: skip
    header = ["step", "processes", "patches × groups", "ms, median", "times the speed of one", "MiB sent a step, each"]
    note = (
        f"One thread for each process, {os.cpu_count()} cores, gloo; samples of {LENGTH} numbers, 10 iterations "
        f"of FISTA, medians of {ROUNDS}. Sent: sizes of the tensors that a process all-reduces or gathers; the traffic "
        "on the network is up to twice that, by the algorithm of the backend. With more processes than cores the "
        "times show the cost of communication, not the speed-up."
    )
    write(
        "processes.md",
        f"{table(header, rows)}\n{note}\n\nMeasured by `python benchmarks/processes.py` on {machine()}.\n",
    )


if __name__ == "__main__":
    main()
