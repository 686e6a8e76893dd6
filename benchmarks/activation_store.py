"""Measure learning from a store of activations on disk: time, memory, and their growth in samples and in groups.

    python benchmarks/activation_store.py [--write] [--quick] [--whole] [--folder FOLDER] [--minutes 9] [--keep]

A store of 1,000,000 samples of 384 numbers (1.5 GB, sums of 4 of 1,024 factors on manifolds, with noise) is written by
`gramian.activations.capture`, and learned from by a stream of batches of 1,024: groups of 4 dimensions, of which 4 are
active. 12 batches from the first 100,000, 300,000 and all samples show the growth in samples, and with 1,024, 4,096 and
16,384 groups the growth in groups. One pass over 100,000 samples, and with `--whole` over all, is learning as it would
be used. Each case is a process of its own with one thread.

Memory is the largest resident anonymous memory of that process (`RssAnon` of /proc/self/status, every 20 ms): what is
mapped from files, the store and the program, does not count, because the system can drop it at any time. The block R²
compares groups with the known factors on 4,096 samples that are not in the store.

The table needs about ten minutes on one core, `--whole` half an hour more. After `--minutes` a run saves what it has in
FOLDER and stops; the same command continues it. FOLDER is deleted at the end, unless `--keep`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import machine, table, write
from torch import Tensor, nn

from gramian.activations import ActivationSampler, Preparation, capture, open_activations
from gramian.coding import BlockSparseAutoencoder, ManifoldSum, block_recovery
from gramian.coding.features import FeatureTraining

LENGTH, SIZE, ACTIVE, BATCH = 384, 4, 4, 1024
FACTORS, NOISE = 1024, 0.1
PART, HELD_OUT = 10_000, 4096
UNFINISHED = 3
"""Exit status of a process that has saved its state and stopped."""


@dataclass(frozen=True)
class Case:
    """What is learned: from the first samples of the store, in a number of steps."""

    samples: int
    groups: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.samples}-{self.groups}-{self.steps}"


@dataclass(frozen=True)
class Outcome:
    """What is measured; memory in bytes, `start` is that before the model exists."""

    samples: int
    groups: int
    steps: int
    seconds: float
    peak: int
    start: int
    unexplained: float
    r2: float
    used: int


@dataclass(frozen=True)
class Scale:
    """The samples of the store, and the cases."""

    samples: int
    factors: int
    cases: tuple[Case, ...]


def one_pass(samples: int, groups: int) -> Case:
    return Case(samples, groups, -(-samples // BATCH))


FULL = Scale(
    1_000_000,
    FACTORS,
    (
        *(Case(samples, 4096, 12) for samples in (1_000_000, 100_000, 300_000)),
        *(Case(1_000_000, groups, 12) for groups in (1024, 16_384)),
        one_pass(100_000, 4096),
    ),
)
QUICK = Scale(
    20_000,
    32,
    (*(Case(20_000, groups, 5) for groups in (64, 128)), one_pass(5000, 64)),
)


def build(folder: Path, scale: Scale) -> float:
    """Write the store, or continue it; return the seconds."""
    data = ManifoldSum(LENGTH, scale.factors, ACTIVE, noise=NOISE)

    def batches() -> Iterator[Callable[[], Tensor]]:
        for first in range(0, scale.samples, PART):
            yield lambda first=first: data.draw(min(PART, scale.samples - first), seed=1 + first).x

    began = time.perf_counter()
    store = folder / "store"
    resume = (store / "manifest.json").exists()
    capture(nn.Sequential(nn.Identity()), batches(), layer="0", store=store, resume=resume, name="ManifoldSum")
    return time.perf_counter() - began


class PeakMemory:
    """Watch the anonymous resident memory of this process in a thread."""

    def __init__(self) -> None:
        self.start = self.peak = self.now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def now() -> int:
        """Return the bytes in use; 0 where the system does not tell."""
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.peak = max(self.peak, self.now())


def learn(case: Case, scale: Scale, folder: Path, deadline: float) -> Outcome | None:
    """Learn from a stream, from the last checkpoint on; return None if the deadline came first."""
    store = open_activations(folder / "store")
    preparation = Preparation.fit(store)
    sampler = ActivationSampler(store.part(0, case.samples), preparation)
    seconds, checkpoint = 0.0, folder / f"{case.name}.pt"
    with PeakMemory() as memory:
        model = BlockSparseAutoencoder(LENGTH, n_groups=case.groups, group_size=SIZE, active=ACTIVE)
        cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=case.steps)
        training = FeatureTraining(model, scheduler=cosine)
        peak = 0
        if checkpoint.exists():
            stored = torch.load(checkpoint)
            model.load_state_dict(stored["model"])
            training.optimizer.load_state_dict(stored["optimizer"])
            training.scheduler.load_state_dict(stored["scheduler"])
            training.steps, seconds, peak = stored["steps"], stored["seconds"], stored["peak"]
            del stored
        began = time.perf_counter()
        while training.steps < case.steps:
            if time.time() > deadline:
                state: dict[str, Any] = {
                    "model": model.state_dict(), "optimizer": training.optimizer.state_dict(),
                    "scheduler": training.scheduler.state_dict(), "steps": training.steps,
                    "seconds": seconds + time.perf_counter() - began, "peak": max(peak, memory.peak),
                }  # fmt: skip
                torch.save(state, checkpoint)
                return None
            training.step(sampler.sample(BATCH, seed=0, step=training.steps), revive=training.steps < 0.75 * case.steps)
        seconds += time.perf_counter() - began
    unexplained, r2, used = judge(model, preparation, scale)
    return Outcome(**asdict(case), seconds=seconds, peak=max(peak, memory.peak), start=memory.start,
                   unexplained=unexplained, r2=r2, used=used)  # fmt: skip


@torch.no_grad()
def judge(model: BlockSparseAutoencoder, preparation: Preparation, scale: Scale) -> tuple[float, float, int]:
    """Return the unexplained share, the block R², and the number of groups in use, on samples outside the store."""
    data = ManifoldSum(LENGTH, scale.factors, ACTIVE, noise=NOISE)
    truth = data.draw(HELD_OUT, seed=0)
    x = preparation.prepare(truth.x)
    model.eval()
    codes = model.encode(x)
    unexplained = float((x - model.decode(codes)).square().sum() / x.square().sum())
    dense = codes.dense()
    recovery = block_recovery(model.phi, dense, data.phi, truth.codes / preparation.scale, truth.active)
    return unexplained, float(recovery.r2.nanmean()), int(dense.any(dim=2).any(dim=0).sum())


def measured(case: Case, folder: Path, arguments: list[str], deadline: float) -> Outcome | None:
    """Learn in a process of its own."""
    number = json.dumps(asdict(case))
    command = [
        sys.executable,
        __file__,
        *arguments,
        "--folder",
        str(folder),
        "--case",
        number,
        "--until",
        f"{deadline}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    if done.returncode == UNFINISHED:
        return None
    if done.returncode:
        sys.exit(done.returncode)
    return Outcome(**json.loads(done.stdout))


def report(outcomes: list[Outcome], scale: Scale, build_seconds: float) -> str:
    ordered = sorted(outcomes, key=lambda o: (o.steps, o.groups, o.samples))
    rows = [
        [
            f"{o.samples:,}",
            f"{o.groups:,}",
            f"{o.steps * BATCH:,}",
            f"{o.seconds:.0f}",
            f"{1000 * o.seconds / o.steps:.0f}",
            f"{o.peak / 2**20:.0f}",
            f"{(o.peak - o.start) / (4 * 2 * LENGTH * SIZE * o.groups):.1f}",
            f"{100 * o.unexplained:.1f} %",
            f"{o.r2:.3f}",
            f"{o.used:,}",
        ]
        for o in ordered
    ]
    header = [
        "samples in the store", "groups of 4", "samples seen", "seconds", f"ms a step of {BATCH:,}", "peak memory, MiB",
        "times the parameters", "unexplained, held out", "block R²", "groups in use",
    ]  # fmt: skip
    start = min(o.start for o in outcomes) / 2**20
    note = (
        f"Store of {scale.samples:,} × {LENGTH} in float32, {4e-9 * scale.samples * LENGTH:.2g} GB, written in "
        f"{build_seconds:.0f} s; sums of {ACTIVE} of {scale.factors:,} factors, with noise of {NOISE:g} of their root "
        f"mean square; {ACTIVE} groups active. Peak memory: largest `RssAnon` of the process, of which {start:.0f} MiB "
        "before the model exists; mapped files do not count. Times the parameters: what is added to that, divided by "
        f"the size of frames and encoder; Adam and the gradient alone need 4. Held out: {HELD_OUT:,} samples outside "
        "the store. The seconds include reading and shuffling."
    )
    return f"{table(header, rows)}\n{note}\n\nMeasured by `python benchmarks/activation_store.py` on {machine()}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table into benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="a small store and few groups; some seconds")
    parser.add_argument("--whole", action="store_true", help="also one pass over all samples")
    parser.add_argument("--folder", type=Path, help="where the store is kept while this runs; default a temporary one")
    parser.add_argument("--minutes", type=float, default=1e6, help="save and stop after this time")
    parser.add_argument("--keep", action="store_true", help="do not delete the folder at the end")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    scale, name = (QUICK, "quick") if chosen.quick else (FULL, "full")
    folder = chosen.folder or Path(tempfile.gettempdir()) / f"gramian-activation-store-{name}"
    if chosen.case is not None:
        outcome = learn(Case(**chosen.case), scale, folder, chosen.until)
        if outcome is None:
            sys.exit(UNFINISHED)
        print(json.dumps(asdict(outcome)))
        return
    deadline = time.time() + 60 * chosen.minutes
    folder.mkdir(parents=True, exist_ok=True)
    progress = folder / "progress.json"
    state: dict[str, Any] = json.loads(progress.read_text()) if progress.exists() else {"build": None, "outcomes": []}
    if state["build"] is None:
        state["build"] = build(folder, scale)
        progress.write_text(json.dumps(state))
        print(f"store written in {state['build']:.0f} s", flush=True)
    outcomes = [Outcome(**each) for each in state["outcomes"]]
    done = {(o.samples, o.groups, o.steps) for o in outcomes}
    whole = [one_pass(scale.samples, scale.cases[0].groups)] if chosen.whole else []
    for case in [*scale.cases, *whole]:
        if (case.samples, case.groups, case.steps) in done:
            continue
        outcome = measured(case, folder, ["--quick"] if chosen.quick else [], deadline)
        if outcome is None:
            print(f"{case.name} is not finished; the same command continues it")
            return
        outcomes.append(outcome)
        progress.write_text(json.dumps({**state, "outcomes": [asdict(each) for each in outcomes]}))
        text = report(outcomes, scale, state["build"])
        if chosen.write:
            write("activation_store.md", text)
        else:
            print(text)
    if not chosen.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
