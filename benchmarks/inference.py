"""Measure inference and dictionary learning with priors that have a price for every active group.

    python benchmarks/inference.py [--device cuda] [--seeds 5] [--workers 1] [--resume] [--quick]

Sums of points on manifolds in random subspaces (`gramian.coding.ManifoldSum`): 128 factors in 128 dimensions, 4 active.
First the support and the codes with the true dictionary; then dictionaries that are learned by a one-pass encoder, by
learning with group ℓ0 inference in the loop, and by additive factor analysers, each decoded by inference. It writes
benchmarks/results/inference.md; an otherwise idle machine with 2 cores needs about an hour. Every dictionary that
was measured is kept in benchmarks/results/inference.jsonl, so that `--resume` continues.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass
from functools import partial
from multiprocessing import get_context
from statistics import mean, stdev

import torch
from record import RESULTS, machine, table, write
from torch import Tensor

from gramian.coding import (
    AdditiveFactorAnalyzers,
    Inference,
    Learner,
    LearningOptions,
    ManifoldSamples,
    ManifoldSum,
    block_iht,
    block_omp,
    block_recovery,
    cosine_decay,
    fista,
    initial_dictionary,
    reconstruct,
)
from gramian.coding.factors.start import autoencoder_frames, random_frames

DIMENSIONS = 128
NOISE = 0.1
OTHER_SEEDS = 3
"""Seeds of the settings after the first."""
ENOUGH = 30_000
"""Training samples of the factor analysers; the other learners draw from 100,000."""
RATES = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Setting:
    """One row of the table of learned dictionaries."""

    name: str
    groups: int = 256
    active: int = 4
    noise: float = 0.0


SETTINGS = (
    Setting("256 groups, 4 active"),
    Setting("128 groups", groups=128),
    Setting("64 groups", groups=64),
    Setting("8 active", active=8),
    Setting("noise 0.1", noise=NOISE),
)


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Format the mean of a few values with their standard deviation."""
    numbers = list(values)
    return f"{mean(numbers):.{digits}f}" + (f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else "")


def quality(data: ManifoldSum, samples: ManifoldSamples, phi: Tensor, codes: Tensor) -> dict[str, float]:
    """Measure recovery: block R² of all, straight and curved factors, and the unexplained share of variance."""
    r2 = block_recovery(phi.cpu(), codes.cpu(), data.phi, samples.codes, samples.active).r2
    straight = torch.tensor([kind == "segment" for kind in data.kinds])
    x = samples.x.to(codes)
    error = (x - reconstruct(phi.to(codes), codes)).square().sum() / x.square().sum()
    return {
        "r2": float(r2.nanmean()),
        "segments": float(r2[straight].nanmean()),
        "curved": float(r2[~straight].nanmean()),
        "error": float(error),
    }


def support_row(
    name: str,
    infer: Callable[[Tensor, Tensor], Inference],
    noise: float,
    seeds: int,
    device: str,
    *,
    samples: int = 4096,
) -> list[str]:
    """Infer with the true dictionary; report recall, false discoveries and R² over seeds."""
    recall, false, r2, steps = [], [], [], []
    for seed in range(seeds):
        data = ManifoldSum(noise=noise, seed=seed)
        drawn = data.draw(samples, seed=1000 + seed)
        result = infer(drawn.x.to(device), data.phi.float().to(device))
        support = result.support.cpu()
        recall.append(float((support & drawn.active).sum() / drawn.active.sum()))
        wrong = (support & ~drawn.active).sum(dim=1) / support.sum(dim=1).clamp_min(1)
        false.append(float(wrong.mean()))
        r2.append(quality(data, drawn, data.phi.float(), result.codes)["r2"])
        steps.append(result.iterations)
    return [name, f"{noise:g}", spread(recall, 4), spread(false), spread(r2, 4), f"{max(steps)}"]


def known_dictionary(seeds: int, device: str) -> str:
    """Make the table of inference with the true dictionary."""
    sigma = NOISE / DIMENSIONS**0.5
    convex = partial(support_row, "fista, λ = 0.02, 1,024 samples", partial(fista, lam=0.02, tol=1e-3), samples=1024)
    rows = [
        support_row("block_omp, active=4", partial(block_omp, active=4), 0.0, seeds, device),
        support_row("block_iht, active=4", partial(block_iht, active=4, max_iter=20), 0.0, seeds, device),
        support_row("block_omp, fdr=0.1, noise measured", partial(block_omp, fdr=0.1), 0.0, seeds, device),
        convex(0.0, seeds, device),
        support_row("block_omp, active=4", partial(block_omp, active=4), NOISE, seeds, device),
        convex(NOISE, seeds, device),
    ]
    for rate in RATES:
        for name, noise in (("known", sigma), ("measured", None)):
            method = partial(block_omp, fdr=rate, noise=noise)
            rows.append(support_row(f"block_omp, fdr={rate}, noise {name}", method, NOISE, seeds, device))
    return table(("method", "noise", "recall", "false discoveries", "block R²", "iterations"), rows)


def one_pass(x: Tensor, setting: Setting, seed: int, steps: int) -> tuple[Tensor, None]:
    generator = torch.Generator().manual_seed(seed)
    start = random_frames(DIMENSIONS, setting.groups, 4, generator).to(x)
    phi, _ = autoencoder_frames(
        x, start, active=setting.active, steps=steps, batch_size=512, lr=3e-3, generator=generator
    )
    return phi, None


