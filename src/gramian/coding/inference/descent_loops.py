"""The loops of coordinate descent: for each sample, rounds of a small problem on a working set of groups.

All loops are in one module, because Numba's cache of machine code follows changes of the file of the outermost loop
only.
"""

# Numba code has no types to check; Numba compiles these plain Python loops.
# pyright: basic

from typing import Any, NamedTuple

import numpy as np

from gramian.kernels.cpu.compiled import compiled, compiled_finite

__all__ = ["DONE", "LAST", "SAMPLES", "Problem", "descend", "multiply"]

DONE, LAST = 1, 2
"""States of a sample: its gap is small enough, or it had its last round; 0 before."""

_FIRST, _GROWTH = 16, 1.0
"""A round adds as many groups as are active, times the growth, and at least the first number if as many violate."""
_LEVEL = 1 + 1e-6
_BISECTIONS = 8
_SHARE = 0.1
"""A round ends when the gap on the working set is this share of the gap before."""
_SWEEPS = 200
_PRODUCTS, _ACCURACY = 20, 1e-2
"""Most products of conjugate gradients in a Newton step, and the decrease of the squared residual that suffices."""
_BLOCK = 32
_LANES = 32
"""Rows of the working set are filled up to four vectors of eight: remainders would take longer than the rest."""
_VECTORS = 10
SAMPLES, _COLUMNS = 32, 512
"""Samples and atoms of a block of correlations, whose sums stay in the second-level cache."""


class Problem(NamedTuple):
    """What the samples of a call share; arrays in the dtype of the samples.

    Attributes:
        samples: x [batch, l].
        dictionary: D [l, m·n].
        atoms: Dᵀ [m·n, l].
        gram: DᵀD [m·n, m·n], or [0, 0] if rounds compute the entries they need.
        thresholds: λw [1 or batch, m].
        rates: 1/L_i, with L_i a bound of the largest eigenvalue of Φ_iᵀΦ_i; 0 for a group of zeros [m].
        size: n.
        nonnegative: Whether coefficients must not be negative.
        tol: Relative gap at which a sample is done.
        last_round: Number of rounds after which to stop.
        longest: Length of the longest atom.
        unit: Unit of rounding.
    """

    samples: Any
    dictionary: Any
    atoms: Any
    gram: Any
    thresholds: Any
    rates: Any
    size: int
    nonnegative: bool
    tol: float
    last_round: int
    longest: float
    unit: float


