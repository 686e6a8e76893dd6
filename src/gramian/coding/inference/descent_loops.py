"""The loops of coordinate descent: for each sample, rounds of a small problem on a working set of groups."""

# Numba code has no types to check; Numba compiles these plain Python loops.
# pyright: basic

import numpy as np

from gramian.kernels.cpu.compiled import compiled, compiled_finite

__all__ = ["descend"]

_FIRST, _GROWTH = 24, 1.0
_SHARE = 0.25
_SWEEPS = 200
_PRODUCTS, _ACCURACY = 20, 1e-3
_BLOCK = 32
_VECTORS = 10
_LANES = 32


@compiled
def descend(x, q_all, codes, atoms, gram, thresholds, curvature, residuals, results, todo, size, nonnegative, tol, last_round, longest, unit, cold, start, stop):  # noqa: PLR0912, PLR0913, PLR0914, PLR0915, PLR0917
    """Run rounds of coordinate descent for the samples todo[start:stop].

    Args:
        x: Samples [batch, l].
        q_all: Correlations; of the samples if the Gram matrix is there, else of the residuals [todo, p].
        codes: Codes [batch, p]; read and overwritten.
        atoms: The atoms [p, l], in rows.
        gram: Gram matrix [p, p] of all atoms; of shape [0, 0] if rounds compute what they need from the atoms.
        thresholds: λw [batch or 1, m].
        curvature: For each group, an upper bound of the largest eigenvalue of its Gram matrix [m].
        residuals: Residuals [todo, l]; overwritten.
        results: Gap, rounding, rounds and state of each sample [batch, 4].
        todo: Indices of samples.
        size: n.
        nonnegative: Whether codes must not be negative.
        tol: Relative gap.
        last_round: Number of rounds after which to stop.
        longest: Length of the longest atom.
        unit: Unit of rounding.
        cold: Whether all codes are 0.
        start: First entry of `todo`.
        stop: Entry after the last one.
    """
    p = len(atoms)
    m, n = len(curvature), size
    real = codes.dtype.type
    zero = real(0)
    covariance = len(gram) > 0
    q = np.empty(p, codes.dtype)
    ratios = np.empty(m, codes.dtype)
    peaks = np.empty((m + _BLOCK - 1) // _BLOCK, codes.dtype)
    support = np.empty(m, np.int64)
    line = np.empty(p, codes.dtype)
    work = np.empty(m, np.int64)
    working = np.zeros(m, np.bool_)
    thr = np.empty(m, codes.dtype)
    inv = np.empty(m, codes.dtype)
    shared = len(thresholds) == 1
    inverse = 1 / thresholds[0]
    steepest = float(inverse.max())
    capacity, stride = 0, 0
    entries = np.empty(0, codes.dtype)
    spare = np.empty(0, codes.dtype)
    local = np.empty((_VECTORS, 0), codes.dtype)
    indices = np.empty((2, 0), np.int64)
    usual = 0
    for entry in range(start, stop):
        i = todo[entry]
        xi, code, c, r = x[i], codes[i], q_all[entry], residuals[entry]
        threshold = thresholds[0 if shared else i]
        if not shared:
            for g in range(m):
                inverse[g] = 1 / threshold[g]
            steepest = float(inverse.max())
        power = _dot(xi, xi)
        if not np.isfinite(power):
            code[:] = np.nan
            results[i, 0], results[i, 3] = np.inf, 2
            continue
        count = 0
        if not cold:
            for g in range(m):
                for j in range(n):
                    if code[g * n + j] != 0:
                        support[count] = g
                        count += 1
                        break
        k = 0
        exact = not covariance
        rounds = results[i, 2]
        while True:
            # q = Φᵀ(x − Φa), and the terms of the energy.
            q[:] = c
            if covariance:
                _subtract_rows(q, gram, code, support, count, n)
            penalty, total, inner, allowed = 0.0, 0.0, 0.0, True
            for s in range(count):
                g = support[s]
                norm = 0.0
                for j in range(g * n, g * n + n):
                    norm += code[j] * code[j]
                    total += abs(code[j])
                    inner += code[j] * q[j]
                    if nonnegative and code[j] < 0:
                        allowed = False
                penalty += threshold[g] * np.sqrt(norm)
            if covariance:
                square = power
                for s in range(count):
                    g = support[s]
                    for j in range(g * n, g * n + n):
                        square -= code[j] * (c[j] + q[j])
                square = max(square, 0.0)
            else:
                square = _dot(r, r)
            worst = _ratios(q, inverse, ratios, peaks, n, nonnegative)
            terms = np.sqrt(power) + longest * total
            primal = 0.5 * square + penalty
            scale = min(1.0, 1 / worst) if worst > 0 else 1.0
            gap = primal - scale * (square + inner) + 0.5 * scale * scale * square
            rounding = unit * (primal + power + terms * np.sqrt(square) + unit * terms * terms)
            target = 0.9 * tol * primal
            last = rounds >= last_round
            if last or exact or (tol > 0 and gap <= target + rounding):
                # The certificate, from the residual itself.
                if covariance:
                    r[:] = xi
                    _subtract_rows(r, atoms, code, support, count, n)
                    square = _dot(r, r)
                primal = 0.5 * square + penalty
                product = _dot(xi, r)
                rounding = unit * (primal + power + terms * np.sqrt(square) + unit * terms * terms)
                slack = unit * longest * np.sqrt(n * square)
                if covariance:
                    slack = unit * longest * np.sqrt(n) * (np.sqrt(power) + 2 * longest * total)
                loose = worst + slack * steepest
                safe = min(1.0, 1 / loose) if loose > 0 else 1.0
                scale = min(1.0, 1 / worst) if worst > 0 else 1.0
                plain = primal - scale * product + 0.5 * scale * scale * square
                gap = primal - safe * product + 0.5 * safe * safe * square
                gap = max(plain, gap) + rounding
                small = gap <= tol * primal + (2 * rounding if tol > 0 else 0.0)
                results[i, 0], results[i, 1] = max(gap, 0.0), max(gap - plain, 0.0)
                if not (allowed and np.isfinite(gap)):
                    results[i, 0], results[i, 1], small = np.inf, 0.0, False
                results[i, 2] = rounds
                results[i, 3] = 1 if small else (2 if last and exact else 0)
                if small or last or covariance:
                    break  # without success, exact correlations tell more
            # The working set: the groups of the support, and those that violate most.
            if k == 0 or k > 2 * count + _FIRST:
                for s in range(k):
                    working[work[s]] = False
                k = 0
            held = k
            for s in range(count if k == 0 else 0):
                working[support[s]] = True
                work[k] = support[s]
                k += 1
            most = max(_FIRST, int(_GROWTH * count))
            level, peak = real(1 + 1e-6), real(worst)
            if _above(ratios, level) > most:
                low, high = level, peak
                for _ in range(8):
                    middle = real(0.5) * (low + high)
                    above = _above(ratios, middle)
                    if above > most:
                        low = middle
                    else:
                        high = middle
                        if 2 * above >= most:
                            break
                level = min(high, peak * real(1 - 1e-6))
            for block in range(len(peaks)):
                if peaks[block] > level:
                    for g in range(block * _BLOCK, min(m, (block + 1) * _BLOCK)):
                        if ratios[g] > level and not working[g]:
                            working[g] = True
                            work[k] = g
                            k += 1
            width = k * n
            if width > capacity:
                capacity = _whole(min(p, max(2 * width, 64)))
                larger = np.zeros(capacity * capacity, codes.dtype)
                larger[: held * n * stride] = entries[: held * n * stride]
                entries = larger
                spare = np.zeros(capacity * capacity, codes.dtype)
                local = np.zeros((_VECTORS, capacity), codes.dtype)
                wider = np.empty((2, capacity), np.int64)
                wider[0, : held * n] = indices[0, : held * n]
                indices = wider
            # Rows close together: rows at multiples of 4096 bytes would displace one another in the cache.
            if held == 0:
                stride = max(_whole(width), min(usual, 4 * _whole(width)))
            elif width > stride:
                _spread(spare, entries, held * n, _whole(width), stride)
                entries, spare, stride = spare, entries, _whole(width)
            G = entries[: stride * stride].reshape(stride, stride)
            columns, index = indices[0], indices[1]
            a, b = local[0], local[1]
            for s in range(k):
                g = work[s]
                thr[s] = threshold[g]
                inv[s] = 1 / curvature[g] if curvature[g] > 0 else zero
                for j in range(n):
                    columns[s * n + j] = g * n + j
                    a[s * n + j] = code[g * n + j]
                    b[s * n + j] = q[g * n + j]
            _local_gram(G, gram, atoms, line, columns, held * n, width, covariance)
            goal = max(0.5 * target, _SHARE * gap) if tol > 0 else _SHARE * gap
            _solve(local, G, index, thr, inv, k, n, nonnegative, square, goal)
            count = 0
            changed = False
            for s in range(k):
                g = work[s]
                nonzero = False
                for j in range(n):
                    changed |= code[g * n + j] != a[s * n + j]
                    code[g * n + j] = a[s * n + j]
                    nonzero |= a[s * n + j] != 0
                if nonzero:
                    support[count] = g
                    count += 1
            rounds += 1
            if exact and not changed:
                rounds = last_round  # further rounds change nothing
            results[i, 2] = rounds
            if exact or not changed:
                r[:] = xi
                _subtract_rows(r, atoms, code, support, count, n)
                break
        for s in range(k):
            working[work[s]] = False
        usual = stride


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
def _above(ratios, level):
    zero, one = ratios.dtype.type(0), ratios.dtype.type(1)
    total = zero
    for g in range(len(ratios)):
        total += one if ratios[g] > level else zero
    return total


@compiled
def _subtract(out, u, w):
    """Subtract w·u from out."""
    for e in range(len(out)):
        out[e] -= w * u[e]


@compiled
def _subtract_rows(out, rows, code, support, count, n):
    """Subtract Σ_j code_j·rows_j over the coefficients of the support, four rows at a time."""
    held = np.empty(4, np.int64)
    filled = 0
    for s in range(count):
        for j in range(support[s] * n, support[s] * n + n):
            if code[j] != 0:
                held[filled] = j
                filled += 1
                if filled == 4:
                    _subtract_four(out, rows[held[0]], rows[held[1]], rows[held[2]], rows[held[3]], code[held[0]], code[held[1]], code[held[2]], code[held[3]])
                    filled = 0
    for t in range(filled):
        _subtract(out, rows[held[t]], code[held[t]])


@compiled
def _subtract_four(out, u0, u1, u2, u3, w0, w1, w2, w3):
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
def _local_gram(G, gram, atoms, line, columns, held, width, covariance):  # noqa: PLR0917
    """Extend the Gram matrix of the working set by its coefficients from `held` on."""
    for s in range(held, width):
        row = G[s]
        if covariance:
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
                v = _dot(atom, atoms[columns[t]])
                row[t] = v
                G[t, s] = v


@compiled
def _solve(local, G, index, thr, inv, k, n, nonnegative, square, goal):  # noqa: PLR0913, PLR0917
    """Minimise over the working set until its duality gap is at most the goal; b = Φᵀr of the working set."""
    a, b, a0, b0, steps = local[0], local[1], local[2], local[3], local[4]
    width = k * n
    for j in range(width):
        a0[j], b0[j] = a[j], b[j]
    for _ in range(_SWEEPS):
        if n == 1:
            moved, switched = _sweep_single(a, b, G, thr, inv, k, nonnegative)
        else:
            moved, switched = _sweep_groups(a, b, steps, G, thr, inv, k, n, nonnegative)
        if not moved or _local_gap(a, b, a0, b0, thr, k, n, nonnegative, square) <= goal:
            return
        if not switched:
            _newton(local, G, index, thr, k, n, nonnegative)


@compiled
def _local_gap(a, b, a0, b0, thr, k, n, nonnegative, square):  # noqa: PLR0917
    penalty, inner, worst = 0.0, 0.0, 0.0
    for s in range(k):
        norm, length = 0.0, 0.0
        for j in range(s * n, s * n + n):
            norm += a[j] * a[j]
            inner += a[j] * b[j]
            square -= (a[j] - a0[j]) * (b[j] + b0[j])
            if b[j] > 0 or not nonnegative:
                length += b[j] * b[j]
        penalty += thr[s] * np.sqrt(norm)
        worst = max(worst, length / (thr[s] * thr[s]))
    square = max(square, 0.0)
    scale = 1 / np.sqrt(worst) if worst > 1 else 1.0
    return 0.5 * square + penalty - scale * (square + inner) + 0.5 * scale * scale * square


@compiled
def _sweep_single(a, b, G, thr, inv, k, nonnegative):  # noqa: PLR0917
    least = 4 * np.finfo(a.dtype).eps
    infinite = a.dtype.type(np.inf)
    b_whole = b[: _whole(k)]
    moved, switched = False, False
    for t in range(k):
        old = a[t]
        u = old + b[t] * inv[t]
        limit = thr[t] * inv[t]
        new = u - min(max(u, -infinite if nonnegative else -limit), limit)
        if new != old:
            a[t] = new
            step = new - old
            _subtract(b_whole, G[t], step)
            moved |= abs(step) > least * abs(u)
            switched |= (old > 0) != (new > 0) or (old < 0) != (new < 0)
    return moved, switched


@compiled
def _sweep_groups(a, b, steps, G, thr, inv, k, n, nonnegative):  # noqa: PLR0917
    zero, one = a.dtype.type(0), a.dtype.type(1)
    least = 4 * np.finfo(a.dtype).eps
    b_whole = b[: _whole(k * n)]
    moved, switched = False, False
    for t in range(k):
        first = t * n
        norm, before = zero, zero
        for j in range(first, first + n):
            u = a[j] + b[j] * inv[t]
            before += a[j] * a[j]
            if u > 0 or not nonnegative:
                norm += u * u
        norm = np.sqrt(norm)
        limit = thr[t] * inv[t]
        keep = zero
        if norm > limit:
            keep = one - limit / norm
        elif before == 0:
            continue
        switched |= (before > 0) != (keep > 0)
        for j in range(n):
            u = a[first + j] + b[first + j] * inv[t]
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
def _newton(local, G, index, thr, k, n, nonnegative):  # noqa: PLR0912, PLR0914, PLR0915, PLR0917
    """Make a Newton step on the nonzero coefficients, computed by conjugate gradients, if it decreases the energy."""
    a, b, d, y, h = local[0], local[1], local[4], local[5], local[6]
    rest, diagonal, bends = local[7], local[8], local[9]
    zero, one = a.dtype.type(0), a.dtype.type(1)
    width = k * n
    count = 0
    for t in range(k):
        norm = zero
        for j in range(t * n, t * n + n):
            norm += a[j] * a[j]
        norm = np.sqrt(norm)
        bends[t] = thr[t] / norm if norm > 0 else zero
        for j in range(t * n, t * n + n):
            rest[j], diagonal[j], d[j] = zero, zero, zero
            if a[j] != 0:
                u = a[j] / norm
                rest[j] = b[j] - bends[t] * a[j]
                diagonal[j] = one / (G[j, j] + bends[t] * (one - u * u))
                index[count] = j
                count += 1
    # Conjugate gradients with a diagonal preconditioner, whose zeros keep the zeros of the coefficients.
    inner = zero
    for j in range(width):
        y[j] = diagonal[j] * rest[j]
        inner += y[j] * rest[j]
    enough = inner * a.dtype.type(_ACCURACY)
    for _ in range(_PRODUCTS):
        _product(h, G, y, index, count, width)
        if n > 1:
            for t in range(k):
                if bends[t] > 0:
                    along, norm = zero, thr[t] / bends[t]
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
            j = index[s]
            if a[j] * (a[j] + d[j]) < 0:
                d[j] = -a[j]
    for _ in range(2):
        _product(h, G, d, index, count, width)
        change = 0.0
        for t in range(k):
            if bends[t] > 0:
                before, after = zero, zero
                for j in range(t * n, t * n + n):
                    change += d[j] * (0.5 * h[j] - b[j])
                    before += a[j] * a[j]
                    after += (a[j] + d[j]) * (a[j] + d[j])
                change += thr[t] * (np.sqrt(after) - np.sqrt(before))
        if change < 0:
            for j in range(width):
                a[j] += d[j]
                b[j] -= h[j]
            return
        for j in range(width):
            d[j] *= a.dtype.type(0.25)
    return


@compiled
def _product(h, G, y, index, count, width):  # noqa: PLR0917
    """Compute h = Gy for a y that is 0 except at `index`."""
    for e in range(width):
        h[e] = h.dtype.type(0)
    whole = count // 4 * 4
    end = np.uint64(_whole(width))
    for s in range(0, whole, 4):
        i0, i1, i2, i3 = index[s], index[s + 1], index[s + 2], index[s + 3]
        w0, w1, w2, w3 = y[i0], y[i1], y[i2], y[i3]
        for e in range(np.uint64(0), end):
            h[e] += w0 * G[i0, e] + w1 * G[i1, e] + w2 * G[i2, e] + w3 * G[i3, e]
    for s in range(whole, count):
        i = index[s]
        w = y[i]
        for e in range(np.uint64(0), end):
            h[e] += w * G[i, e]
