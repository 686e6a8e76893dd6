"""Loops over vectors and rows that Numba turns into vector instructions."""

# Numba code has no types to check; Numba compiles these plain Python loops.
# pyright: basic

import numpy as np

from gramian.coding.inference.loops.compiled import compiled, inlined

__all__ = ["SAMPLES", "copy", "dot", "multiply", "multiply_block", "subtract", "subtract_rows"]

SAMPLES, _COLUMNS = 32, 512
"""Samples and atoms of a block of correlations, whose sums stay in the second-level cache."""


@inlined
def copy(out, u):
    """Copy u to out."""
    for e in range(len(out)):
        out[e] = u[e]


@inlined
def dot(u, v):
    """Compute uᵀv."""
    total = u.dtype.type(0)
    for j in range(len(u)):
        total += u[j] * v[j]
    return float(total)


@inlined
def subtract(out, u, w):
    """Subtract w·u from out."""
    for e in range(len(out)):
        out[e] -= w * u[e]


@inlined
def subtract_rows(out, rows, code, support, count, n):  # noqa: PLR0917
    """Subtract Σ_j code_j·rows_j over the coefficients of the support, four rows at a time."""
    held = np.empty(4, np.int64)
    filled = 0
    for s in range(count):
        for j in range(support[s] * n, support[s] * n + n):
            if code[j] != 0:
                held[filled] = j
                filled += 1
                if filled == 4:
                    _subtract_four(
                        out,
                        rows[held[0]],
                        rows[held[1]],
                        rows[held[2]],
                        rows[held[3]],
                        code[held[0]],
                        code[held[1]],
                        code[held[2]],
                        code[held[3]],
                    )
                    filled = 0
    for t in range(filled):
        subtract(out, rows[held[t]], code[held[t]])


@inlined
def _subtract_four(out, u0, u1, u2, u3, w0, w1, w2, w3):  # noqa: PLR0917
    for e in range(len(out)):
        out[e] -= w0 * u0[e] + w1 * u1[e] + w2 * u2[e] + w3 * u3[e]


@compiled
def multiply(rows, dictionary, out, start, stop):
    """Write rows @ dictionary for the rows from `start` to `stop`."""
    block = np.zeros((SAMPLES, rows.shape[1]), rows.dtype)
    products = np.zeros((SAMPLES, out.shape[1]), out.dtype)
    for first in range(start, stop, SAMPLES):
        count = min(SAMPLES, stop - first)
        for s in range(count):
            copy(block[s], rows[first + s])
        multiply_block(block, dictionary, products, count)
        for s in range(count):
            copy(out[first + s], products[s])


@inlined
def multiply_block(rows, dictionary, out, count):
    """Write rows @ dictionary for the first rows of a block, an even number of rows.

    The sums of a row do not depend on the other rows, as those of a faster product of torch may.
    """
    length, p = dictionary.shape
    whole = length // 4 * 4
    for left in range(0, p, _COLUMNS):
        first, last = np.uint64(left), np.uint64(min(p, left + _COLUMNS))
        for s in range(0, count, 2):
            t = s + 1
            for e in range(first, last):
                out[s, e] = 0
                out[t, e] = 0
        for j in range(0, whole, 4):
            for s in range(0, count, 2):
                t = s + 1
                v0, v1, v2, v3 = rows[s, j], rows[s, j + 1], rows[s, j + 2], rows[s, j + 3]
                w0, w1, w2, w3 = rows[t, j], rows[t, j + 1], rows[t, j + 2], rows[t, j + 3]
                for e in range(first, last):
                    d0, d1, d2, d3 = dictionary[j, e], dictionary[j + 1, e], dictionary[j + 2, e], dictionary[j + 3, e]
                    out[s, e] += v0 * d0 + v1 * d1 + v2 * d2 + v3 * d3
                    out[t, e] += w0 * d0 + w1 * d1 + w2 * d2 + w3 * d3
        for j in range(whole, length):
            for s in range(0, count, 2):
                t = s + 1
                v, w = rows[s, j], rows[t, j]
                for e in range(first, last):
                    out[s, e] += v * dictionary[j, e]
                    out[t, e] += w * dictionary[j, e]
