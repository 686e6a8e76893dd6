"""Count the steps to orthonormal groups for each penalty: by the proximal rule, or by Polyak's for one without a prox.

    python benchmarks/penalties.py

writes benchmarks/results/penalties.md; it takes about two minutes.
"""

import math

import torch
from record import machine, table, write

import gramian
from gramian.penalties import (
    L1,
    Coherence,
    Cosine,
    Frobenius,
    Huber,
    LogDet,
    Penalty,
    Spectral,
    SquaredFrobenius,
    TargetGram,
    Weighted,
)

SEEDS = range(5)
SHAPES = ((64, 4, 16), (256, 1, 64))
TOLERANCE, LIMIT = 1e-9, 2000


def family(n: int) -> list[tuple[str, Penalty, str]]:
    """Return the name, the penalty and the update rule of each row."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(n, n, generator=generator, dtype=torch.float64)
    gram = 0.3 ** (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
    return [
        ("l1", L1(), "proximal"),
        ("huber, δ = 0.1", Huber(), "proximal"),
        ("squared_frobenius", SquaredFrobenius(), "proximal"),
        ("frobenius", Frobenius(), "proximal"),
        ("spectral", Spectral(), "proximal"),
        ("coherence", Coherence(), "proximal"),
        ("logdet", LogDet(), "proximal"),
        ("l1, angles alone", L1(diagonal=False), "proximal"),
        ("squared_frobenius, angles alone", SquaredFrobenius(diagonal=False), "proximal"),
        ("frobenius, angles alone", Frobenius(diagonal=False), "proximal"),
        ("l1 + squared_frobenius", L1() + SquaredFrobenius(), "proximal"),
        ("l1 with weights from 0 to 1", Weighted(L1(), (weights + weights.mT) / 2), "proximal"),
        ("l1 towards a Toeplitz Gram matrix", TargetGram(L1(), gram), "proximal"),
        ("spectral, angles alone", Spectral(diagonal=False), "polyak"),
        ("logdet, angles alone", LogDet(diagonal=False), "polyak"),
        ("cosine form of l1", Cosine(L1()), "polyak"),
        ("cosine form of squared_frobenius", Cosine(SquaredFrobenius()), "polyak"),
    ]


def steps(penalty: Penalty, rule: str, lr: float, shape: tuple[int, int, int]) -> str:
    """Return the number of steps, least and most over the seeds, or the largest remaining |X_jk|."""
    counts: list[int] = []
    remaining: list[float] = []
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        phi = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[0])
        result = gramian.orthogonalize(phi, penalty=penalty, rule=rule, lr=lr, tol=TOLERANCE, max_steps=LIMIT)
        counts.append(result.steps)
        remaining.append(result.residual)
    if max(remaining) > TOLERANCE:
        return f"{max(remaining):.0e} left"
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}–{max(counts)}"


def main() -> None:
    rows: list[list[str]] = []
    for name, _, rule in family(1):
        cells: list[str] = []
        for shape in SHAPES:
            (penalty,) = (each for label, each, _ in family(shape[2]) if label == name)
            if rule == "proximal":
                cells += [steps(penalty, rule, tau / 4, shape) for tau in (0.1, 1.0, math.inf)]
            else:
                cells += ["no prox", "no prox", steps(penalty, rule, math.inf, shape)]
        rows.append([name, rule, *cells])
    header = ["penalty", "rule"] + [
        f"{', '.join(map(str, shape))}: {what}" for shape in SHAPES for what in ("τ = 0.1", "τ = 1", "η = ∞")
    ]
    text = (
        f"{table(header, rows)}\n"
        f"Steps until all entries of X in the penalty are at most {TOLERANCE:g}, least and most of "
        f"{len(SEEDS)} Gaussian starts (l, m, n) in float64, or the largest after {LIMIT}; β = 1, τ = 4η.\n\n"
        f"Measured by `python benchmarks/penalties.py` on {machine()}.\n"
    )
    write("penalties.md", text)


if __name__ == "__main__":
    main()
