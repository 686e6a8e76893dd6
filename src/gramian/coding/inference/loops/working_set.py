"""The loops of coordinate descent on a working set: its Gram matrix, sweeps, and Newton steps.

They are compiled as parts of `descent`, whose cache does not notice changes in this file.
"""

# Numba code has no types to check; Numba compiles these plain Python loops.
# pyright: basic

import numpy as np

from gramian.coding.inference.loops.compiled import inlined
from gramian.coding.inference.loops.vectors import copy, dot, subtract

__all__ = ["VECTORS", "extend_gram", "padded", "solve", "spread"]

_SWEEPS = 200
_PRODUCTS, _ACCURACY = 20, 1e-2
"""Largest number of conjugate-gradient products in a Newton step, and the sufficient decrease of the squared
residual."""
_LANES = 32
"""Rows of the working set are filled up to four vectors of eight: remainders would take longer than the rest."""
VECTORS = 10
"""Vectors that `solve` uses; the first two are the coefficients a and their correlations b."""


@inlined
def padded(width):
    """Round a width up to whole vectors."""
    return (width + _LANES - 1) // _LANES * _LANES


@inlined
def spread(out, entries, count, stride, before):
    """Copy a matrix to rows of another length."""
    for s in range(count):
        for e in range(count):
            out[s * stride + e] = entries[s * before + e]


@inlined
def extend_gram(G, gram, atoms, line, columns, held, width, with_gram):  # noqa: PLR0917
    """Extend the Gram matrix of the working set by its coefficients from `held` on."""
    for s in range(held, width):
        row = G[s]
        if with_gram:
            whole = gram[columns[s]]
            if 16 * width > len(line):  # most cache lines are needed, and in order they arrive sooner
                copy(line, whole)
                whole = line
            for t in range(width):
                row[t] = whole[columns[t]]
            for t in range(held):
                G[t, s] = row[t]
        else:
            atom = atoms[columns[s]]
            for t in range(s + 1):
                row[t] = dot(atom, atoms[columns[t]])
                G[t, s] = row[t]


@inlined
def solve(vectors, G, nonzero, limits, rates, k, n, nonnegative, square, goal):  # noqa: PLR0917
    """Minimise over the working set until its duality gap is at most the goal; b = Φᵀr of the working set."""
    a, b, a0, b0, steps = vectors[0], vectors[1], vectors[2], vectors[3], vectors[4]
    width = k * n
    for j in range(width):
        a0[j], b0[j] = a[j], b[j]
    for _ in range(_SWEEPS):
        if n == 1:
            moved, switched = _sweep_single(a, b, G, limits, rates, k, nonnegative)
        else:
            moved, switched = _sweep_groups(a, b, steps, G, limits, rates, k, n, nonnegative)
        if not moved or _local_gap(a, b, a0, b0, limits, k, n, nonnegative, square) <= goal:
            return
        if not switched:
            _newton(vectors, G, nonzero, limits, k, n, nonnegative)


@inlined
def _local_gap(a, b, a0, b0, limits, k, n, nonnegative, square):  # noqa: PLR0917
    penalty, inner, worst = 0.0, 0.0, 0.0
    for s in range(k):
        norm, length = 0.0, 0.0
        for j in range(s * n, s * n + n):
            norm += a[j] * a[j]
            inner += a[j] * b[j]
            square -= (a[j] - a0[j]) * (b[j] + b0[j])
            if b[j] > 0 or not nonnegative:
                length += b[j] * b[j]
        penalty += limits[s] * np.sqrt(norm)
        worst = max(worst, length / (limits[s] * limits[s]))
    square = max(square, 0.0)
    scale = 1 / np.sqrt(worst) if worst > 1 else 1.0
    return 0.5 * square + penalty - scale * (square + inner) + 0.5 * scale * scale * square


@inlined
def _sweep_single(a, b, G, limits, rates, k, nonnegative):  # noqa: PLR0917
    least = 4 * np.finfo(a.dtype).eps
    infinite = a.dtype.type(np.inf)
    b_whole = b[: padded(k)]
    moved, switched = False, False
    for t in range(k):
        old = a[t]
        u = old + b[t] * rates[t]
        limit = limits[t] * rates[t]
        new = u - min(max(u, -infinite if nonnegative else -limit), limit)
        if new != old:
            a[t] = new
            step = new - old
            subtract(b_whole, G[t], step)
            moved |= abs(step) > least * abs(u)
            switched |= (old > 0) != (new > 0) or (old < 0) != (new < 0)
    return moved, switched


