"""Compare learning with SPAMS and scikit-learn and inference with the original LCA; learn from a million patches.

    pip install spams-bin
    python benchmarks/sparse_coding.py

writes benchmarks/results/sparse_coding.md; it takes about 15 minutes on an otherwise idle machine. `--quick` skips the
million patches (3 minutes) and writes nothing. Without SPAMS its row is left out. benchmarks/encoding.py measures
encoding alone.
"""

import argparse
import importlib.util
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from peers import spams
from record import machine, table, write
from sklearn.decomposition import MiniBatchDictionaryLearning
from torch import Tensor

from gramian.coding import (
    Learner,
    LearningOptions,
    cosine_decay,
    energy,
    group_soft_threshold,
    initial_dictionary,
    reconstruct,
    refit,
    snr,
    strongest_groups,
)
from gramian.coding.inference import coordinate_descent, fista, lca
from gramian.images.run import LearningRun, RunSettings
from gramian.typing import Phi

SEEDS = (0, 1, 2)
STEPS, BATCH, LAM, LR, BETA = 1000, 128, 2.0, 0.5, 0.3
ACTIVE = 32
MILLION = 1_000_000


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scikit_learn(phi: Phi, seed: int, fit_algorithm: str) -> Any:
    """Construct scikit-learn's learner of the same model, with the same initial dictionary."""
    learner: Any = MiniBatchDictionaryLearning  # its type stub declares alpha as an integer
    return learner(
        n_components=phi.shape[1], alpha=LAM, batch_size=BATCH, fit_algorithm=fit_algorithm, random_state=seed,
        dict_init=phi.flatten(1).mT.double().numpy(),
    )  # fmt: skip


def unit_atoms(theirs: Any) -> Phi:
    """Return scikit-learn's dictionary as groups of one atom of unit length."""
    atoms = torch.from_numpy(np.asarray(theirs.components_)).float()
    return (atoms / atoms.norm(dim=1, keepdim=True).clamp_min(1e-12)).mT[:, :, None].contiguous()


def spams_learner(x: Tensor, phi: Phi, steps: int) -> tuple[Phi, float]:
    """Learn with the online learner of SPAMS, in one call; return the dictionary and the mean seconds of a step."""
    X, D = np.asfortranarray(x.mT.numpy()), np.asfortranarray(phi.flatten(1).numpy())
    learn = spams().trainDL
    start = time.perf_counter()
    atoms = learn(X, D=D, lambda1=LAM, batchsize=BATCH, iter=steps, numThreads=torch.get_num_threads(), verbose=False)
    return torch.from_numpy(np.ascontiguousarray(atoms))[:, :, None], (time.perf_counter() - start) / steps


def held_out_energy(x: Tensor, phi: Phi) -> float:
    """Return the mean energy of held-out patches, with certified codes."""
    codes = coordinate_descent(x, phi, lam=LAM, tol=1e-5, max_iter=5000).codes
    return float(energy(x.double(), phi.double(), codes.double(), LAM).total.mean())


def quality(x: Tensor, phi: Phi) -> tuple[float, float]:
    """Return the SNR at 32 coefficients of held-out patches, before and after least squares."""
    codes = fista(x, phi, lam=LAM, max_iter=2000, tol=1e-3).codes
    return snr(x, reconstruct(phi, strongest_groups(codes, ACTIVE))), snr(
        x, reconstruct(phi, refit(x, phi, strongest_groups(codes, ACTIVE)))
    )


