"""Count the steps of each update rule, and measure its last residual, from random starts and from starts far away.

    python benchmarks/update_rules.py

writes benchmarks/results/update_rules.md; it takes a few minutes.
"""

import math
from collections.abc import Callable
from statistics import median

import torch
from record import machine, table, write
from torch import Tensor

from gramian import residual
from gramian.kernels import reference
from gramian.orthogonalize import rounding_level
from gramian.penalties import L1, Penalty
from gramian.rules import Rule, Step, polyak, proximal, subgradient
from gramian.typing import Phi

SEEDS = range(5)
SHAPES = ((256, 192, 4), (256, 16, 64), (512, 1, 512))
RULES: tuple[tuple[str, Rule, float], ...] = (
    ("subgradient, η = 0.01", subgradient, 0.01),
    ("polyak", polyak, math.inf),
    ("proximal, τ = 0.1", proximal, 0.025),
    ("proximal, τ = 1", proximal, 0.25),
)
LIMIT = 4000


def scaled_prox_residual(phi: Phi, *, lr: float, beta: float, penalty: Penalty) -> Step:
    """Compute a proximal step whose bound is applied to C: P ← P − ½PC·min(1, 1/‖C‖₂), with the exact norm."""
    X = reference.residual(phi)
    C = penalty.prox_residual(X, torch.tensor(4 * lr * beta, dtype=X.dtype))
    norm = torch.linalg.matrix_norm(C, 2)
    S = 0.5 * C * (1 / norm.clamp_min(1))[:, None, None]
    return Step(-reference.apply(phi, S), beta * penalty.value(X).sum())


def gaussian(seed: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw entries of variance 1/l, so that columns have about unit length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype) / math.sqrt(shape[0])


def conditioned(seed: int, shape: tuple[int, int, int], condition: float) -> Tensor:
    """Draw matrices with singular values from 1 to 1/condition, evenly spaced in the logarithm."""
    length, m, n = shape
    generator = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(m, length, n, generator=generator, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(m, n, n, generator=generator, dtype=torch.float64))[0]
    sigma = torch.logspace(0, -math.log10(condition), n, dtype=torch.float64)
    return ((U * sigma) @ V.mT).permute(1, 0, 2).contiguous()


def mixed_columns(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Draw columns with lengths from 1e-3 to 1e3."""
    return gaussian(seed, shape, torch.float64) * torch.logspace(-3, 3, shape[2], dtype=torch.float64)


def iterate(phi: Phi, rule: Rule, lr: float, target: float, limit: int) -> tuple[int | None, Phi]:
    """Step until the largest |X_jk| is at most the target; return the number of steps, None if too many, and Φ."""
    for step in range(limit + 1):
        if float(residual(phi).abs().max()) <= target:
            return step, phi
        if step < limit:
            phi = phi + rule(phi, lr=lr, beta=1.0, penalty=L1()).change
    return None, phi


def random_starts() -> str:
    """Compare the three rules from Gaussian starts in float32."""
    checkpoints = (5, 10, 40, 200)
    rows: list[list[str]] = []
    for shape in SHAPES:
        for name, rule, lr in RULES:
            remaining: dict[int, list[float]] = {steps: [] for steps in checkpoints}
            means: list[float] = []
            counts_to_rounding: list[float] = []
            for seed in SEEDS:
                phi = gaussian(seed, shape)
                for step in range(1, max(checkpoints) + 1):
                    phi = phi + rule(phi, lr=lr, beta=1.0, penalty=L1()).change
                    if step in remaining:
                        remaining[step].append(float(residual(phi).abs().max()))
                means.append(float(residual(phi).abs().mean()))
                steps, _ = iterate(gaussian(seed, shape), rule, lr, rounding_level(torch.float32), 1000)
                counts_to_rounding.append(math.inf if steps is None else steps)
            rows.append(
                [
                    ", ".join(map(str, shape)),
                    name,
                    *(f"{median(remaining[steps]):.0e}" for steps in checkpoints),
                    f"{median(means):.0e}",
                    "never"
                    if max(counts_to_rounding) == math.inf
                    else f"{min(counts_to_rounding):.0f}–{max(counts_to_rounding):.0f}",
                ]
            )
    header = ["l, m, n", "rule", *(f"after {steps}" for steps in checkpoints), "mean after 200", "steps to rounding"]
    return table(header, rows)


def far_starts() -> str:
    """Compare the two bounds of the proximal rule from starts far from the manifold, in float64."""
    starts: dict[str, Callable[[int], Tensor]] = {
        "256 × 64, random": lambda seed: gaussian(seed, (256, 1, 64), torch.float64),
        "256 × 64, entries of size 1e-4": lambda seed: 16e-4 * gaussian(seed, (256, 1, 64), torch.float64),
        "256 × 64, entries of size 1e4": lambda seed: 16e4 * gaussian(seed, (256, 1, 64), torch.float64),
        "128 × 128, random": lambda seed: gaussian(seed, (128, 1, 128), torch.float64),
        "128 × 128, entries of size 1e4": lambda seed: 1.1e5 * gaussian(seed, (128, 1, 128), torch.float64),
        "256 × 64, condition 1e6": lambda seed: conditioned(seed, (256, 1, 64), 1e6),
        "256 × 64, columns from 1e-3 to 1e3": lambda seed: mixed_columns(seed, (256, 1, 64)),
    }
    rules: tuple[tuple[Rule, float], ...] = (
        (scaled_prox_residual, 0.25),
        (proximal, 0.25),
        (scaled_prox_residual, 0.025),
        (proximal, 0.025),
    )
    rows: list[list[str]] = []
    for name, start in starts.items():
        cells: list[str] = []
        for rule, lr in rules:
            counts = [iterate(start(seed), rule, lr, 1e-12, LIMIT)[0] for seed in SEEDS]
            reached = [count for count in counts if count is not None]
            if len(reached) < len(counts):
                cells.append(f"more than {LIMIT}")
            else:
                low, high = min(reached), max(reached)
                cells.append(f"{low}" if low == high else f"{low}–{high}")
        rows.append([name, *cells])
    header = ["start", "τ = 1: C·min(1, 1/‖C‖₂)", "τ = 1: ours", "τ = 0.1: C·min(1, 1/‖C‖₂)", "τ = 0.1: ours"]
    return table(header, rows)


def main() -> None:
    text = (
        f"{random_starts()}\n"
        f"Largest remaining |X_jk|, median of {len(SEEDS)} seeds; l1, β = 1, τ = 4ηβ; float32, Gaussian starts with "
        f"columns of about unit length. Rounding: largest |X_jk| ≤ {rounding_level(torch.float32):.1e}; up to 1000 "
        "steps.\n\n"
        f"{far_starts()}\n"
        f"Steps to a largest |X_jk| of 1e-12 in float64, least and most of {len(SEEDS)} seeds.\n\n"
        f"Measured by `python benchmarks/update_rules.py` on {machine()}.\n"
    )
    write("update_rules.md", text)


if __name__ == "__main__":
    main()
