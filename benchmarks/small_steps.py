"""Compare a step of many small groups with a copy of Φ, which is the least that it could cost, and with QR.

    python benchmarks/kernels.py --steps

writes small_steps.md to benchmarks/results.
"""

import math
from statistics import median

import torch
from peers import Work
from record import machine, table, write
from timing import CACHE, LAYOUTS, draw_in_order, in_turn
from torch import Tensor

import gramian
from gramian import kernels

__all__ = ["write_steps"]

STEPS = (
    (64, 4096, 2), (64, 4096, 4), (64, 4096, 8), (64, 4095, 3), (64, 4095, 5), (64, 4095, 7), (256, 192, 4),
    (256, 20000, 4), (768, 8192, 4), (64, 2048, 12), (64, 2048, 16),
)  # fmt: skip
FEW = 8
"""Largest n for which a step is held against a copy of Φ."""


def small_steps(shape: tuple[int, int, int], axes: tuple[int, int, int], patience: float) -> dict[str, float]:
    """Time steps and gradients of small groups near the manifold beside a copy of Φ, in one memory order."""
    phi, tiny = draw_in_order(shape, axes), draw_in_order((shape[2], 64, shape[2]), axes)
    gramian.foreach.restore_([phi, tiny])
    target, grad = torch.zeros_like(phi), torch.zeros_like(phi)
    P = phi.permute(1, 0, 2)

    def forced(name: str) -> Work:
        def work() -> object:
            with kernels.use(name):
                return gramian.step_(phi, lr=1e-9)

        return work

    def products() -> tuple[Tensor, Tensor]:
        X = torch.bmm(P.mT, P) - torch.eye(shape[2])
        return X.abs().sum(), 2 * torch.bmm(P, torch.sign(X))

    def cholesky_qr() -> Tensor:
        return torch.linalg.solve_triangular(torch.linalg.cholesky(P.mT @ P).mT, P, upper=True, left=False)

    works: dict[str, Work] = {
        "copy": lambda: target.copy_(phi),
        "call": lambda: gramian.step_(tiny, lr=1e-9),
        "step_": lambda: gramian.step_(phi, lr=1e-9),
        "gradient, out=": lambda: gramian.value_and_grad(phi, out=grad),
        "gradient, new memory": lambda: gramian.value_and_grad(phi),
        "step_, batched": forced("batched"),
        "two products": products,
        "QR": lambda: torch.linalg.qr(P),
        "Cholesky-QR": cholesky_qr,
    }
    return in_turn(works, patience, warm=True)


def limit(shape: tuple[int, int, int], times: dict[str, float]) -> tuple[str, float]:
    """Return the limit that a step is held against, in words and in seconds."""
    if shape[2] > FEW:
        return "two products", times["two products"]
    copies, where = (1.6, "in memory") if 4 * math.prod(shape) > CACHE else (3, "in the cache")
    return f"{copies} copies, {where}", copies * times["copy"]


def rows(results: dict[tuple[tuple[int, int, int], str], dict[str, float]]) -> str:
    """Write the times of small steps in copies of Φ, and how far each is from its limit."""
    names = [
        "step_", "gradient, out=", "gradient, new memory", "step_, batched", "two products", "QR", "Cholesky-QR",
    ]  # fmt: skip
    body = []
    for (shape, order), times in results.items():
        words, most = limit(shape, times)
        part = times["step_"] / most
        cells = [", ".join(map(str, shape)), order, f"{1e3 * times['copy']:.3g}", words]
        cells.append(f"{part:.2f}, {'held' if part <= 1 else 'missed'}")
        body.append([*cells, *(f"{times[name] / times['copy']:.2f}" if name in times else "–" for name in names)])
    return table(["l, m, n", "order", "copy, ms", "limit of step_", "step_ over its limit", *names], body)


def write_steps() -> None:
    """Time steps and gradients of many small groups in every memory order, and write the table."""
    times = {(shape, name): small_steps(shape, axes, 1.0) for shape in STEPS for name, axes in LAYOUTS.items()}
    call = median(each["call"] for each in times.values())
    write(
        "small_steps.md",
        "Many small groups near the manifold, float32: times divided by that of a warm copy of Φ, medians of "
        f"interleaved rounds. Each method is called twice in a turn, and the second call timed. "
        f"A call for a tensor of a few numbers takes {1e6 * call:.0f} µs.\n\n{rows(times)}\n"
        f"Measured by `python benchmarks/kernels.py --steps` on {machine()}.\n",
    )