def single_atoms(steps: int) -> str:
    """Learn 256 single atoms from the same batches, step by step in turn; SPAMS from the same patches at once."""
    rows: dict[str, list[list[float]]] = {}
    for seed in SEEDS:
        run = LearningRun(RunSettings(groups=256, size=1, seed=seed))
        held_out = run.held_out_patches(2048)
        settings: dict[str, dict[str, Any]] = {
            "gramian, sgd": {},
            "gramian, online": {"update": "online"},
            "gramian, sgd, coordinate_descent": {"infer": "coordinate_descent"},
            "gramian, online, coordinate_descent": {"update": "online", "infer": "coordinate_descent"},
        }
        ours = {
            name: Learner(run.initial_phi, LearningOptions(lam=LAM, beta=BETA, **options))
            for name, options in settings.items()
        }
        theirs = {f"scikit-learn, {name}": scikit_learn(run.initial_phi, seed, name) for name in ("lars", "cd")}
        durations: dict[str, list[float]] = {name: [] for name in (*ours, *theirs)}
        batches = [run.train.sample(BATCH, seed=seed, step=step) for step in range(steps)]
        for step, x in enumerate(batches):
            wide = x.double().numpy()
            for name, learner in ours.items():
                durations[name].append(seconds(partial(learner.step, x, lr=cosine_decay(LR, step, steps))))
            for name, learner in theirs.items():
                durations[name].append(seconds(partial(learner.partial_fit, wide)))
        dictionaries = {name: learner.phi for name, learner in ours.items()}
        dictionaries |= {name: unit_atoms(learner) for name, learner in theirs.items()}
        if importlib.util.find_spec("spams"):
            phi, duration = spams_learner(torch.cat(batches), run.initial_phi, steps)
            dictionaries["SPAMS, trainDL"], durations["SPAMS, trainDL"] = phi, [duration]
        base = median(durations["gramian, sgd"])
        for name, phi in dictionaries.items():
            duration = median(durations[name])
            rows.setdefault(name, []).append([
                1e3 * duration, duration / base, held_out_energy(held_out, phi), *quality(held_out, phi),
            ])  # fmt: skip
    body = []
    for name, values in rows.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
        body.append([
            name, f"{mean[0]:.1f}", f"{mean[1]:.2f}",
            *(f"{mean[i]:.2f} ± {spread[i]:.2f}" for i in (2, 3, 4)),
        ])  # fmt: skip
    header = [
        "learner", "ms a step", "time, in that of sgd", "held-out energy", "SNR at 32, dB", "after least squares, dB",
    ]  # fmt: skip
    return (
        "### 256 single atoms beside SPAMS and scikit-learn\n\n" + table(header, body) +
        f"\n16 × 16 patches of the shipped images, {steps} steps of {BATCH}, λ = {LAM:g}, the same batches in turn; "
        f"medians of the durations of steps; energy and SNR on 2048 patches of held-out images, mean ± standard "
        f"deviation of {len(SEEDS)} seeds. SPAMS makes all steps in one call from all of these patches, its own order; "
        "its duration is that of the call by the number of steps. scikit-learn's learner is "
        "MiniBatchDictionaryLearning, with lars, its default, and with coordinate descent. Steps of SPAMS and "
        "scikit-learn infer codes to convergence; those of gramian make 10 iterations of FISTA from 0, or 10 rounds of "
        "coordinate descent.\n"
    )  # fmt: skip


def original_dynamics(x: Tensor, phi: Phi, lam: float, iterations: int) -> Tensor:
    """Make steps of the subspace LCA with its usual rate of 1/30, from u = 0."""
    D = phi.flatten(1)
    drive, competition = x @ D, D.mT @ D - torch.eye(D.shape[1])
    u = torch.zeros_like(drive)
    a = torch.zeros_like(drive)
    for _ in range(iterations):
        u = u + (drive - u - a @ competition) / 30
        a = group_soft_threshold(u.unflatten(1, phi.shape[1:]), lam).flatten(1)
    return a.unflatten(1, phi.shape[1:])