@inlined
def _sweep_groups(a, b, steps, G, limits, rates, k, n, nonnegative):  # noqa: PLR0917
    zero, one = a.dtype.type(0), a.dtype.type(1)
    least = 4 * np.finfo(a.dtype).eps
    b_whole = b[: padded(k * n)]
    moved, switched = False, False
    for t in range(k):
        first = t * n
        norm, before = zero, zero
        for j in range(first, first + n):
            u = a[j] + b[j] * rates[t]
            before += a[j] * a[j]
            if u > 0 or not nonnegative:
                norm += u * u
        norm = np.sqrt(norm)
        limit = limits[t] * rates[t]
        keep = zero
        if norm > limit:
            keep = one - limit / norm
        elif before == 0:
            continue
        switched |= (before > 0) != (keep > 0)
        for j in range(n):
            u = a[first + j] + b[first + j] * rates[t]
            new = keep * u if u > 0 or not nonnegative else zero
            steps[j] = new - a[first + j]
            if nonnegative:
                switched |= (a[first + j] > 0) != (new > 0)
            a[first + j] = new
        for j in range(n):
            if steps[j] != 0:
                moved |= abs(steps[j]) > least * norm
                subtract(b_whole, G[first + j], steps[j])
    return moved, switched


@inlined
def _newton(vectors, G, nonzero, limits, k, n, nonnegative):  # noqa: PLR0912, PLR0915, PLR0917
    """Make a Newton step on the nonzero coefficients, computed by conjugate gradients, if it decreases the energy."""
    a, b, d, y, h = vectors[0], vectors[1], vectors[4], vectors[5], vectors[6]
    rest, diagonal, bends = vectors[7], vectors[8], vectors[9]
    zero, one = a.dtype.type(0), a.dtype.type(1)
    width = k * n
    count = 0
    for t in range(k):
        norm = zero
        for j in range(t * n, t * n + n):
            norm += a[j] * a[j]
        norm = np.sqrt(norm)
        bends[t] = limits[t] / norm if norm > 0 else zero
        for j in range(t * n, t * n + n):
            rest[j], diagonal[j], d[j] = zero, zero, zero
            if a[j] != 0:
                u = a[j] / norm
                rest[j] = b[j] - bends[t] * a[j]
                diagonal[j] = one / (G[j, j] + bends[t] * (one - u * u))
                nonzero[count] = j
                count += 1
    # Conjugate gradients with a diagonal preconditioner, whose zeros keep the zeros of the coefficients.
    inner = zero
    for j in range(width):
        y[j] = diagonal[j] * rest[j]
        inner += y[j] * rest[j]
    enough = inner * a.dtype.type(_ACCURACY)
    for _ in range(_PRODUCTS):
        _product(h, G, y, nonzero, count, width)
        if n > 1:
            for t in range(k):
                if bends[t] > 0:
                    along, norm = zero, limits[t] / bends[t]
                    for j in range(t * n, t * n + n):
                        along += a[j] * y[j]
                    along /= norm * norm
                    for j in range(t * n, t * n + n):
                        h[j] += bends[t] * (y[j] - along * a[j])
        curve = zero
        for j in range(width):
            curve += y[j] * h[j]
        if not curve > 0:
            break
        rate = inner / curve
        for j in range(width):
            d[j] += rate * y[j]
            rest[j] -= rate * h[j]
        before, inner = inner, zero
        for j in range(width):
            h[j] = diagonal[j] * rest[j]
            inner += h[j] * rest[j]
        if not inner > enough:
            break
        rate = inner / before
        for j in range(width):
            y[j] = h[j] + rate * y[j]
    # The whole step, with 0 for coefficients whose sign would change, or a quarter of it.
    if n == 1 or nonnegative:
        for s in range(count):
            j = nonzero[s]
            if a[j] * (a[j] + d[j]) < 0:
                d[j] = -a[j]
    for _ in range(2):
        _product(h, G, d, nonzero, count, width)
        change = 0.0
        for t in range(k):
            if bends[t] > 0:
                before, after = zero, zero
                for j in range(t * n, t * n + n):
                    change += d[j] * (0.5 * h[j] - b[j])
                    before += a[j] * a[j]
                    after += (a[j] + d[j]) * (a[j] + d[j])
                change += limits[t] * (np.sqrt(after) - np.sqrt(before))
        if change < 0:
            for j in range(width):
                a[j] += d[j]
                b[j] -= h[j]
            return
        for j in range(width):
            d[j] *= a.dtype.type(0.25)
    return


@inlined
def _product(h, G, y, nonzero, count, width):  # noqa: PLR0917
    """Compute h = Gy for a y that is 0 except at these indices."""
    for e in range(width):
        h[e] = h.dtype.type(0)
    whole = count // 4 * 4
    end = np.uint64(padded(width))
    for s in range(0, whole, 4):
        i0, i1, i2, i3 = nonzero[s], nonzero[s + 1], nonzero[s + 2], nonzero[s + 3]
        w0, w1, w2, w3 = y[i0], y[i1], y[i2], y[i3]
        for e in range(np.uint64(0), end):
            h[e] += w0 * G[i0, e] + w1 * G[i1, e] + w2 * G[i2, e] + w3 * G[i3, e]
    for s in range(whole, count):
        i = nonzero[s]
        w = y[i]
        for e in range(np.uint64(0), end):
            h[e] += w * G[i, e]
