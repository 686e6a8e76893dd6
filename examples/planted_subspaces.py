"""Measure whether learning recovers planted subspaces: with penalties, priors and factor analysers, at their best λ.

    python examples/planted_subspaces.py [--methods penalties | priors] [--workers 2] [--kept FILE]

Samples are drawn from the model: 24 random subspaces of 4 of 64 dimensions, some of which are active in a sample, in
random directions, and noise. From random starts, dictionaries of as many groups are learned from fresh samples, with
the group Laplace prior and penalties of several weights, with group ℓ0 and with spike and slab; additive factor
analysers learn from the same samples. Writes a table and the recovery over λ into docs/measured. One to two hours on 2
cores. With `--kept`, every result is appended to a file, and a run that was interrupted continues from it.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import torch
from evidence import options, spread, write_table
from matplotlib.figure import Figure
from rich.progress import track
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import gramian
from gramian.coding import (
    AdditiveFactorAnalyzers,
    Learner,
    LearningOptions,
    Prior,
    SpikeSlab,
    cosine_decay,
    group_state,
    initial_dictionary,
    reconstruct,
)
from gramian.penalties import Penalty
from gramian.rules import Rule, Step, proximal
from gramian.typing import Phi

LENGTH, GROUPS, SIZE, BATCH, LR, NEAR = 64, 24, 4, 64, 2.0, 15.0
ENOUGH = 30_000
"""Samples for the factor analysers, which see them several times."""
SPARSITIES = (1.0, 1.5, 2.0, 3.0, 4.0)
PRICED = (3.0, 4.0, 5.0)
"""λ of the priors with a price for every active group; smaller and larger ones recover less."""


@dataclass(frozen=True)
class Condition:
    """The distribution of samples: active groups, and the ratio of noise to signal, as standard deviations."""

    active: int
    noise: float


def hard(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:  # noqa: ARG001
    """Make groups orthonormal in one step, the hard constraint: the proximal rule at an infinite learning rate."""
    return proximal(phi, lr=math.inf, beta=beta, penalty=penalty)


@dataclass(frozen=True)
class Variant:
    """A way to learn: a penalty and a prior; without a prior, additive factor analysers."""

    name: str
    rule: str | Rule | None
    beta: float
    colour: str
    prior: str | Prior | None = "group_laplace"

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The λ that are tried; factor analysers need none."""
        if self.prior is None:
            return (math.nan,)
        return SPARSITIES if self.prior == "group_laplace" else PRICED

    def price(self, lam: float) -> float:
        """Convert λ to the price of a group that enters, as with group Laplace, where ‖Φ_iᵀx‖ is above λ."""
        return lam if self.prior == "group_laplace" else lam**2 / 2


CONDITIONS = (Condition(3, 0.1), Condition(3, 0.3), Condition(3, 1.0), Condition(1, 0.3), Condition(8, 0.3))
PENALTIES = (
    Variant("none", None, 0.0, "#c0392b"),
    Variant("β = 0.03", "proximal", 0.03, "#e0a030"),
    Variant("β = 0.3", "proximal", 0.3, "#2563a8"),
    Variant("β = ∞", hard, 1.0, "#777777"),
)
PRIORS = (
    Variant("group ℓ0, β = 0.3", "proximal", 0.3, "#27865a", "group_l0"),
    Variant("spike and slab, β = 0.3", "proximal", 0.3, "#8a4fa3", SpikeSlab(scale=4.0)),
    Variant("factor analysers", None, 0.0, "#000000", None),
)
METHODS = {"penalties": PENALTIES, "priors": PRIORS}
NOTES = {
    "penalties": "β = ∞ makes the groups orthonormal after each gradient step.",
    "priors": f"The cost of an active group is λ²/2. Factor analysers fit {ENOUGH:,} samples, and are told how many "
    "groups are active for their start.",
}


@dataclass(frozen=True)
class Outcome:
    """Measures of one learned dictionary."""

    recovered: float
    """Share of subspaces within `NEAR` degrees, by the largest of the four principal angles."""
    angle: float
    """Median over subspaces of the largest principal angle, in degrees."""
    collapsed: float
    """Share of learned groups with two atoms of |cos| > 0.5."""


@dataclass(frozen=True)
class Job:
    """One dictionary to learn."""

    condition: Condition
    variant: Variant
    lam: float
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """What identifies the job in a file."""
        condition = f"{self.condition.active} active, noise {self.condition.noise:g}"
        return f"{condition}; {self.variant.name}; lam {self.lam:g}; seed {self.seed}; {self.steps} steps"


