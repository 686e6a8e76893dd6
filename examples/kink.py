"""Draw the kink of |X_jk| at orthogonal vectors, and the convergence of the three update rules there.

    python examples/kink.py

Writes docs/figures/kink.png; it takes seconds.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.figure import Figure

import gramian

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "kink.png"
SHAPE, LR, STEPS = (64, 16, 4), 0.01, 60


def two_vectors(angle: float) -> torch.Tensor:
    """Return two vectors of length 1 with the given angle."""
    return torch.tensor([[1.0, math.cos(angle)], [0.0, math.sin(angle)]], dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIGURE, help="the picture")
    out = parser.parse_args().out
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)

    degrees = torch.linspace(60, 120, 241).tolist()
    for penalty, colour in (("l1", "C0"), ("squared_frobenius", "C2")):
        values = [gramian.loss(two_vectors(math.radians(each)), penalty=penalty).item() for each in degrees]
        left.plot(degrees, values, color=colour, label=penalty)
    left.set(
        xlabel="angle of two vectors of length 1, degrees", ylabel="L", title="the kink where vectors are orthogonal"
    )
    left.legend(frameon=False)

    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8
    for rule, colour in (("subgradient", "C3"), ("polyak", "C1"), ("proximal", "C0")):
        phi = start.clone()
        largest = []
        for _ in range(STEPS):
            largest.append(gramian.residual(phi).abs().max().item())
            gramian.step_(phi, lr=LR, rule=rule)
        right.semilogy(largest, color=colour, label=rule)
    right.axhline(4 * LR, color="0.5", linewidth=0.8, linestyle="dotted")
    right.annotate("4ηβ", (STEPS, 4 * LR), textcoords="offset points", xytext=(-22, 4), color="0.4")
    right.set(xlabel="step", ylabel="largest |X_jk|", title=f"Φ of {SHAPE}, η = {LR:g}, β = 1", ylim=(1e-17, 10))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)

    figure.savefig(out, dpi=120)
    print(f"written to {out}")


if __name__ == "__main__":
    main()