def in_the_loop(x: Tensor, setting: Setting, seed: int, steps: int) -> tuple[Tensor, None]:
    options = LearningOptions(prior="group_l0", lam=4.0, target_active=setting.active, patience=50)
    learner = Learner(initial_dictionary(DIMENSIONS, setting.groups, 4, seed=seed).to(x), options)
    generator = torch.Generator(device=x.device).manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(x), (256,), generator=generator, device=x.device)
        learner.step(x[rows], lr=cosine_decay(0.5, step, steps))
    return learner.phi, None


def factor_analyzers(x: Tensor, setting: Setting, seed: int, _: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    model = AdditiveFactorAnalyzers(setting.groups, 4, active=setting.active, random_state=seed).fit(x[:ENOUGH])
    shape = model.phi_.shape[1:]
    used = torch.as_tensor(model.variances_ > 0).to(x)  # directions without variance are arbitrary
    return model.phi_ * used, lambda x: model.transform(x).unflatten(1, shape)


LEARNERS = {
    "one-pass encoder": (one_pass, 4000, 500),
    "group ℓ0 in the loop": (in_the_loop, 500, 100),
    "additive factor analysers": (factor_analyzers, 0, 0),
}


@dataclass(frozen=True)
class Task:
    """One dictionary to learn and to decode."""

    setting: Setting
    learner: str
    seed: int
    quick: bool


@dataclass(frozen=True)
class Outcome:
    """What was measured: by decoder, the qualities; the time of learning and where; the number of groups in use."""

    qualities: dict[str, dict[str, float]]
    seconds: float
    device: str
    used: int


def measure(task: Task, device: str) -> Outcome:
    """Learn a dictionary, and decode it by inference."""
    setting, (method, effort, less) = task.setting, LEARNERS[task.learner]
    data = ManifoldSum(active=setting.active, noise=setting.noise, seed=task.seed)
    size = DIMENSIONS**0.5
    train = size * data.draw(20_000 if task.quick else 100_000, seed=1000 + task.seed).x.to(device)
    samples = data.draw(4096, seed=2000 + task.seed)
    x = samples.x.to(device)
    start = time.perf_counter()
    phi, direct = method(train, setting, task.seed, less if task.quick else effort)
    if x.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    greedy = block_omp(x, phi, active=setting.active)
    codes = {
        f"block_omp, active={setting.active}": greedy.codes,
        "block_omp, fdr=0.1": block_omp(x, phi, fdr=0.1).codes,
    }
    if direct is not None:
        codes = {"as learned": direct(size * x) / size, **codes}
    qualities = {decoder: quality(data, samples, phi, decoded) for decoder, decoded in codes.items()}
    return Outcome(qualities, seconds, device, int(greedy.support.any(dim=0).sum()))


def measure_all(tasks: Sequence[Task], device: str, workers: int, *, resume: bool) -> dict[Task, Outcome]:
    """Measure every task, and keep each outcome in a file; `resume` takes those that are in it."""
    path = RESULTS / "inference.jsonl"
    outcomes: dict[Task, Outcome] = {}
    if resume and path.exists():
        for line in path.read_text().splitlines():
            task, outcome = json.loads(line)
            outcomes[Task(Setting(**task.pop("setting")), **task)] = Outcome(**outcome)
    else:
        path.unlink(missing_ok=True)
    with path.open("a") as file, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(measure, task, device): task for task in tasks if task not in outcomes}
        for future in as_completed(futures):
            task, outcome = futures[future], future.result()
            outcomes[task] = outcome
            print(json.dumps([asdict(task), asdict(outcome)]), file=file, flush=True)
            print(*astuple(task)[1:3], task.setting.name, outcome, flush=True)
    return {task: outcomes[task] for task in tasks}


def learned_dictionaries(outcomes: dict[Task, Outcome]) -> str:
    """Make the table of learned dictionaries; durations are given if one process measured them."""
    rows = []
    for setting, learner in dict.fromkeys((task.setting, task.learner) for task in outcomes):
        values = [value for task, value in outcomes.items() if (task.setting, task.learner) == (setting, learner)]
        rows += [
            [
                f"{setting.name}, {len(values)} seeds",
                learner,
                decoder,
                *(spread(value.qualities[decoder][key] for value in values) for key in ("r2", "segments", "curved")),
                f"{100 * mean(value.qualities[decoder]['error'] for value in values):.2g} %",
                f"{mean(value.used for value in values):.0f}",
                ", ".join(
                    f"{mean(value.seconds for value in values if value.device == device):.0f} ({device})"
                    for device in dict.fromkeys(value.device for value in values)
                ),
            ]
            for decoder in values[0].qualities
        ]
    header = (
        "data", "learned by", "decoded by", "block R²", "segments", "curved", "unexplained", "groups used", "seconds",
    )  # fmt: skip
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="processes; durations are those of one of them")
    parser.add_argument("--resume", action="store_true", help="continue a run that was interrupted")
    parser.add_argument("--quick", action="store_true", help="two seeds, one setting, short learning")
    options = parser.parse_args()
    seeds = 2 if options.quick else options.seeds
    device = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    tasks = [
        Task(setting, learner, seed, options.quick)
        for setting in (SETTINGS[:1] if options.quick else SETTINGS)
        for seed in range(seeds if setting == SETTINGS[0] else min(seeds, OTHER_SEEDS))
        for learner in LEARNERS
    ]
    known = known_dictionary(seeds, options.device)
    print(known, flush=True)
    learned = learned_dictionaries(measure_all(tasks, options.device, options.workers, resume=options.resume))
    write(
        "inference.md",
        f"Measured on {machine()}, on {device}, {options.workers} processes at once; means and standard "
        f"deviations.\n\n## With the true dictionary, {seeds} seeds\n\n{known}\n"
        f"## With a learned dictionary\n\n{learned}",
    )


if __name__ == "__main__":
    main()