def draw(truth: Phi, condition: Condition, count: int, generator: torch.Generator) -> Tensor:
    """Draw samples of unit variance: the direction in a subspace is uniform, the amplitude Gamma, as in the prior."""
    m, n = truth.shape[1:]
    chosen = torch.rand(count, m, generator=generator).topk(condition.active, dim=1).indices
    directions = torch.randn(count, m, n, generator=generator)
    directions /= torch.linalg.vector_norm(directions, dim=2, keepdim=True)
    # The density exp(−λ‖a‖) in n dimensions gives ‖a‖ a Gamma law of shape n: a sum of n exponentials.
    amplitudes = -(1 - torch.rand(count, m, n, generator=generator)).log().sum(dim=2)
    active = torch.zeros(count, m).scatter_(1, chosen, 1.0)
    signal = reconstruct(truth, directions * (active * amplitudes)[..., None])
    signal *= math.sqrt(truth.shape[0] / (condition.active * n * (n + 1)))
    noise = condition.noise * torch.randn(signal.shape, generator=generator)
    return (signal + noise) / math.hypot(1, condition.noise)


def principal_angles(truth: Phi, learned: Phi) -> Tensor:
    """Match every true subspace with a learned one and give their principal angles, in degrees, [m, n].

    The matching maximises the sum of squared cosines. The span of a group is that of its singular vectors, even if its
    atoms are nearly parallel.
    """
    U, V = (torch.linalg.svd(phi.permute(1, 0, 2).double(), full_matrices=False).U for phi in (truth, learned))
    cosines = torch.linalg.svdvals(U[:, None].mT @ V[None]).clamp_max(1)
    rows, columns = linear_sum_assignment(-cosines.square().sum(dim=2).numpy())
    return torch.rad2deg(torch.acos(cosines[rows, columns]))


def learn(samples: Tensor, job: Job) -> Phi:
    variant = job.variant
    assert variant.prior is not None
    options = LearningOptions(
        prior=variant.prior,
        lam=variant.price(job.lam),
        beta=variant.beta,
        rule=variant.rule,
        iterations=20,
        patience=None,
    )
    learner = Learner(initial_dictionary(LENGTH, GROUPS, SIZE, seed=job.seed), options)
    for step, x in enumerate(samples.split(BATCH)):
        learner.step(x, lr=cosine_decay(LR, step, job.steps))
    return learner.phi


def run(job: Job) -> Outcome:
    truth = gramian.orthogonalize(initial_dictionary(LENGTH, GROUPS, SIZE, seed=1000 + job.seed)).phi
    generator = torch.Generator().manual_seed(job.seed)
    samples = draw(truth, job.condition, job.steps * BATCH, generator)
    if job.variant.prior is None:
        model = AdditiveFactorAnalyzers(GROUPS, SIZE, active=job.condition.active, random_state=job.seed)
        phi = model.fit(samples[:ENOUGH]).phi_
    else:
        phi = learn(samples, job)
    largest = principal_angles(truth, phi).amax(dim=1)
    return Outcome(
        recovered=(largest < NEAR).double().mean().item(),
        angle=largest.median().item(),
        collapsed=group_state(phi).collapsed,
    )


Outcomes = dict[tuple[Condition, Variant, float], list[Outcome]]


def best_sparsity(outcomes: Outcomes, condition: Condition, variant: Variant, without: int) -> float:
    """Return the λ with the most recovered subspaces (then: the smallest angle) over all seeds except one."""

    def merit(lam: float) -> tuple[float, float]:
        others = [each for seed, each in enumerate(outcomes[condition, variant, lam]) if seed != without]
        others = others or outcomes[condition, variant, lam]
        return mean(each.recovered for each in others), -mean(each.angle for each in others)

    return max(variant.sparsities, key=merit)


def row(outcomes: Outcomes, condition: Condition, variant: Variant, seeds: int) -> list[str]:
    chosen = [best_sparsity(outcomes, condition, variant, seed) for seed in range(seeds)]
    at_best = [outcomes[condition, variant, lam][seed] for seed, lam in enumerate(chosen)]
    means = [mean(each.recovered for each in outcomes[condition, variant, lam]) for lam in variant.sparsities]
    return [
        str(condition.active),
        f"{condition.noise:g}",
        variant.name,
        ", ".join(f"{lam:g}" for lam in sorted(set(chosen))) if variant.prior else "",
        spread([100 * each.recovered for each in at_best], ".0f") + " %",
        spread([each.angle for each in at_best], ".1f") + "°",
        spread([100 * each.collapsed for each in at_best], ".0f") + " %",
        f"{100 * mean(means):.0f} %",
    ]


