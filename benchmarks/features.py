"""Measure block-sparse features on samples with known factors, beside five baselines written from their papers.

    python benchmarks/features.py [--seeds 5] [--quick] [--only NAME …] [--threads 2] [--device cuda]
    python benchmarks/features.py --times [--only NAME …]

A sample is the sum of 4 of 128 factors on manifolds in random subspaces of 128 dimensions (`ManifoldSum`); 300,000
samples to learn from, 100,000 held out. For each method and seed: the block R² of one pass and of codes by inference
with the learned dictionary (`block_omp` of 4 groups), the groups that are in no held-out sample, the number of active
groups in training and in use, and the share of its dimensions that a group uses: the participation ratio of the
eigenvalues of the covariance of its contributions, divided by their number.

Every result is appended to benchmarks/results/features.jsonl as soon as it is measured, and the table in
benchmarks/results/features.md is written anew. What is in the file is not measured again; delete it to start anew. A
machine with 2 cores needs ten hours for five seeds; `--quick` a few minutes, in files of its own.

`--times` measures training alone, on a machine that does nothing else: what trains by equal steps, for a twentieth of
them. The times are kept in benchmarks/results/features_times.json.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from baselines import (
    Autoencoder,
    Grassmannian,
    GroupLasso,
    MixtureOfFactorAnalyzers,
    TopKAutoencoder,
    Vanilla,
    WithAuxiliaryLoss,
    directional_recovery,
    train,
    utilisation,
)
from record import RESULTS, commit, machine, table, write
from torch import Tensor

from gramian.coding import (
    AdditiveFactorAnalyzers,
    BlockFeatures,
    ManifoldSamples,
    ManifoldSum,
    block_omp,
    block_recovery,
    strongest_groups,
)
from gramian.coding.features import FeatureTraining
from gramian.files import replace_file

LENGTH, ACTIVE = 128, 4
PART = 50_000
PAPER = {
    "TopK SAE, 16 of 1024": "0.53",
    "vanilla": "0.93–0.97",
    "Grassmannian, QR": "0.93–0.97",
    "group lasso, λ = 0.1": "0.93–0.97",
    "group lasso, λ = 1": "0.93–0.97",
    "group lasso, λ = 4": "0.93–0.97",
    "mixture of factor analysers": "0.38",
}
"""The block R² in arXiv 2606.25234, appendix H."""


@dataclass(frozen=True)
class Scale:
    """The size of the measurement."""

    samples: int = 300_000
    held_out: int = 100_000
    steps: int = 8000
    iterative_steps: int = 400
    mixture_samples: int = 60_000
    factor_samples: int = 30_000


PARTS = 20
TIMING = Scale(steps=Scale.steps // PARTS, iterative_steps=Scale.iterative_steps // PARTS)
"""A part of the steps that time is measured for."""
WHOLE = ("mixture of factor analysers", "additive factor analysers")
"""What does not train by equal steps."""

QUICK = Scale(samples=20_000, held_out=4000, steps=300, iterative_steps=20, mixture_samples=4000, factor_samples=4000)


@dataclass(frozen=True)
class Learned:
    """A dictionary with its codes in one pass.

    Attributes:
        phi: Φ[l, m, n].
        encode: One pass: dense codes [batch, m, n] of scaled samples.
        frames: The dictionary for inference; None if it cannot be decoded by groups.
        train_active: Mean number of active groups at the end of training; NaN if it is not known.
    """

    phi: Tensor
    encode: Callable[[Tensor], Tensor]
    frames: Tensor | None
    train_active: float = float("nan")


@dataclass(frozen=True)
class Outcome:
    """What is measured of one method with one seed.

    Or means over `seeds` seeds, the first of which is `seed`, with their standard deviations in `deviations`.
    """

    method: str
    seed: int
    quick: bool
    r2: float
    concepts: float
    curved: float
    unexplained: float
    train_active: float
    active: float
    dead: int
    groups: int
    utilisation: float
    decoded_r2: float
    decoded_unexplained: float
    machine: str
    version: str
    seeds: int = 1
    deviations: dict[str, float] = field(default_factory=dict)


Method = Callable[[Tensor, int, Scale], Learned]


def autoencoder(make: Callable[[torch.Generator], Autoencoder], *, aux: bool = False) -> Method:
    """Train a baseline."""

    def method(x: Tensor, seed: int, scale: Scale) -> Learned:
        generator = torch.Generator().manual_seed(seed)
        model = make(generator).to(x.device)

        def batch() -> Tensor:
            return x[torch.randint(len(x), (512,), generator=generator).to(x.device)]

        train(model, batch, steps=scale.steps, aux=aux)
        single = isinstance(model, TopKAutoencoder)
        encode = torch.no_grad()(model.codes)
        active = float((encode(batch()) != 0).any(dim=2).float().sum(dim=1).mean())
        return Learned(model.phi, encode, None if single else model.phi, active)

    return method


def mixture(x: Tensor, seed: int, scale: Scale) -> Learned:
    """Fit a mixture of factor analysers, to some of the samples."""
    model = MixtureOfFactorAnalyzers(256, 4).fit(x[: scale.mixture_samples], torch.Generator().manual_seed(seed))
    return Learned(model.phi, model.codes, model.frames, 1.0)


def ours(*, n_groups: int = 256, group_size: int = 4, **options: Any) -> Method:
    """Train `BlockFeatures`; its mean and scale are those of the samples, so that codes are comparable."""

    def method(x: Tensor, seed: int, scale: Scale) -> Learned:
        steps = scale.iterative_steps if options.get("encoder") == "iterative" else scale.steps
        model = BlockFeatures(
            n_groups, group_size, active=ACTIVE, steps=steps, center=False, random_state=seed, **options
        ).fit(x)

        def encode(x: Tensor) -> Tensor:
            return model.scale_ * model.encode(x).dense()

        return Learned(model.phi_, encode, model.phi_, model.active_groups_)

    return method


def with_auxiliary_loss(x: Tensor, seed: int, scale: Scale) -> Learned:
    """Train the module of `BlockFeatures` with the auxiliary loss, which the package does not have."""
    generator = torch.Generator().manual_seed(seed)
    model = WithAuxiliaryLoss(LENGTH, n_groups=256, group_size=4, active=ACTIVE, seed=seed).to(x.device)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=scale.steps)
    size = torch.linalg.vector_norm(x, dim=1).mean() / LENGTH**0.5
    training = FeatureTraining(model, scheduler=schedule)
    for step in range(scale.steps):
        rows = torch.randint(len(x), (512,), generator=generator)
        training.step(x[rows.to(x.device)] / size, revive=step < 0.75 * scale.steps)
    return Learned(model.phi, lambda part: size * model.encode_all(part / size).dense(), model.phi, ACTIVE)


def factor_analyzers(x: Tensor, seed: int, scale: Scale) -> Learned:
    """Fit additive factor analysers, to some of the samples; their codes are posterior means."""
    model = AdditiveFactorAnalyzers(256, 4, active=ACTIVE, random_state=seed).fit(x[: scale.factor_samples])
    used = torch.as_tensor(model.variances_ > 0).to(x)  # directions without variance are arbitrary
    shape = model.phi_.shape[1:]

    def encode(x: Tensor) -> Tensor:
        return strongest_groups(model.transform(x).unflatten(1, shape), 4 * ACTIVE)

    return Learned(model.phi_ * used, encode, model.phi_ * used, ACTIVE)


METHODS: dict[str, Method] = {
    **{f"TopK SAE, {k} of 1024": autoencoder(lambda g, k=k: TopKAutoencoder(LENGTH, 1024, k, g)) for k in (8, 16, 32)},
    "vanilla": autoencoder(lambda g: Vanilla(LENGTH, 256, 4, ACTIVE, g)),
    "vanilla, AuxK": autoencoder(lambda g: Vanilla(LENGTH, 256, 4, ACTIVE, g), aux=True),
    "Grassmannian, QR": autoencoder(lambda g: Grassmannian(LENGTH, 256, 4, ACTIVE, g)),
    **{
        f"group lasso, λ = {lam:g}": autoencoder(lambda g, lam=lam: GroupLasso(LENGTH, 256, 4, ACTIVE, g, lam=lam))
        for lam in (0.1, 1.0, 4.0)
    },
    "mixture of factor analysers": mixture,
    "linear, topk": ours(),
    "linear, topk, AuxK": with_auxiliary_loss,
    "linear, topk, no revival": ours(patience=None),
    "linear, batch_topk": ours(select="batch_topk"),
    "linear, threshold": ours(select="threshold"),
    "linear, soft": ours(select="soft"),
    "linear, fdr": ours(select="fdr"),
    "linear, topk, beta=1": ours(beta=1.0),
    "tied, topk": ours(encoder="tied"),
    "iterative, topk": ours(encoder="iterative"),
    "additive factor analysers": factor_analyzers,
    "group lasso, size 16": autoencoder(lambda g: GroupLasso(LENGTH, 64, 16, ACTIVE, g)),
    "vanilla, size 16": autoencoder(lambda g: Vanilla(LENGTH, 64, 16, ACTIVE, g)),
    "Grassmannian, QR, size 16": autoencoder(lambda g: Grassmannian(LENGTH, 64, 16, ACTIVE, g)),
    "linear, soft, size 16, no penalty": ours(n_groups=64, group_size=16, select="soft", beta=0.0),
    "linear, soft, size 16": ours(n_groups=64, group_size=16, select="soft"),
    "linear, topk, size 16": ours(n_groups=64, group_size=16),
}


def in_parts(encode: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([encode(part) for part in x.split(2048)])


def measure(name: str, data: ManifoldSum, x: Tensor, held_out: ManifoldSamples, seed: int, *, scale: Scale) -> Outcome:
    """Train one method and measure it on held-out samples, on their device."""
    learned = METHODS[name](x, seed, scale)
    true_phi = data.phi.to(x.device)
    size = LENGTH**0.5
    test = size * held_out.x
    codes = in_parts(learned.encode, test)
    phi = learned.phi
    if phi.shape[2] == 1:
        r2 = directional_recovery(codes[..., 0] / size, phi[:, :, 0].mT, data, held_out)
    else:
        r2 = block_recovery(phi, codes / size, true_phi, held_out.codes, held_out.active).r2
    straight = torch.tensor([kind == "segment" for kind in data.kinds], device=r2.device)
    used = codes.any(dim=2)
    result = Outcome(
        method=name,
        seed=seed,
        quick=scale is QUICK,
        r2=float(r2.mean()),
        concepts=float(r2[straight].mean()),
        curved=float(r2[~straight].mean()),
        unexplained=unexplained(test, phi, codes),
        train_active=learned.train_active,
        active=float(used.float().sum(dim=1).mean()),
        dead=int((~used.any(dim=0)).sum()),
        groups=phi.shape[1],
        utilisation=utilisation(codes[:20_000], phi) if phi.shape[2] > 1 else float("nan"),
        decoded_r2=math.nan,
        decoded_unexplained=math.nan,
        machine=machine_of(x.device),
        version=commit(),
    )
    del codes, used
    frames = learned.frames
    if frames is None:
        return result
    codes = in_parts(lambda part: block_omp(part, frames, active=ACTIVE).codes, test)
    decoded = block_recovery(frames, codes / size, true_phi, held_out.codes, held_out.active).r2
    share = unexplained(test, frames, codes)
    return replace(result, decoded_r2=float(decoded.mean()), decoded_unexplained=share)


def unexplained(x: Tensor, phi: Tensor, codes: Tensor) -> float:
    rows = phi.flatten(1).mT
    error = sum(
        float((part - code.flatten(1) @ rows).double().square().sum())
        for part, code in zip(x.split(4096), codes.split(4096), strict=True)
    )
    return error / float(x.double().square().sum())


def draw(data: ManifoldSum, count: int, seed: int) -> Tensor:
    """Draw scaled samples in parts, because the codes of their factors need three times their memory."""
    parts = [data.draw(min(PART, count - i), seed=seed + i).x for i in range(0, count, PART)]
    return LENGTH**0.5 * torch.cat(parts)


def read(path: Path) -> list[Outcome]:
    if not path.exists():
        return []
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def moved(samples: ManifoldSamples, device: str) -> ManifoldSamples:
    return ManifoldSamples(samples.x.to(device), samples.active.to(device), samples.codes.to(device))


def machine_of(device: torch.device) -> str:
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}" if device.type == "cuda" else machine()


def pooled(outcomes: list[Outcome], key: str) -> tuple[float, float]:
    """Return the mean and the standard deviation over all seeds of one method."""
    counts = [outcome.seeds for outcome in outcomes]
    means = [getattr(outcome, key) for outcome in outcomes]
    inner = [outcome.deviations.get(key, 0.0) for outcome in outcomes]
    count = sum(counts)
    average = sum(n * value for n, value in zip(counts, means, strict=True)) / count
    squares = sum(
        n * (value - average) ** 2 + (n - 1) * sd**2 for n, value, sd in zip(counts, means, inner, strict=True)
    )
    return average, math.sqrt(squares / (count - 1)) if count > 1 else math.nan


def tables(outcomes: list[Outcome], times: dict[str, float]) -> str:
    """Format all results."""
    rows: list[list[str]] = []
    for name in [name for name in METHODS if any(outcome.method == name for outcome in outcomes)]:
        same = [outcome for outcome in outcomes if outcome.method == name]

        def column(key: str, digits: int = 3, same: list[Outcome] = same) -> str:
            average, deviation = pooled(same, key)
            if math.isnan(average):
                return ""
            return f"{average:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")

        def percent(key: str, same: list[Outcome] = same) -> str:
            average, _ = pooled(same, key)
            return "" if math.isnan(average) else f"{100 * average:.2g} %"

        rows.append(
            [
                name,
                str(sum(outcome.seeds for outcome in same)),
                PAPER.get(name, ""),
                column("r2"),
                column("concepts"),
                column("curved"),
                percent("unexplained"),
                column("decoded_r2"),
                percent("decoded_unexplained"),
                f"{times[name]:.0f} s" if name in times else "",
                f"{pooled(same, 'dead')[0]:.0f} of {same[0].groups}",
                column("train_active", 2),
                column("active", 2),
                column("utilisation", 2),
            ]
        )
    header = (
        "method", "seeds", "R² in the paper", "R² in one pass", "concepts", "curved", "unexplained", "R² decoded",
        "unexplained, decoded", "training", "dead groups", "active in training", "active in use", "dimensions used",
    )  # fmt: skip
    return table(header, rows)


def read_times(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": "", "seconds": {}}


def measure_times(path: Path, methods: list[str]) -> None:
    """Measure the seconds of training, and keep them."""
    x = draw(ManifoldSum(LENGTH, active=ACTIVE, seed=0), Scale.samples, 1_000_000)
    kept = read_times(path)
    METHODS[methods[0]](x, 0, QUICK)  # compiles and caches
    for method in methods:
        whole = method in WHOLE
        start = time.perf_counter()
        METHODS[method](x, 0, Scale() if whole else TIMING)
        kept["seconds"][method] = (time.perf_counter() - start) * (1 if whole else PARTS)
        print(f"{method}: {kept['seconds'][method]:.0f} s", flush=True)
        kept["machine"] = machine()
        replace_file(path, (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode())


def page(outcomes: list[Outcome], scale: Scale, times: dict[str, Any]) -> str:
    """Write the page with all results."""
    machines = "; ".join(dict.fromkeys(outcome.machine for outcome in outcomes))
    samples = f"{scale.samples:,} samples to learn from, {scale.held_out:,} held out"
    training = (
        f" Training on {times['machine']}, extrapolated from a twentieth of the steps." if times["seconds"] else ""
    )
    return (
        f"Measured on {machines}; {samples}; means and standard deviations over seeds.{training}\n\n"
        f"{tables(outcomes, times['seconds'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="NAME", help="some of the methods")
    parser.add_argument("--quick", action="store_true", help="one seed, few samples, short training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--times", action="store_true", help="measure the time of training alone, on an idle machine")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scale = QUICK if options.quick else Scale()
    name = "features-quick" if options.quick else "features"
    path: Path = options.results / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    times_path: Path = options.results / "features_times.json"
    if options.times:
        measure_times(times_path, options.only or list(METHODS))
    times = {"seconds": {}} if options.quick else read_times(times_path)
    outcomes = read(path)
    done = {(outcome.method, outcome.seed + i) for outcome in outcomes for i in range(outcome.seeds)}
    seeds = 0 if options.times else 1 if options.quick else options.seeds
    for seed in range(options.first, options.first + seeds):
        wanted = [method for method in (options.only or METHODS) if (method, seed) not in done]
        if not wanted:
            continue
        data = ManifoldSum(LENGTH, active=ACTIVE, seed=seed)
        x = draw(data, scale.samples, 1_000_000 * (seed + 1)).to(options.device)
        held_out = moved(data.draw(scale.held_out, seed=500_000 + seed), options.device)
        for method in wanted:
            outcome = measure(method, data, x, held_out, seed, scale=scale)
            outcomes.append(outcome)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            print(
                f"seed {seed}, {method}: R² {outcome.r2:.3f}, decoded {outcome.decoded_r2:.3f}, "
                f"{outcome.active:.2f} active, {outcome.dead} dead",
                flush=True,
            )
            write(f"{name}.md", page(outcomes, scale, times), options.results)
    write(f"{name}.md", page(outcomes, scale, times), options.results)


if __name__ == "__main__":
    main()
