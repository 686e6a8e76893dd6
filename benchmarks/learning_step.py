"""Measure the cost of the decoupled orthogonality step within a dictionary learning step.

    python benchmarks/learning_step.py

writes benchmarks/results/learning_step.md; it takes about a minute on an otherwise idle machine.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from record import machine, table, write

import gramian
from gramian.coding import Learner, LearningOptions, initial_dictionary
from gramian.penalties import L1
from gramian.rules import proximal

SIZES = ((256, 128, 2), (256, 64, 4), (256, 192, 4), (256, 32, 8))
BATCH, ITERATIONS, ROUNDS = 128, 10, 60
LAM, LR, BETA = 2.0, 0.3, 0.3


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(length: int, m: int, n: int) -> list[str]:
    """Time both steps in turn, so that a disturbance affects both."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, length, generator=generator)
    options = LearningOptions(lam=LAM, beta=BETA, iterations=ITERATIONS)
    learner = Learner(initial_dictionary(length, m, n, seed=0), options)
    for _ in range(20):  # warm up, and reach a dictionary in the middle of learning
        learner.step(x, lr=LR)
    phi = learner.phi
    stepped = phi.clone()
    gramian.step_(stepped, lr=LR, beta=BETA)
    expected = phi + proximal(phi, lr=LR, beta=BETA, penalty=L1()).change
    torch.testing.assert_close(stepped, expected)

    whole: list[float] = []
    orthogonality: list[float] = []
    for _ in range(ROUNDS):
        whole.append(seconds(lambda: Learner(phi, options).step(x, lr=LR)))
        stepped = phi.clone()
        orthogonality.append(seconds(lambda stepped=stepped: gramian.step_(stepped, lr=LR, beta=BETA)))
    ratio = median(part / total for part, total in zip(orthogonality, whole, strict=True))
    return [
        f"{length}, {m}, {n}",
        f"{1e3 * median(whole):.1f} ms",
        f"{1e3 * median(orthogonality):.2f} ms",
        f"{100 * ratio:.1f} %",
    ]


def main() -> None:
    text = (
        table(["l, m, n", "learning step", "orthogonality step", "share"], [row(*size) for size in SIZES])
        + f"\nBatch {BATCH}, {ITERATIONS} iterations of FISTA, float32; medians of {ROUNDS} interleaved rounds.\n\n"
        f"Measured by `python benchmarks/learning_step.py` on {machine()}.\n"
    )
    write("learning_step.md", text)


if __name__ == "__main__":
    main()