@compiled
def descend(problem, codes, results, cold, start, stop):  # noqa: PLR0912, PLR0915, PLR0917
    """Run rounds for samples until their gaps are small enough.

    With the Gram matrix, correlations follow from the codes. If their rounding errors hide a small gap, further rounds
    compute the correlations from the residuals.

    Args:
        problem: What samples share.
        codes: Codes of all samples; read and overwritten [batch, m·n].
        results: Gap, energy, number of rounds and state of all samples; overwritten [batch, 4].
        cold: Whether all codes are 0.
        start: First sample.
        stop: Sample after the last one.
    """
    gram, atoms, n, nonnegative = problem.gram, problem.atoms, problem.size, problem.nonnegative
    tol, m, p = problem.tol, len(problem.rates), len(atoms)
    q, line = np.empty(p, codes.dtype), np.empty(p, codes.dtype)
    ratios, peaks = np.empty(m, codes.dtype), np.empty((m + _BLOCK - 1) // _BLOCK, codes.dtype)
    support, work, working = np.empty(m, np.int64), np.empty(m, np.int64), np.zeros(m, np.bool_)
    limits, rates = np.empty(m, codes.dtype), np.empty(m, codes.dtype)
    inverse = 1 / problem.thresholds[0]
    steepest = float(inverse.max())
    # The Gram matrix of the working set, in rows close together: rows at multiples of 4096 bytes would displace one
    # another in the cache.
    entries, spare = np.empty(0, codes.dtype), np.empty(0, codes.dtype)
    vectors, indices = np.empty((_VECTORS, 0), codes.dtype), np.empty((2, 0), np.int64)
    capacity, stride, usual = 0, 0, 0
    correlations = np.empty((SAMPLES, p), codes.dtype)
    residuals = np.empty((SAMPLES, atoms.shape[1]), codes.dtype)
    todo = np.empty(SAMPLES, np.int64)
    for first in range(start, stop, SAMPLES):
        remaining = min(SAMPLES, stop - first)
        with_gram = len(gram) > 0
        for entry in range(remaining):
            todo[entry] = first + entry
            residuals[entry] = problem.samples[first + entry]
            if not (with_gram or cold):
                count = _nonzero(codes[first + entry], support, n)
                _subtract_rows(residuals[entry], atoms, codes[first + entry], support, count, n)
        while remaining > 0:
            _multiply(residuals, problem.dictionary, correlations, remaining)
            entries_left = 0
            for entry in range(remaining):
                i = todo[entry]
                x, code, c, r = problem.samples[i], codes[i], correlations[entry], residuals[entry]
                threshold = problem.thresholds[0 if len(problem.thresholds) == 1 else i]
                if len(problem.thresholds) > 1:
                    for g in range(m):
                        inverse[g] = 1 / threshold[g]
                    steepest = float(inverse.max())
                power = _dot(x, x)
                if not np.isfinite(power):
                    code[:] = np.nan
                    results[i, 0], results[i, 1], results[i, 3] = np.inf, np.nan, LAST
                    continue
                count = 0 if cold and results[i, 2] == 0 else _nonzero(code, support, n)
                k = 0
                rounds = results[i, 2]
                while True:
                    # q = Dᵀr, the terms of the energy, and an estimate of the gap.
                    q[:] = c
                    if with_gram:
                        _subtract_rows(q, gram, code, support, count, n)
                    square, inner, penalty, total, allowed = _terms(
                        c, q, code, threshold, support, count, n, nonnegative
                    )
                    square = max(power - square, 0.0) if with_gram else _dot(r, r)
                    worst = _ratios(q, inverse, ratios, peaks, n, nonnegative)
                    energy = 0.5 * square + penalty
                    gap = energy - _dual(worst, square + inner, square)
                    rounding = _rounding(problem, energy, power, square, total)
                    last = rounds >= problem.last_round
                    if last or not with_gram or (tol > 0 and gap <= 0.9 * tol * energy + rounding):
                        slack = problem.unit * problem.longest * np.sqrt(n * square)
                        if with_gram:
                            r[:] = x
                            _subtract_rows(r, atoms, code, support, count, n)
                            square = _dot(r, r)
                            # The error of Dᵀx, and that of the Gram matrix and of its product with the codes.
                            slack = problem.unit * problem.longest * np.sqrt(n)
                            slack *= np.sqrt(power) + 2 * problem.longest * total
                        energy, product = 0.5 * square + penalty, _dot(x, r)
                        rounding = _rounding(problem, energy, power, square, total)
                        plain = energy - _dual(worst, product, square)
                        gap = max(plain, energy - _dual(worst + slack * steepest, product, square)) + rounding
                        known = allowed and np.isfinite(gap)
                        # A gap of twice its rounding error is small enough for any tolerance.
                        spared = rounding if with_gram else gap - plain
                        small = known and gap <= tol * energy + (2 * spared if tol > 0 else 0.0)
                        results[i, 0], results[i, 1] = max(gap, 0.0) if known else np.inf, energy
                        results[i, 2], results[i, 3] = rounds, DONE if small else 0
                        if last and not with_gram and not small:
                            results[i, 3] = LAST
                        if small or last or with_gram:
                            break
                    # The working set: the active groups, and those with the largest correlations.
                    if k > 2 * count + _FIRST:
                        k = _clear(work, working, k)
                    held = k
                    if k == 0:
                        for s in range(count):
                            working[support[s]] = True
                            work[s] = support[s]
                        k = count
                    level = _level(ratios, worst, max(_FIRST, int(_GROWTH * count)))
                    k = _enlarge(work, working, k, ratios, peaks, level)
                    width = k * n
                    if width > capacity:
                        capacity = _whole(min(p, max(2 * width, 64)))
                        larger = np.zeros(capacity * capacity, codes.dtype)
                        larger[: held * n * stride] = entries[: held * n * stride]
                        entries, spare = larger, np.zeros(capacity * capacity, codes.dtype)
                        vectors = np.zeros((_VECTORS, capacity), codes.dtype)
                        indices = np.empty((2, capacity), np.int64)
                    if held == 0:
                        stride = max(_whole(width), min(usual, 4 * _whole(width)))
                    elif width > stride:
                        _spread(spare, entries, held * n, _whole(width), stride)
                        entries, spare, stride = spare, entries, _whole(width)
                    G = entries[: stride * stride].reshape(stride, stride)
                    columns, nonzero = indices[0], indices[1]
                    a, b = vectors[0], vectors[1]
                    for s in range(k):
                        g = work[s]
                        limits[s], rates[s] = threshold[g], problem.rates[g]
                        for j in range(n):
                            columns[s * n + j] = g * n + j
                            a[s * n + j], b[s * n + j] = code[g * n + j], q[g * n + j]
                    _extend_gram(G, gram, atoms, line, columns, held * n, width, with_gram)
                    goal = _SHARE * gap
                    if tol > 0:
                        goal = max(goal, 0.45 * tol * energy)
                    _solve(vectors, G, nonzero, limits, rates, k, n, nonnegative, square, goal)
                    changed = False
                    count = 0
                    for s in range(k):
                        g, active = work[s], False
                        for j in range(n):
                            changed |= code[g * n + j] != a[s * n + j]
                            code[g * n + j] = a[s * n + j]
                            active |= a[s * n + j] != 0
                        if active:
                            support[count] = g
                            count += 1
                    rounds += 1
                    if not (with_gram or changed):
                        rounds = problem.last_round  # further rounds change nothing
                    results[i, 2] = rounds
                    if not (with_gram and changed):
                        r[:] = x
                        _subtract_rows(r, atoms, code, support, count, n)
                        break
                usual = stride
                _clear(work, working, k)
                if results[i, 3] == 0:
                    todo[entries_left] = i
                    residuals[entries_left] = r
                    entries_left += 1
            remaining, with_gram = entries_left, False


@compiled
def multiply(rows, dictionary, out, start, stop):
    """Write rows @ dictionary for the rows from `start` to `stop`."""
    block = np.empty((SAMPLES, rows.shape[1]), rows.dtype)
    for first in range(start, stop, SAMPLES):
        count = min(SAMPLES, stop - first)
        for s in range(count):
            block[s] = rows[first + s]
        _multiply(block, dictionary, out[first : first + count], count)


@compiled
def _multiply(rows, dictionary, out, count):
    """Write rows @ dictionary for a block of rows; torch's product would leave threads that spin."""
    length, p = dictionary.shape
    whole = length // 4 * 4
    for left in range(0, p, _COLUMNS):
        first, last = np.uint64(left), np.uint64(min(p, left + _COLUMNS))
        for s in range(count):
            for e in range(first, last):
                out[s, e] = 0
        for j in range(0, whole, 4):
            for s in range(count):
                w0, w1, w2, w3 = rows[s, j], rows[s, j + 1], rows[s, j + 2], rows[s, j + 3]
                for e in range(first, last):
                    out[s, e] += (
                        w0 * dictionary[j, e] + w1 * dictionary[j + 1, e] + w2 * dictionary[j + 2, e]
                        + w3 * dictionary[j + 3, e]
                    )  # fmt: skip
        for j in range(whole, length):
            for s in range(count):
                w = rows[s, j]
                for e in range(first, last):
                    out[s, e] += w * dictionary[j, e]


@compiled
def _nonzero(code, support, n):
    """Write the indices of active groups, and return their number."""
    count = 0
    for g in range(len(support)):
        for j in range(g * n, g * n + n):
            if code[j] != 0:
                support[count] = g
                count += 1
                break
    return count


@compiled
def _terms(c, q, code, threshold, support, count, n, nonnegative):  # noqa: PLR0917
    """Compute aᵀ(c + q), aᵀq, λΣw‖a_i‖ and Σ|a_j|, and whether the codes are allowed."""
    both, inner, penalty, total, allowed = 0.0, 0.0, 0.0, 0.0, True
    for s in range(count):
        g, norm = support[s], 0.0
        for j in range(g * n, g * n + n):
            norm += code[j] * code[j]
            total += abs(code[j])
            both += code[j] * (c[j] + q[j])
            inner += code[j] * q[j]
            allowed &= not (nonnegative and code[j] < 0)
        penalty += threshold[g] * np.sqrt(norm)
    return both, inner, penalty, total, allowed


@compiled
def _dual(worst, product, square):
    """Compute the value of the dual problem at the residual, scaled into its feasible set."""
    scale = 1 / worst if worst > 1 else 1.0
    return scale * product - 0.5 * scale * scale * square


@compiled
def _rounding(problem, energy, power, square, total):
    """Bound the rounding error of the energy and of the dual value, as `inference.base` does."""
    terms = np.sqrt(power) + problem.longest * total
    return problem.unit * (energy + power + terms * np.sqrt(square) + problem.unit * terms * terms)


@compiled
def _clear(work, working, k):
    for s in range(k):
        working[work[s]] = False
    return 0


@compiled
def _level(ratios, worst, most):
    """Bisect for a level that at most about `most` of the ratios exceed; the largest always exceeds it."""
    real = ratios.dtype.type
    level = real(_LEVEL)
    if _above(ratios, level) <= most:
        return level
    low, high = level, real(worst)
    for _ in range(_BISECTIONS):
        middle = real(0.5) * (low + high)
        above = _above(ratios, middle)
        if above > most:
            low = middle
        else:
            high = middle
            if 2 * above >= most:
                break
    return min(high, real(worst) / real(_LEVEL))


@compiled
def _above(ratios, level):
    zero, one = ratios.dtype.type(0), ratios.dtype.type(1)
    total = zero
    for g in range(len(ratios)):
        total += one if ratios[g] > level else zero
    return total


@compiled
def _enlarge(work, working, k, ratios, peaks, level):  # noqa: PLR0917
    """Add the groups whose ratio exceeds the level to the working set, and return its size."""
    for block in range(len(peaks)):
        if peaks[block] > level:
            for g in range(block * _BLOCK, min(len(ratios), (block + 1) * _BLOCK)):
                if ratios[g] > level and not working[g]:
                    working[g] = True
                    work[k] = g
                    k += 1
    return k


@compiled
def _dot(u, v):
    total = u.dtype.type(0)
    for j in range(len(u)):
        total += u[j] * v[j]
    return float(total)


@compiled
def _whole(width):
    """Round a width up to whole vectors."""
    return (width + _LANES - 1) // _LANES * _LANES


@compiled
def _subtract(out, u, w):
    """Subtract w·u from out."""
    for e in range(len(out)):
        out[e] -= w * u[e]


@compiled
def _subtract_rows(out, rows, code, support, count, n):  # noqa: PLR0917
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
        _subtract(out, rows[held[t]], code[held[t]])


@compiled
def _subtract_four(out, u0, u1, u2, u3, w0, w1, w2, w3):  # noqa: PLR0917
    for e in range(len(out)):
        out[e] -= w0 * u0[e] + w1 * u1[e] + w2 * u2[e] + w3 * u3[e]


@compiled_finite
def _ratios(q, inverse, ratios, peaks, n, nonnegative):  # noqa: PLR0917
    """Write ‖q_i‖/λw_i for all groups and the largest of each block, and return the largest."""
    zero = q.dtype.type(0)
    low = zero if nonnegative else q.dtype.type(-np.inf)
    if n == 1 and nonnegative:
        for g in range(len(ratios)):
            ratios[g] = q[g] * inverse[g]
    elif n == 1:
        for g in range(len(ratios)):
            ratios[g] = abs(q[g]) * inverse[g]
    else:
        for g in range(len(ratios)):
            total = zero
            for j in range(g * n, g * n + n):
                w = max(q[j], low)
                total += w * w
            ratios[g] = np.sqrt(total) * inverse[g]
    worst = zero
    for block in range(len(peaks)):
        peak = zero
        for g in range(block * _BLOCK, min(len(ratios), (block + 1) * _BLOCK)):
            peak = ratios[g] if ratios[g] > peak else peak
        peaks[block] = peak
        worst = peak if peak > worst else worst
    return float(worst)


@compiled
def _spread(out, entries, count, stride, before):
    """Copy a matrix to rows of another length."""
    for s in range(count):
        for e in range(count):
            out[s * stride + e] = entries[s * before + e]


@compiled
def _extend_gram(G, gram, atoms, line, columns, held, width, with_gram):  # noqa: PLR0917
    """Extend the Gram matrix of the working set by its coefficients from `held` on."""
    for s in range(held, width):
        row = G[s]
        if with_gram:
            whole = gram[columns[s]]
            if 16 * width > len(line):  # most cache lines are needed, and in order they arrive sooner
                line[:] = whole
                whole = line
            for t in range(width):
                row[t] = whole[columns[t]]
            for t in range(held):
                G[t, s] = row[t]
        else:
            atom = atoms[columns[s]]
            for t in range(s + 1):
                row[t] = _dot(atom, atoms[columns[t]])
                G[t, s] = row[t]


@compiled
def _solve(vectors, G, nonzero, limits, rates, k, n, nonnegative, square, goal):  # noqa: PLR0917
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


@compiled
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


@compiled
def _sweep_single(a, b, G, limits, rates, k, nonnegative):  # noqa: PLR0917
    least = 4 * np.finfo(a.dtype).eps
    infinite = a.dtype.type(np.inf)
    b_whole = b[: _whole(k)]
    moved, switched = False, False
    for t in range(k):
        old = a[t]
        u = old + b[t] * rates[t]
        limit = limits[t] * rates[t]
        new = u - min(max(u, -infinite if nonnegative else -limit), limit)
        if new != old:
            a[t] = new
            step = new - old
            _subtract(b_whole, G[t], step)
            moved |= abs(step) > least * abs(u)
            switched |= (old > 0) != (new > 0) or (old < 0) != (new < 0)
    return moved, switched


@compiled
def _sweep_groups(a, b, steps, G, limits, rates, k, n, nonnegative):  # noqa: PLR0917
    zero, one = a.dtype.type(0), a.dtype.type(1)
    least = 4 * np.finfo(a.dtype).eps
    b_whole = b[: _whole(k * n)]
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
                _subtract(b_whole, G[first + j], steps[j])
    return moved, switched


@compiled
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


@compiled
def _product(h, G, y, nonzero, count, width):  # noqa: PLR0917
    """Compute h = Gy for a y that is 0 except at these indices."""
    for e in range(width):
        h[e] = h.dtype.type(0)
    whole = count // 4 * 4
    end = np.uint64(_whole(width))
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
