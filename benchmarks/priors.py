"""Compare priors on image patches: SNR at equal coefficients, for single atoms, pairs and groups of four.

    python benchmarks/priors.py [--steps 1000]

Each prior learns 256 atoms from the same patches, with λ adapted so that 16 coefficients are active on average; then
held-out patches are encoded. It writes benchmarks/results/priors.md; about ten minutes on an otherwise idle machine.
"""

import argparse
from statistics import mean

from inference import spread
from record import machine, table, write

from gramian.coding import (
    METHODS,
    Learner,
    LearningOptions,
    SpikeSlab,
    as_prior,
    block_omp,
    cosine_decay,
    reconstruct,
    refit,
    snr,
    strongest_groups,
)
from gramian.coding.learning.calibration import calibrated_lam
from gramian.images.run import LearningRun, RunSettings

ATOMS, ACTIVE, BATCH, SEEDS = 256, 16, 128, (0, 1, 2)
PRIORS = {
    "group_laplace": "group_laplace",
    "scale_mixture": "scale_mixture",
    "group_l0": "group_l0",
    "spike_slab": SpikeSlab(scale=4.0),
}


def quality(prior_name: str, n: int, seed: int, steps: int) -> list[float]:
    """Learn, and return SNR and mean number of active coefficients, in several ways of coding."""
    run = LearningRun(RunSettings(groups=ATOMS // n, size=n, seed=seed, batch=BATCH))
    prior = as_prior(PRIORS[prior_name])
    target = ACTIVE / n
    learner = Learner(run.initial_phi, LearningOptions(prior=prior, lam=2.0, target_active=target))
    for step in range(steps):
        learner.step(run.train.sample(BATCH, seed=seed, step=step), lr=cosine_decay(0.5, step, steps))
    x, phi, infer = run.held_out_patches(2048), learner.phi, METHODS["auto"]
    lam = calibrated_lam(x, phi, lam=learner.lam, prior=prior, infer=infer, target=target, max_iter=1000, tol=1e-3)
    codes = infer(x, phi, lam=lam, prior=prior, max_iter=1000, tol=1e-3).codes
    strongest = strongest_groups(codes, ACTIVE)
    greedy = block_omp(x, phi, active=ACTIVE // n).codes
    return [
        float((codes != 0).flatten(1).sum(dim=1).double().mean()),
        *(snr(x, reconstruct(phi, each)) for each in (codes, refit(x, phi, codes), refit(x, phi, strongest), greedy)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    rows = []
    for n in (1, 2, 4):
        for name in PRIORS:
            columns = list(zip(*(quality(name, n, seed, options.steps) for seed in SEEDS), strict=True))
            rows.append([str(n), name, f"{mean(columns[0]):.1f}", *(spread(column, 2) for column in columns[1:])])
            print(rows[-1], flush=True)
    header = (
        "n", "prior", "active coefficients", "as inferred, dB", "after refit, dB",
        f"{ACTIVE} strongest after refit, dB", f"block_omp with {ACTIVE}, dB",
    )  # fmt: skip
    write(
        "priors.md",
        f"Measured on {machine()}; {ATOMS} atoms of 16 × 16 pixels, {options.steps} steps of {BATCH} patches, held-out "
        f"patches; means and standard deviations of {len(SEEDS)} seeds. λ is adapted until {ACTIVE} coefficients are "
        f"active on average.\n\n{table(header, rows)}",
    )


if __name__ == "__main__":
    main()
