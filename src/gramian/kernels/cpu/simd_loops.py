"""The loops of the SIMD kernel. `n` is a constant when they are compiled, so that the loops over members unroll."""

# Numba code has no types to check; Numba compiles these plain Python loops.
# pyright: basic

from collections.abc import Callable

import numpy as np

from gramian.kernels.cpu.compiled import compiled

__all__ = ["LANES", "apply", "gram"]

LANES = 64
"""Groups processed at once: four AVX-512 vectors in float32; their n(n+1)/2 sums stay in the first-level cache."""

ROWS = 32
"""Rows per partial sum: one long float32 sum would lose accuracy."""


def gram(n: int) -> Callable[..., None]:
    """Compile a function (P, X, start, stop) that writes PᵀP − I for blocks of groups of P[l, m, n] to X[m, n, n]."""
    pairs = n * (n + 1) // 2

    @compiled
    def write(P, X, start, stop):
        length, m, _ = P.shape
        for block in range(start, stop):
            first = block * LANES
            filled = min(LANES, m - first)
            sums = np.zeros((pairs, LANES), P.dtype)
            part = np.zeros((pairs, LANES), P.dtype)
            lanes = np.zeros((n, LANES), P.dtype)
            for top in range(0, length, ROWS):
                part[:] = 0
                for r in range(top, min(top + ROWS, length)):
                    row = P[r]
                    for g in range(filled):
                        for j in range(n):
                            lanes[j, g] = row[first + g, j]
                    for g in range(LANES):
                        pair = 0
                        for j in range(n):
                            for k in range(j, n):
                                part[pair, g] += lanes[j, g] * lanes[k, g]
                                pair += 1
                sums += part
            for g in range(filled):
                pair = 0
                for j in range(n):
                    for k in range(j, n):
                        x = sums[pair, g]
                        if j == k:
                            x -= 1
                        X[first + g, j, k] = x
                        X[first + g, k, j] = x
                        pair += 1

    return write


def apply(n: int) -> Callable[..., None]:
    """Compile a function (P, M, out, add, start, stop) that writes P M, or P + P M, to `out`, which may be P."""

    @compiled
    def write(P, M, out, add, start, stop):  # noqa: PLR0917
        length, m, _ = P.shape
        weight = P.dtype.type(1 if add else 0)
        for block in range(start, stop):
            first = block * LANES
            filled = min(LANES, m - first)
            factors = np.zeros((n, n, LANES), P.dtype)
            lanes = np.zeros((n, LANES), P.dtype)
            sums = np.zeros((n, LANES), P.dtype)
            for g in range(filled):
                for j in range(n):
                    for k in range(n):
                        factors[j, k, g] = M[first + g, j, k]
            for r in range(length):
                row, target = P[r], out[r]
                for g in range(filled):
                    for j in range(n):
                        lanes[j, g] = row[first + g, j]
                for k in range(n):
                    for g in range(LANES):
                        y = weight * lanes[k, g]
                        for j in range(n):
                            y += lanes[j, g] * factors[j, k, g]
                        sums[k, g] = y
                for g in range(filled):
                    for k in range(n):
                        target[first + g, k] = sums[k, g]

    return write
