"""The loops of coordinate descent: for each sample, rounds of a small problem on a working set of groups.

Numba's cache of these loops contains the machine code of `vectors` and `working_set`, but does not notice
changes in them: after a change, delete `__pycache__`.
"""

# Numba code has no types to check; Numba compiles these plain Python loops.
# pyright: basic

from typing import Any, NamedTuple

import numpy as np

from gramian.coding.inference.loops.compiled import compiled, inlined, inlined_finite
from gramian.coding.inference.loops.vectors import SAMPLES, copy, dot, multiply_block, subtract_rows
from gramian.coding.inference.loops.working_set import VECTORS, extend_gram, padded, solve, spread

__all__ = ["DONE", "LAST", "Problem", "descend"]

DONE, LAST = 1, 2
"""States of a sample: its gap is small enough, or it had its last round; 0 before."""

_FIRST, _GROWTH = 16, 1.0
"""A round adds as many groups as are active, times the growth, and at least the first number if as many violate."""
_LEVEL = 1 + 1e-6
_BISECTIONS = 8
_SHARE = 0.1
"""A round ends when the gap on the working set is this fraction of the gap before."""
_BLOCK = 32


class Problem(NamedTuple):
    """The data that the samples of a call share; arrays in the dtype of the samples.

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
        problem: The data that samples share.
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
    inverse = np.empty(m, codes.dtype)
    steepest = _invert(problem.thresholds[0], inverse)
    # The Gram matrix of the working set, in rows close together: rows at multiples of 4096 bytes would displace one
    # another in the cache.
    entries, spare = np.empty(0, codes.dtype), np.empty(0, codes.dtype)
    vectors, indices = np.empty((VECTORS, 0), codes.dtype), np.empty((2, 0), np.int64)
    capacity, stride, usual = 0, 0, 0
    correlations = np.zeros((SAMPLES, p), codes.dtype)
    residuals = np.zeros((SAMPLES, atoms.shape[1]), codes.dtype)
    todo = np.empty(SAMPLES, np.int64)
    for first in range(start, stop, SAMPLES):
        remaining = min(SAMPLES, stop - first)
        with_gram = len(gram) > 0
        for entry in range(remaining):
            todo[entry] = first + entry
        while remaining > 0:
            for entry in range(remaining):
                i = todo[entry]
                copy(residuals[entry], problem.samples[i])
                if not with_gram:
                    subtract_rows(residuals[entry], atoms, codes[i], support, _nonzero(codes[i], support, n), n)
            multiply_block(residuals, problem.dictionary, correlations, remaining)
            unfinished = 0
            for entry in range(remaining):
                i = todo[entry]
                x, code, c, r = problem.samples[i], codes[i], correlations[entry], residuals[entry]
                threshold = problem.thresholds[0 if len(problem.thresholds) == 1 else i]
                if len(problem.thresholds) > 1:
                    steepest = _invert(threshold, inverse)
                power = dot(x, x)
                if not np.isfinite(power):
                    for j in range(p):
                        code[j] = np.nan
                    results[i, 0], results[i, 1], results[i, 3] = np.inf, np.nan, LAST
                    continue
                count = 0 if cold and results[i, 2] == 0 else _nonzero(code, support, n)
                k = 0
                rounds = results[i, 2]
                while True:
                    # q = Dᵀr, the terms of the energy, and an estimate of the gap.
                    copy(q, c)
                    if with_gram:
                        subtract_rows(q, gram, code, support, count, n)
                    square, inner, penalty, total, allowed = _terms(
                        c, q, code, threshold, support, count, n, nonnegative
                    )
                    square = max(power - square, 0.0) if with_gram else dot(r, r)
                    worst = _ratios(q, inverse, ratios, peaks, n, nonnegative)
                    energy = 0.5 * square + penalty
                    gap = energy - _dual(worst, square + inner, square)
                    rounding = _rounding(problem, energy, power, square, total)
                    last = rounds >= problem.last_round
                    if last or not with_gram or (tol > 0 and gap <= 0.9 * tol * energy + rounding):
                        slack = problem.unit * problem.longest * np.sqrt(n * square)
                        if with_gram:
                            copy(r, x)
                            subtract_rows(r, atoms, code, support, count, n)
                            square = dot(r, r)
                            # The error of Dᵀx, and that of the Gram matrix and of its product with the codes.
                            slack = problem.unit * problem.longest * np.sqrt(n)
                            slack *= np.sqrt(power) + 2 * problem.longest * total
                        energy, product = 0.5 * square + penalty, dot(x, r)
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
                        capacity = padded(min(p, max(2 * width, 64)))
                        larger = np.zeros(capacity * capacity, codes.dtype)
                        for e in range(held * n * stride):
                            larger[e] = entries[e]
                        entries, spare = larger, np.zeros(capacity * capacity, codes.dtype)
                        vectors = np.zeros((VECTORS, capacity), codes.dtype)
                        indices = np.empty((2, capacity), np.int64)
                    if held == 0:
                        stride = max(padded(width), min(usual, 4 * padded(width)))
                    elif width > stride:
                        spread(spare, entries, held * n, padded(width), stride)
                        entries, spare, stride = spare, entries, padded(width)
                    G = entries[: stride * stride].reshape(stride, stride)
                    columns, nonzero = indices[0], indices[1]
                    a, b = vectors[0], vectors[1]
                    for s in range(k):
                        g = work[s]
                        limits[s], rates[s] = threshold[g], problem.rates[g]
                        for j in range(n):
                            columns[s * n + j] = g * n + j
                            a[s * n + j], b[s * n + j] = code[g * n + j], q[g * n + j]
                    extend_gram(G, gram, atoms, line, columns, held * n, width, with_gram)
                    goal = _SHARE * gap
                    if tol > 0:
                        goal = max(goal, 0.45 * tol * energy)
                    solve(vectors, G, nonzero, limits, rates, k, n, nonnegative, square, goal)
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
                        break
                usual = stride
                _clear(work, working, k)
                if results[i, 3] == 0:
                    todo[unfinished] = i
                    unfinished += 1
            remaining, with_gram = unfinished, False


@inlined
def _invert(threshold, inverse):
    """Write 1/λw, and return the largest."""
    largest = 0.0
    for g in range(len(threshold)):
        inverse[g] = 1 / threshold[g]
        largest = max(largest, inverse[g])
    return largest


@inlined
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


@inlined
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


@inlined
def _dual(worst, product, square):
    """Compute the value of the dual problem at the residual, scaled into its feasible set."""
    scale = 1 / worst if worst > 1 else 1.0
    return scale * product - 0.5 * scale * scale * square


@inlined
def _rounding(problem, energy, power, square, total):
    """Bound the rounding error of the energy and of the dual value, as `inference.base` does."""
    terms = np.sqrt(power) + problem.longest * total
    return problem.unit * (energy + power + terms * np.sqrt(square) + problem.unit * terms * terms)


@inlined
def _clear(work, working, k):
    for s in range(k):
        working[work[s]] = False
    return 0


@inlined
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


@inlined
def _above(ratios, level):
    zero, one = ratios.dtype.type(0), ratios.dtype.type(1)
    total = zero
    for g in range(len(ratios)):
        total += one if ratios[g] > level else zero
    return total


@inlined
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


@inlined_finite
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