def first_within(codes: Callable[[int], Tensor], x: Tensor, phi: Phi, least: float, *, within: float) -> int:
    """Return the iterations until the mean energy is near the least, by bisection, since it decreases."""

    def far(iterations: int) -> bool:
        return float(energy(x, phi, codes(iterations), LAM).total.mean()) > least * (1 + within)

    high = 1
    while far(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if far(middle) else (low, middle)
    return high


def to_a_gap(steps: int) -> str:
    """Time inference until the mean energy is within 1e-3 of the least."""
    run = LearningRun(RunSettings(groups=64, size=4, steps=steps))
    while not run.finished:
        run.advance()
    x, phi = run.held_out_patches(256), run.phi
    best = fista(x.double(), phi.double(), lam=LAM, max_iter=20_000, tol=1e-10)
    least = float(energy(x.double(), phi.double(), best.codes, LAM).total.mean())
    methods: dict[str, Callable[[int], Tensor]] = {
        "LCA, η = 1/30": lambda k: original_dynamics(x, phi, LAM, k),
        "lca": lambda k: lca(x, phi, lam=LAM, max_iter=k, tol=None).codes,
        "fista": lambda k: fista(x, phi, lam=LAM, max_iter=k, tol=None).codes,
    }
    counts = {name: first_within(codes, x, phi, least, within=1e-3) for name, codes in methods.items()}
    works: dict[str, Callable[[], object]] = {
        name: (lambda codes=codes, k=counts[name]: codes(k)) for name, codes in methods.items()
    }
    works["fista, every patch certified"] = lambda: fista(x, phi, lam=LAM, tol=1e-3)
    certified = fista(x, phi, lam=LAM, tol=1e-3)
    counts["fista, every patch certified"] = certified.iterations
    durations: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(31):
        for name, work in works.items():
            durations[name].append(seconds(work))
    slow = durations["LCA, η = 1/30"]
    rows = [
        [
            name,
            str(counts[name]),
            f"{1e3 * median(durations[name]):.1f}",
            f"{median(a / b for a, b in zip(slow, durations[name], strict=True)):.1f}",
        ]
        for name in works
    ]
    header = ["method", "iterations", "ms", "times the speed of η = 1/30"]
    return (
        "### Inference to within 1e-3 of the least energy\n\n" + table(header, rows) +
        f"\n64 groups of 4 learned atoms of 16 × 16, 256 held-out patches, λ = {LAM:g}, float32; medians of 31 "
        "interleaved rounds. Within 1e-3: mean energy of the batch, at a number of iterations determined "
        "before; certified: by the duality gap of each patch, with the cost of computing it.\n"
    )  # fmt: skip


def growth() -> str:
    """Time a learning step over batch sizes and numbers of groups."""

    def step(m: int, batch: int) -> float:
        x = torch.randn(batch, 256, generator=torch.Generator().manual_seed(0))
        learner = Learner(initial_dictionary(256, m, 4, seed=0), LearningOptions(lam=LAM, beta=BETA))
        for _ in range(5):
            learner.step(x, lr=0.1)
        return median(seconds(lambda: learner.step(x, lr=0.1)) for _ in range(30))

    batches, groups = (64, 128, 256, 512, 1024), (32, 64, 128, 192, 256, 512)
    by_batch, by_groups = [step(64, batch) for batch in batches], [step(m, 128) for m in groups]
    slope_batch = float(np.polyfit(np.log(batches), np.log(by_batch), 1)[0])
    slope_groups = float(np.polyfit(np.log(groups), np.log(by_groups), 1)[0])
    return (
        "### How a learning step grows\n\n"
        + table(["batch, at 64 groups of 4", *map(str, batches)], [["ms", *(f"{1e3 * t:.1f}" for t in by_batch)]])
        + "\n"
        + table(["groups of 4, at a batch of 128", *map(str, groups)], [["ms", *(f"{1e3 * t:.1f}" for t in by_groups)]])
        + f"\nFitted exponents: {slope_batch:.2f} in the batch, {slope_groups:.2f} in the number of groups. "
        "Up to twice as many atoms as pixels inference uses the Gram matrix of all atoms, beyond that the "
        "reconstructions.\n"
    )


def a_million() -> None:
    """Learn 192 groups of 4 from a million patches, and print time, memory and quality; run it in a new process."""
    steps = math.ceil(MILLION / BATCH)
    start = time.perf_counter()
    run = LearningRun(RunSettings(groups=192, size=4, steps=steps))
    while not run.finished:
        run.advance()
    durations = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    raw, debiased = quality(run.held_out_patches(2048), run.phi)
    row = run.evaluate(seconds=durations)
    print(f"{steps},{durations},{peak},{raw},{debiased},{row['active_groups']},{row['residual']}")


def of_a_million() -> str:
    done = subprocess.run([sys.executable, __file__, "--million"], capture_output=True, text=True, check=True)
    steps, durations, peak, raw, debiased, active, residual = map(
        float, done.stdout.strip().splitlines()[-1].split(",")
    )
    header = [
        "patches",
        "time",
        "peak memory",
        "SNR at 32, dB",
        "after least squares, dB",
        "active groups",
        r"max \|X\|",
    ]
    row = [
        f"{int(steps) * BATCH:,}", f"{durations / 60:.1f} minutes", f"{peak:.2f} GiB", f"{raw:.2f}", f"{debiased:.2f}",
        f"{active:.1f} of 192", f"{residual:.1e}",
    ]  # fmt: skip
    return (
        "### A million patches, 768 atoms in 192 groups\n\n" + table(header, [row]) +
        f"\n{int(steps)} steps of {BATCH} patches of 16 × 16, drawn during learning; one process, whose memory "
        "includes whitening and torch.\n"
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer steps, without the million patches; nothing is written"
    )
    parser.add_argument("--million", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.million:
        a_million()
        return
    steps = 100 if options.quick else STEPS
    parts = [single_atoms(steps), to_a_gap(steps), growth()]
    if options.quick:
        print("\n".join(parts))
        return
    parts.append(of_a_million())
    parts.append(f"Measured by `python benchmarks/sparse_coding.py` on {machine()}.\n")
    write("sparse_coding.md", "\n".join(parts))


if __name__ == "__main__":
    main()
