"""Compare learning of groups of atoms without a penalty and with five penalties or rules.

    python examples/penalty_comparison.py

learns 256 atoms from natural images, single and in groups of 2 and of 4, and writes penalty_comparison.md and
penalty_comparison.png into docs/measured. It takes about 15 s for each row and seed on 2 cores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from evidence import options, spread, write_table
from matplotlib.figure import Figure
from rich.progress import track

from gramian.coding import (
    GroupState,
    Learner,
    LearningOptions,
    cosine_decay,
    energy,
    group_state,
    initial_dictionary,
    reconstruct,
    refit,
    snr,
    strongest_groups,
    within_group_cosines,
)
from gramian.coding.inference import fista
from gramian.images.evaluation import Control, phase_response, shift_control
from gramian.images.samples import FourierWhitening, PatchSampler, image_to_patches, shipped_images, split_held_out
from gramian.kernels import reference
from gramian.penalties import Penalty
from gramian.report.pictures import atoms_picture
from gramian.rules import Rule, Step, subgradient
from gramian.typing import Phi

ATOMS, PATCH, LR, BATCH, ITERATIONS, ACTIVE, HELD_OUT = 256, 16, 0.5, 128, 20, 32, 1024
SIZES, SHIFTS = (1, 2, 4), (1, 2)


def polar(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:  # noqa: ARG001
    """Project every group onto its polar factor, the nearest orthonormal one: the hard constraint."""
    P = reference.group_matrices(phi)
    U, _, Vh = torch.linalg.svd(P, full_matrices=False)
    return Step((U @ Vh).permute(1, 0, 2) - phi, beta * penalty.value(reference.residual(phi)).sum())


def unit_subgradient(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
    """Step against the gradient, then scale atoms to unit length: without scaling, a large ηβ diverges."""
    step = subgradient(phi, lr=lr, beta=beta, penalty=penalty)
    moved = phi + step.change
    return Step(moved / torch.linalg.vector_norm(moved, dim=0, keepdim=True) - phi, step.loss)


@dataclass(frozen=True)
class Variant:
    """One method to learn."""

    name: str
    rule: str | Rule | None
    penalty: str = "l1"
    beta: float = 0.3


VARIANTS = (
    Variant("none (unit-length atoms)", None),
    Variant("subgradient, β = 0.3", unit_subgradient),
    Variant("subgradient, β = 3", unit_subgradient, beta=3.0),
    Variant("squared Frobenius, β = 0.3", unit_subgradient, "squared_frobenius"),
    Variant("proximal, β = 0.3", "proximal"),
    Variant("polar projection", polar),
)


def sparsity(size: int) -> float:
    """Return λ = √n: n equal coefficients then have the same cost in a group as in single atoms at λ = 1."""
    return math.sqrt(size)


def variants(size: int) -> tuple[Variant, ...]:
    """Return the methods for groups of a size; for single atoms only the one without a penalty."""
    return VARIANTS if size > 1 else VARIANTS[:1]


class Data:
    """Whitened natural images: patches for training, and of held-out pictures."""

    def __init__(self) -> None:
        split = split_held_out(shipped_images(), min_side=2 * PATCH)
        whitening = FourierWhitening()
        self.train = PatchSampler([whitening.whiten(image.pixels) for image in split.train], size=PATCH)
        held_out = [whitening.whiten(image.pixels) for image in split.held_out]
        sampler = PatchSampler(held_out, size=PATCH, scale=self.train.scale)
        self.held_out = sampler.sample(HELD_OUT, seed=1, step=0)
        self.shifted = [self._grid(held_out, shift) for shift in (0, *SHIFTS)]

    def _grid(self, pictures: Sequence[torch.Tensor], shift: int) -> torch.Tensor:
        windows = [w[:, shift : w.shape[1] - max(SHIFTS) + shift] / self.train.scale for w in pictures]
        patches = torch.cat([image_to_patches(window, size=PATCH, stride=PATCH) for window in windows])
        return patches - patches.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class Outcome:
    """Measures of one learned dictionary."""

    phi: Phi
    halfway: GroupState
    state: GroupState
    energy: float
    snr: float
    debiased: float
    shifts: tuple[Control, ...]
    phase: Control


def learn(data: Data, variant: Variant, size: int, seed: int, steps: int) -> tuple[Phi, GroupState]:
    """Learn a dictionary; return it, and the state of its groups halfway, at half the first learning rate."""
    options = LearningOptions(
        lam=sparsity(size), beta=variant.beta, rule=variant.rule, penalty=variant.penalty, iterations=ITERATIONS,
        patience=None,
    )  # fmt: skip
    learner = Learner(initial_dictionary(PATCH * PATCH, ATOMS // size, size, seed=seed), options)
    halfway = group_state(learner.phi)
    for step in range(steps):
        if step == steps // 2:
            halfway = group_state(learner.phi)
        learner.step(data.train.sample(BATCH, seed=seed, step=step), lr=cosine_decay(LR, step, steps))
    return learner.phi, halfway


def judge(data: Data, phi: Phi, halfway: GroupState) -> Outcome:
    x, lam = data.held_out, sparsity(phi.shape[2])
    codes = fista(x, phi, lam=lam, max_iter=1000, tol=1e-3).codes
    grid = [fista(patches, phi, lam=lam, max_iter=1000, tol=1e-3).codes for patches in data.shifted]
    return Outcome(
        phi=phi,
        halfway=halfway,
        state=group_state(phi),
        energy=float(energy(x, phi, codes, lam).total.mean()),
        snr=snr(x, reconstruct(phi, strongest_groups(codes, ACTIVE))),
        debiased=snr(x, reconstruct(phi, refit(x, phi, strongest_groups(codes, ACTIVE)))),
        shifts=tuple(shift_control(grid[0], moved) for moved in grid[1:]),
        phase=phase_response(phi, lam=lam).variation,
    )


def beside_random(controls: Sequence[Control]) -> str:
    """Return a measure of the groups, and of random groups of the same atoms."""
    of_both = ([each.learned for each in controls], [each.random_groups for each in controls])
    return " / ".join(spread(values, ".2f") for values in of_both)


def row(size: int, variant: Variant, outcomes: Sequence[Outcome]) -> list[str]:
    states = [outcome.state for outcome in outcomes]
    return [
        str(size),
        variant.name,
        f"{mean(state.median_cosine for state in states):.1g} / {max(state.largest_cosine for state in states):.1g}"
        if size > 1
        else "–",
        spread([100 * outcome.halfway.collapsed for outcome in outcomes], ".0f") + " %",
        spread([100 * state.collapsed for state in states], ".0f") + " %",
        spread([state.effective_rank for state in states], ".2f"),
        spread([outcome.energy for outcome in outcomes], ".1f"),
        spread([outcome.snr for outcome in outcomes], ".2f"),
        spread([outcome.debiased for outcome in outcomes], ".2f"),
        *(beside_random([outcome.shifts[place] for outcome in outcomes]) for place in range(len(SHIFTS))),
        beside_random([outcome.phase for outcome in outcomes]),
    ]


HEADER = (
    "n",
    "rule",
    "within-group \\|cos\\|, median / largest",
    "groups > 0.5 halfway",
    "at the end",
    "effective rank",
    "energy",
    f"SNR at {ACTIVE}, dB",
    "after least squares, dB",
    *(f"shift by {shift} pixel{'s' * (shift > 1)}: groups / random groups" for shift in SHIFTS),
    "variation over phase: groups / random groups",
)


def figure(outcomes: dict[tuple[int, str], list[Outcome]]) -> Figure:
    """Draw the within-group cosines of every variant, and the groups without and with the penalty."""
    sizes = sorted({size for size, _ in outcomes} - {1})
    drawing = Figure(figsize=(11, 4.2 * len(sizes)), layout="constrained", dpi=110)
    grid = drawing.subplots(len(sizes), 3, squeeze=False, width_ratios=(1.5, 1, 1))
    for (left, *pictures), size in zip(grid, sizes, strict=True):
        for place, variant in enumerate(VARIANTS):
            phis = [outcome.phi for outcome in outcomes[size, variant.name]]
            cosines = torch.cat([within_group_cosines(phi).amax(dim=1) for phi in phis]).clamp_min(1e-8)
            jitter = torch.linspace(-0.3, 0.3, len(cosines)) + place
            colour = "#c0392b" if variant.rule is None else "#2563a8" if variant.rule == "proximal" else "#777777"
            left.scatter(cosines, jitter, s=5, alpha=0.4, color=colour, linewidths=0)
        left.set_xscale("log")
        left.set_xlim(8e-9, 1.5)
        left.set_yticks(range(len(VARIANTS)), [variant.name for variant in VARIANTS])
        left.invert_yaxis()
        left.set_xlabel("largest |cos| between two atoms of a group, one point a group")
        left.set_title(f"groups of {size}", loc="left", fontweight="bold")
        left.grid(axis="x", alpha=0.3)
        for axis, name in zip(pictures, (VARIANTS[0].name, "proximal, β = 0.3"), strict=True):
            phi = outcomes[size, name][0].phi[:, : 120 // size]
            axis.imshow(atoms_picture(phi, columns=6 if size == 2 else 3), interpolation="nearest")
            axis.set_title(name, fontsize=9)
            axis.axis("off")
    return drawing


def main() -> None:
    chosen = options(__doc__, steps=1000)
    data = Data()
    outcomes: dict[tuple[int, str], list[Outcome]] = {}
    lines = [(size, variant) for size in SIZES for variant in variants(size)]
    jobs = [(size, variant, seed) for size, variant in lines for seed in range(chosen.seeds)]
    for size, variant, seed in track(jobs, "learning"):
        phi, halfway = learn(data, variant, size, seed, chosen.steps)
        outcomes.setdefault((size, variant.name), []).append(judge(data, phi, halfway))

    rows = [row(size, variant, outcomes[size, variant.name]) for size, variant in lines]
    note = (
        f"{ATOMS} atoms of {PATCH} × {PATCH} pixels, λ = √n, {chosen.steps} steps of {BATCH} patches, lr {LR:g} "
        f"falling to 0 along half a cosine; mean ± standard deviation of {chosen.seeds} seeds, on {HELD_OUT} patches "
        "of pictures that learning never saw. A cosine is the largest in its group: the median is the mean over seeds, "
        "the largest that of all seeds. The subgradient rules scale atoms to unit length after each step; without "
        "that, β = 3 goes to infinity within 20 steps."
    )
    write_table("penalty_comparison", chosen.out, HEADER, rows, note)
    figure(outcomes).savefig(chosen.out / "penalty_comparison.png")


if __name__ == "__main__":
    main()