def picture(outcomes: Outcomes, variants: Sequence[Variant]) -> Figure:
    drawing = Figure(figsize=(12, 2.9), layout="constrained", dpi=110)
    axes = drawing.subplots(1, len(CONDITIONS), sharey=True)
    for axis, condition in zip(axes, CONDITIONS, strict=True):
        for variant in variants:
            lines = [[100 * each.recovered for each in outcomes[condition, variant, lam]] for lam in variant.sparsities]
            x = variant.sparsities if variant.prior else variants[0].sparsities  # without λ: a level line
            lines *= len(x) // len(lines)
            axis.plot(x, [mean(line) for line in lines], marker="o", ms=3, color=variant.colour, label=variant.name)
            axis.fill_between(x, *zip(*((min(line), max(line)) for line in lines), strict=True),
                              color=variant.colour, alpha=0.12, linewidth=0)  # fmt: skip
        axis.set(xlabel="λ", title=f"{condition.active} active, noise {condition.noise:g}", ylim=(-4, 104))
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("subspaces recovered, %")
    axes[0].legend(fontsize=8)
    return drawing


def run_all(jobs: Sequence[Job], workers: int, kept: Path | None) -> list[Outcome]:
    """Learn every dictionary; those in the file `kept` are not learned again."""
    lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.exists() else []
    known = {name: Outcome(**outcome) for name, outcome in map(json.loads, lines)}
    missing = sorted((job for job in jobs if job.name not in known), key=lambda job: job.seed)
    # Threads do not speed up such small matrices: run one process for each core, with one thread.
    with get_context("spawn").Pool(workers, torch.set_num_threads, (1,)) as pool:
        for job, outcome in zip(missing, track(pool.imap(run, missing), "learning", total=len(missing)), strict=True):
            known[job.name] = outcome
            if kept:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([job.name, asdict(outcome)]) + "\n")
    return [known[job.name] for job in jobs]


def compare(methods: str, chosen: argparse.Namespace) -> None:
    """Learn with some of the methods, and write their table and their picture."""
    variants = METHODS[methods]
    kinds = [(*kind, lam) for kind in product(CONDITIONS, variants) for lam in kind[1].sparsities]
    jobs = [Job(*kind, seed, chosen.steps) for kind in kinds for seed in range(chosen.seeds)]
    results = run_all(jobs, chosen.workers, chosen.kept)
    outcomes = {kind: results[place * chosen.seeds :][: chosen.seeds] for place, kind in enumerate(kinds)}
    rows = [row(outcomes, condition, variant, chosen.seeds) for condition, variant in product(CONDITIONS, variants)]
    header = ("active groups", "noise", "method", "its best λ", "subspaces recovered", "largest angle, median",
              "groups collapsed", "recovered, mean over all λ")  # fmt: skip
    note = (
        f"{GROUPS} subspaces of {SIZE} of {LENGTH} dimensions, {chosen.steps} steps of {BATCH} fresh samples of unit "
        f"variance, lr {LR:g} falling to 0 along half a cosine; noise over signal as standard deviations; mean ± "
        f"standard deviation of {chosen.seeds} seeds. Recovered: the largest of the {SIZE} principal angles to the "
        f"matched group is below {NEAR:g}°. Collapsed: two atoms of a group with |cos| > 0.5. Each method has its own "
        f"λ of {', '.join(f'{lam:g}' for lam in variants[0].sparsities)}: for each seed the one that recovered most on "
        f"the other seeds. {NOTES[methods]}"
    )
    part = "" if methods == "penalties" else methods
    write_table("planted_subspaces", chosen.out, header, rows, note, part=part)
    picture(outcomes, variants).savefig(chosen.out / f"planted_subspaces{part and '_'}{part}.png")


def main() -> None:
    chosen = options(
        __doc__, paths=("kept",), choices={"methods": tuple(METHODS)}, steps=1000, workers=os.cpu_count() or 1
    )
    for methods in [chosen.methods] if chosen.methods else METHODS:
        compare(methods, chosen)


if __name__ == "__main__":
    main()
