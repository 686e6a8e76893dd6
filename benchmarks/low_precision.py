"""Measure how low-precision Gram products change the signs of X, and at which residual the proximal rule then ends.

    python benchmarks/low_precision.py

emulates the multipliers of a GPU: factors rounded to tf32 or bfloat16, with exact sums, and one product as three tf32
products. It writes benchmarks/results/low_precision.md and takes seconds.
"""

import math
from statistics import mean

import torch
from record import machine, table, write
from torch import Tensor

from gramian.penalties import L1

SIZES = ((256, 192, 4), (256, 16, 64), (512, 1, 512))
SEEDS = range(5)
LEVELS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
STEPS = 60


def rounded(P: Tensor, bits: int) -> Tensor:
    """Round float32 to a number of bits after the point, to the nearest, as float64."""
    drop = 23 - bits
    integer = P.contiguous().view(torch.int32)
    return ((integer + (1 << (drop - 1))) & -(1 << drop)).view(torch.float32).double()


def exact(P: Tensor) -> Tensor:
    return P.double().mT @ P.double()


def float32(P: Tensor) -> Tensor:
    return (P.mT @ P).double()


def tf32(P: Tensor) -> Tensor:
    factor = rounded(P, 10)
    return factor.mT @ factor


def three_tf32(P: Tensor) -> Tensor:
    high = rounded(P, 10)
    low = rounded((P.double() - high).float(), 10)
    cross = high.mT @ low
    return high.mT @ high + cross + cross.mT


def bfloat16(P: Tensor) -> Tensor:
    factor = rounded(P, 7)
    return factor.mT @ factor


PRODUCTS = {"float32": float32, "tf32": tf32, "three tf32": three_tf32, "bfloat16": bfloat16}


def start(shape: tuple[int, int, int], seed: int) -> Tensor:
    length, m, n = shape
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(m, length, n, generator=generator))[0]


def wrong_signs(gram: object, shape: tuple[int, int, int], level: float) -> float:
    """Compute the share of wrong signs among off-diagonal entries of typical size `level`."""
    shares = []
    for seed in SEEDS:
        Q = start(shape, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        noise = torch.randn(Q.mT.shape[0], shape[2], shape[2], generator=generator)
        P = (Q + 0.5 * level * Q @ (noise + noise.mT) / math.sqrt(2)).float()
        off = ~torch.eye(shape[2], dtype=torch.bool)
        shares.append((torch.sign(gram(P)) != torch.sign(exact(P)))[:, off].float().mean().item())
    return mean(shares)


def floor(gram: object, shape: tuple[int, int, int], tau: float = 0.1) -> float:
    """Compute the largest exact |X_jk| after proximal steps with such a Gram product: the median over seeds."""
    ends = []
    for seed in SEEDS:
        P = start(shape, seed)
        generator = torch.Generator().manual_seed(100 + seed)
        P = P + 0.02 * torch.randn(P.shape, generator=generator) / math.sqrt(shape[0])
        one = torch.eye(shape[2], dtype=torch.float64)
        for _ in range(STEPS):
            C = L1().prox_residual(gram(P) - one, torch.tensor(tau, dtype=torch.float64))
            P = P - (0.5 * P.double() @ C).float()
        ends.append((exact(P) - one).abs().max().item())
    return sorted(ends)[len(ends) // 2]


def main() -> None:
    header = ["l, m, n", "product", *(f"wrong at {level:g}" for level in LEVELS), "proximal ends at"]
    body = []
    for shape in SIZES:
        for name, gram in PRODUCTS.items():
            shares = [f"{100 * wrong_signs(gram, shape, level):.2g} %" for level in LEVELS]
            body.append([", ".join(map(str, shape)), name, *shares, f"{floor(gram, shape):.0e}"])
    text = (
        "Share of wrong signs among off-diagonal X_jk of a typical size, and the largest |X_jk| after the proximal\n"
        "rule (l1, τ = 0.1), for each way to compute the Gram product of float32 vectors.\n\n"
        f"{table(header, body)}\n"
        f"{len(SEEDS)} seeds: means of the shares, medians of the ends. The exact Gram matrix is that of float64.\n\n"
        f"Measured by `python benchmarks/low_precision.py` on {machine()}.\n"
    )
    write("low_precision.md", text)


if __name__ == "__main__":
    main()
