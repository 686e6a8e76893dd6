"""Measure which β makes vectors exactly orthonormal: finite for l1, infinite for squared Frobenius.

    python examples/exact_penalty.py

The task f(P) = ‖P − A‖_F has the Lipschitz constant 1: for β > 1 the minimum of f + L with l1 is orthonormal, by the
theorem in docs/penalties.md. The script minimises the sum with both penalties over a range of β, and writes a
table into docs/measured. It takes about a minute.
"""

import torch
from evidence import options, spread, write_table
from torch import Tensor

import gramian

LENGTH, VECTORS, STEPS, FIRST, LAST, ZERO = 16, 8, 4000, 0.1, 1e-7, 1e-6
BETAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
PENALTIES = ("l1", "squared_frobenius")


def minimise(A: Tensor, penalty: str, beta: float) -> Tensor:
    """Minimise ‖P − A‖_F + βμ by alternating steps of the two terms, with a decaying length."""
    P, lr = A.clone(), FIRST
    for _ in range(STEPS):
        difference = P - A
        P -= lr * difference / torch.linalg.vector_norm(difference).clamp_min(1e-12)
        gramian.step_(P, lr=lr, beta=beta, penalty=penalty)
        lr *= (LAST / FIRST) ** (1 / STEPS)
    return P


def main() -> None:
    chosen = options(__doc__)
    starts = [
        0.4 * torch.randn(LENGTH, VECTORS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in range(chosen.seeds)
    ]
    rows = []
    for beta in BETAS:
        row = [f"{beta:g}"]
        for penalty in PENALTIES:
            sizes = [gramian.residual(minimise(A, penalty, beta)).abs() for A in starts]
            row += [
                spread([100 * (each < ZERO).double().mean().item() for each in sizes], ".0f") + " %",
                spread([each.max().item() for each in sizes], ".0e"),
            ]
        rows.append(row)
    header = ["β", *(f"{name}: {what}" for name in PENALTIES for what in ("entries of X at 0", "largest \\|X_jk\\|"))]
    note = (
        f"P of {LENGTH} × {VECTORS}, A with entries of standard deviation 0.4, {STEPS} steps from lr {FIRST:g} to "
        f"{LAST:g}; at 0 means |X_jk| < {ZERO:g}; mean ± standard deviation of {chosen.seeds} seeds."
    )
    write_table("exact_penalty", chosen.out, header, rows, note)


if __name__ == "__main__":
    main()
