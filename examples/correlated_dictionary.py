"""Compare which pairs of a dictionary each penalty estimates as orthogonal: l1 is a lasso on inner products.

    python examples/correlated_dictionary.py

32 vectors in 64 dimensions, four pairs of which are truly correlated (cosine 0.6) and all others orthogonal, are
estimated from noisy mixtures with known weights. Over a range of β each penalty gives a dictionary, whose 496 pairs
are estimated as orthogonal or not. Writes a table and the selection curves into docs/measured. About three minutes.
"""

from dataclasses import dataclass
from statistics import mean

import torch
from evidence import options, spread, write_table
from matplotlib.figure import Figure
from torch import Tensor

import gramian

LENGTH, VECTORS, PAIRS, COSINE, NOISE, MIXTURES = 64, 32, 4, 0.6, 0.3, 200
BETAS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
PENALTIES = ("l1", "huber", "squared_frobenius", "frobenius", "spectral")
STEPS, ZERO, LAST_LR = 1200, 1e-5, 1e-3


@dataclass(frozen=True)
class Problem:
    """Mixtures x = Ds + noise, with the true D."""

    truth: Tensor
    mixtures: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Outcome:
    """How one estimate compares with the truth."""

    false_zeros: float
    """Share of the correlated pairs that were estimated as orthogonal."""
    true_zeros: float
    """Share of the orthogonal pairs that were estimated as orthogonal: smaller than `ZERO`."""
    rest: float
    """Mean |X_jk| of the orthogonal pairs."""
    cosine: float
    """Mean cosine of the correlated pairs."""
    error: float
    """Root mean square error of an entry of D."""


def draw(seed: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(LENGTH, VECTORS, generator=generator, dtype=torch.float64)).Q
    truth = basis.clone()
    for pair in range(PAIRS):
        truth[:, 2 * pair + 1] = COSINE * basis[:, 2 * pair] + (1 - COSINE**2) ** 0.5 * basis[:, 2 * pair + 1]
    weights = torch.randn(VECTORS, MIXTURES, generator=generator, dtype=torch.float64)
    noise = NOISE * torch.randn(LENGTH, MIXTURES, generator=generator, dtype=torch.float64)
    return Problem(truth, truth @ weights + noise, weights)


def estimate(problem: Problem, penalty: str, beta: float) -> Tensor:
    """Minimise ½‖x − Ds‖² averaged over mixtures plus βμ, by alternating steps of the two terms."""
    second = problem.weights @ problem.weights.mT / MIXTURES
    cross = problem.mixtures @ problem.weights.mT / MIXTURES
    D = cross.clone()
    lr = 0.5 / torch.linalg.matrix_norm(second, 2).item()
    for step in range(STEPS):
        D -= lr * (D @ second - cross)
        if beta > 0:
            gramian.step_(D, lr=lr, beta=beta, penalty=penalty)
        if step > STEPS // 2:
            lr *= LAST_LR ** (2 / STEPS)  # alternating steps end within about their length of the minimum
    return D


def judge(problem: Problem, D: Tensor) -> Outcome:
    correlated = torch.zeros(VECTORS, VECTORS, dtype=torch.bool)
    for pair in range(PAIRS):
        correlated[2 * pair, 2 * pair + 1] = True
    orthogonal = torch.ones(VECTORS, VECTORS, dtype=torch.bool).triu(1) & ~correlated
    sizes = gramian.residual(D)[0].abs()
    unit = D / torch.linalg.vector_norm(D, dim=0)
    return Outcome(
        false_zeros=(sizes[correlated] < ZERO).double().mean().item(),
        true_zeros=(sizes[orthogonal] < ZERO).double().mean().item(),
        rest=sizes[orthogonal].mean().item(),
        cosine=(unit.mT @ unit)[correlated].mean().item(),
        error=(D - problem.truth).square().mean().sqrt().item(),
    )


def picture(results: dict[tuple[str, float], list[Outcome]], plain: list[Outcome]) -> Figure:
    drawing = Figure(figsize=(11, 3.6), layout="constrained", dpi=110)
    left, middle, right = drawing.subplots(1, 3)
    for penalty in PENALTIES:
        for axis, what in ((left, "true_zeros"), (middle, "cosine"), (right, "error")):
            means = [mean(getattr(each, what) for each in results[penalty, beta]) for beta in BETAS]
            axis.plot(BETAS, means, marker="o", ms=3, label=penalty)
    for axis, what, title in (
        (left, "true_zeros", "orthogonal pairs at zero"),
        (middle, "cosine", "cosine of the correlated pairs (0.6)"),
        (right, "error", "error of an entry"),
    ):
        axis.axhline(sum(getattr(each, what) for each in plain) / len(plain), color="#999", lw=1, ls=":")
        axis.set(xscale="log", xlabel="β", title=title)
        axis.title.set_fontsize(9)
        axis.grid(alpha=0.3)
    left.legend(fontsize=8)
    return drawing


def main() -> None:
    chosen = options(__doc__)
    problems = [draw(seed) for seed in range(chosen.seeds)]
    plain = [judge(problem, estimate(problem, "l1", 0.0)) for problem in problems]
    results = {
        (penalty, beta): [judge(problem, estimate(problem, penalty, beta)) for problem in problems]
        for penalty in PENALTIES
        for beta in BETAS
    }

    def row(penalty: str, beta: str, outcomes: list[Outcome]) -> list[str]:
        return [
            penalty,
            beta,
            spread([100 * each.true_zeros for each in outcomes], ".0f") + " %",
            spread([100 * each.false_zeros for each in outcomes], ".0f") + " %",
            spread([each.rest for each in outcomes], ".1e"),
            spread([each.cosine for each in outcomes], ".2f"),
            spread([each.error for each in outcomes], ".4f"),
        ]

    rows = [row("none", "", plain)]
    rows += [row(penalty, f"{beta:g}", results[penalty, beta]) for penalty in PENALTIES for beta in BETAS]
    header = ("penalty", "β", "orthogonal pairs at 0", "correlated pairs at 0", "mean \\|X_jk\\| of the orthogonal",
              "cosine of the correlated", "error of an entry")  # fmt: skip
    note = (
        f"{VECTORS} vectors of {LENGTH} entries, {PAIRS} pairs with cosine {COSINE}, {MIXTURES} mixtures, noise "
        f"{NOISE}; at 0 means |X_jk| < {ZERO:g}; mean ± standard deviation of {chosen.seeds} seeds."
    )
    write_table("correlated_dictionary", chosen.out, header, rows, note)
    picture(results, plain).savefig(chosen.out / "correlated_dictionary.png")


if __name__ == "__main__":
    main()
