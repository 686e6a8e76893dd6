"""The loops of coordinate descent: for each sample, rounds of a small problem on a working set of groups."""

# Numba code has no types to check; Numba compiles these plain Python loops.
# pyright: basic

import numpy as np

from gramian.kernels.cpu.compiled import compiled

__all__ = ["descend"]

_FIRST, _GROWTH = 12, 1.0
_SHARE = 0.25
_SWEEPS, _BEFORE_NEWTON = 200, 2
_LARGEST_NEWTON = 400
_EVERY = 1


@compiled
def descend(x, q_all, codes, atoms, gram, thresholds, curvature, residuals, results, todo, size, nonnegative, tol, last_round, longest, unit, start, stop):  # noqa: PLR0912, PLR0913, PLR0914, PLR0915, PLR0917
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
        start: First entry of `todo`.
        stop: Entry after the last one.
    """
    p, length = atoms.shape
    m = len(curvature)
    n = size
    real = codes.dtype.type
    zero = real(0)
    covariance = len(gram) > 0
    q = np.empty(p, codes.dtype)
    ratios = np.empty(m, codes.dtype)
    support = np.empty(m, np.int64)
    violators = np.empty(m, np.int64)
    work = np.empty(m, np.int64)
    active = np.zeros(m, np.bool_)
    capacity = 0
    G = np.empty((0, 0), codes.dtype)
    H = np.empty((0, 0), np.float64)
    a = np.empty(0, codes.dtype)
    b = np.empty(0, codes.dtype)
    b0 = np.empty(0, codes.dtype)
    a0 = np.empty(0, codes.dtype)
    thr = np.empty(m, codes.dtype)
    inv = np.empty(m, codes.dtype)
    d = np.empty(0, np.float64)
    index = np.empty(0, np.int64)
    for entry in range(start, stop):
        i = todo[entry]
        xi, code, c, r = x[i], codes[i], q_all[entry], residuals[entry]
        threshold = thresholds[i if len(thresholds) > 1 else 0]
        power = _dot(xi, xi)
        if not np.isfinite(power):
            code[:] = np.nan
            results[i, 0], results[i, 3] = np.inf, 2
            continue
        count = 0
        for g in range(m):
            for j in range(n):
                if code[g * n + j] != 0:
                    support[count] = g
                    count += 1
                    break
        exact = not covariance
        rounds = results[i, 2]
        while True:
            # q = Φᵀ(x − Φa), and the terms of the energy.
            if covariance:
                q[:] = c
                _subtract_rows(q, gram, code, support, count, n)
            else:
                q[:] = c
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
            worst = _ratios(q, threshold, ratios, n, nonnegative)
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
                loose = 0.0
                for g in range(m):
                    loose = max(loose, ratios[g] + slack / threshold[g])
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
            # The working set: the support, and the groups that violate most.
            k = 0
            for s in range(count):
                active[support[s]] = True
                work[k] = support[s]
                k += 1
            most = max(_FIRST, int(_GROWTH * count))
            level = real(1 + 1e-6)
            found = 0
            for g in range(m):
                if ratios[g] > level and not active[g]:
                    violators[found] = g
                    found += 1
            peak = real(worst)
            if found > most:
                low, high = level, peak
                for _ in range(8):
                    middle = real(0.5) * (low + high)
                    above = 0
                    for s in range(found):
                        if ratios[violators[s]] > middle:
                            above += 1
                    if above > most:
                        low = middle
                    else:
                        high = middle
                        if 2 * above >= most:
                            break
                level = min(high, peak * real(1 - 1e-6))
            for s in range(found):
                if ratios[violators[s]] > level:
                    work[k] = violators[s]
                    k += 1
            for s in range(count):
                active[support[s]] = False
            size_local = k * n
            if size_local > capacity:
                capacity = min(p, max(2 * capacity, size_local, 32))
                G = np.empty((capacity, capacity), codes.dtype)
                a, b = np.empty(capacity, codes.dtype), np.empty(capacity, codes.dtype)
                a0, b0 = np.empty(capacity, codes.dtype), np.empty(capacity, codes.dtype)
                newton = min(capacity, _LARGEST_NEWTON)
                H = np.empty((newton, newton), np.float64)
                d = np.empty(capacity, np.float64)
                index = np.empty(capacity, np.int64)
            for s in range(k):
                g = work[s]
                thr[s] = threshold[g]
                inv[s] = 1 / curvature[g] if curvature[g] > 0 else zero
                for j in range(n):
                    a[s * n + j] = code[g * n + j]
                    b[s * n + j] = q[g * n + j]
            _local_gram(G, gram, atoms, work, k, n, covariance)
            goal = max(0.5 * target, _SHARE * gap) if tol > 0 else _SHARE * gap
            _solve(a, b, a0, b0, G, H, d, index, thr, inv, k, n, nonnegative, square, goal)
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


@compiled
def _dot(u, v):
    total = u.dtype.type(0)
    for j in range(len(u)):
        total += u[j] * v[j]
    return float(total)


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
                    w0, w1, w2, w3 = code[held[0]], code[held[1]], code[held[2]], code[held[3]]
                    u0, u1, u2, u3 = rows[held[0]], rows[held[1]], rows[held[2]], rows[held[3]]
                    for k in range(len(out)):
                        out[k] -= w0 * u0[k] + w1 * u1[k] + w2 * u2[k] + w3 * u3[k]
                    filled = 0
    for t in range(filled):
        w, u = code[held[t]], rows[held[t]]
        for k in range(len(out)):
            out[k] -= w * u[k]


@compiled
def _ratios(q, threshold, ratios, n, nonnegative):
    """Write ‖q_i‖/λw_i for all groups, and return the largest."""
    real = q.dtype.type
    worst = real(0)
    if n == 1:
        for g in range(len(ratios)):
            v = max(q[g], real(0)) if nonnegative else abs(q[g])
            v /= threshold[g]
            ratios[g] = v
            worst = max(worst, v)
        return float(worst)
    for g in range(len(ratios)):
        v = real(0)
        for j in range(g * n, g * n + n):
            w = max(q[j], real(0)) if nonnegative else q[j]
            v += w * w
        v = np.sqrt(v) / threshold[g]
        ratios[g] = v
        worst = max(worst, v)
    return float(worst)


@compiled
def _local_gram(G, gram, atoms, work, k, n, covariance):  # noqa: PLR0917
    for s in range(k):
        for j in range(n):
            row = G[s * n + j]
            if covariance:
                whole = gram[work[s] * n + j]
                for t in range(k):
                    first = work[t] * n
                    for u in range(n):
                        row[t * n + u] = whole[first + u]
            else:
                atom = atoms[work[s] * n + j]
                for t in range(s + 1):
                    for u in range(n):
                        v = atoms[work[t] * n + u]
                        total = G.dtype.type(0)
                        for e in range(len(v)):
                            total += atom[e] * v[e]
                        row[t * n + u] = total
                        G[t * n + u, s * n + j] = total


@compiled
def _solve(a, b, a0, b0, G, H, d, index, thr, inv, k, n, nonnegative, square, goal):  # noqa: PLR0913, PLR0917
    """Minimise over the working set until its duality gap is at most the goal; b = Φᵀr of the working set."""
    width = k * n
    for j in range(width):
        a0[j], b0[j] = a[j], b[j]
    for sweep in range(_SWEEPS):
        if n == 1:
            moved, switched = _sweep_single(a, b, G, thr, inv, k, nonnegative)
        else:
            moved, switched = _sweep_groups(a, b, G, thr, inv, k, n, nonnegative)
        if not moved or _local_gap(a, b, a0, b0, thr, k, n, nonnegative, square) <= goal:
            return
        if sweep >= _BEFORE_NEWTON and not switched and sweep % _EVERY == 0:
            _newton(a, b, G, H, d, index, thr, k, n, nonnegative)


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
    zero = a.dtype.type(0)
    least = 4 * np.finfo(a.dtype).eps
    moved, switched = False, False
    for t in range(k):
        old = a[t]
        u = old + b[t] * inv[t]
        limit = thr[t] * inv[t]
        new = zero
        if u > limit:
            new = u - limit
        elif u < -limit and not nonnegative:
            new = u + limit
        if new != old:
            a[t] = new
            step, row = new - old, G[t]
            for s in range(k):
                b[s] -= step * row[s]
            moved |= abs(step) > least * abs(u)
            switched |= (old > 0) != (new > 0) or (old < 0) != (new < 0)
    return moved, switched


@compiled
def _sweep_groups(a, b, G, thr, inv, k, n, nonnegative):  # noqa: PLR0917
    zero, one = a.dtype.type(0), a.dtype.type(1)
    least = 4 * np.finfo(a.dtype).eps
    width = k * n
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
        steps = b[first : first + n].copy()
        for j in range(n):
            u = a[first + j] + steps[j] * inv[t]
            new = keep * u if u > 0 or not nonnegative else zero
            steps[j] = new - a[first + j]
            if nonnegative:
                switched |= (a[first + j] > 0) != (new > 0)
            a[first + j] = new
        for j in range(n):
            if steps[j] != 0:
                moved |= abs(steps[j]) > least * norm
                step, row = steps[j], G[first + j]
                for s in range(width):
                    b[s] -= step * row[s]
    return moved, switched


@compiled
def _newton(a, b, G, H, d, index, thr, k, n, nonnegative):  # noqa: PLR0912, PLR0917
    """Make a Newton step on the nonzero coefficients if it decreases the energy."""
    count = 0
    for j in range(k * n):
        if a[j] != 0:
            if count == len(H):
                return
            index[count] = j
            count += 1
    if count == 0:
        return
    # The Hessian, its Cholesky factor in place, and the negative gradient.
    for s in range(count):
        row = G[index[s]]
        for t in range(s + 1):
            H[s, t] = row[index[t]]
    first = 0
    while first < count:
        g = index[first] // n
        end, norm = first, 0.0
        while end < count and index[end] // n == g:
            norm += a[index[end]] * a[index[end]]
            end += 1
        norm = np.sqrt(norm)
        bend = thr[g] / norm
        for s in range(first, end):
            u = a[index[s]] / norm
            d[s] = b[index[s]] - thr[g] * u
            if n > 1:
                H[s, s] += bend
                for t in range(first, s + 1):
                    H[s, t] -= bend * u * a[index[t]] / norm
        first = end
    slope = 0.0
    for s in range(count):
        row = H[s]
        pivot = row[s]
        for t in range(s):
            v = row[t]
            other = H[t]
            for e in range(t):
                v -= row[e] * other[e]
            v /= other[t]
            row[t] = v
            pivot -= v * v
        if not pivot > 1e-7 * row[s]:
            return
        row[s] = np.sqrt(pivot)
        v = d[s]
        for e in range(s):
            v -= row[e] * d[e]
        d[s] = v / row[s]
        slope += d[s] * d[s]
    for s in range(count - 1, -1, -1):
        d[s] /= H[s, s]
        row = H[s]
        for e in range(s):
            d[e] -= row[e] * d[s]
    # The largest step before a coefficient changes its sign, if that matters.
    rate, crossing = 1.0, -1
    if n == 1 or nonnegative:
        for s in range(count):
            old = a[index[s]]
            if (old > 0 and old + rate * d[s] < 0) or (old < 0 and old + rate * d[s] > 0):
                rate, crossing = -old / d[s], s
    elif not _decreases(a, index, d, thr, count, n, slope):
        return
    real = a.dtype.type
    for s in range(count):
        j = index[s]
        old = a[j]
        new = real(0) if s == crossing else real(old + rate * d[s])
        step, row = new - old, G[j]
        a[j] = new
        for e in range(k * n):
            b[e] -= step * row[e]


@compiled
def _decreases(a, index, d, thr, count, n, slope):  # noqa: PLR0917
    """Whether a whole Newton step of groups decreases the energy by enough; `slope` is dᵀHd = −dᵀ∇."""
    change = -0.5 * slope
    # The quadratic model has the Hessian of the norms at a; the energy has the norms themselves.
    first = 0
    while first < count:
        g = index[first] // n
        end, before, after, inner, square = first, 0.0, 0.0, 0.0, 0.0
        while end < count and index[end] // n == g:
            old = a[index[end]]
            before += old * old
            after += (old + d[end]) * (old + d[end])
            inner += old * d[end]
            square += d[end] * d[end]
            end += 1
        before = np.sqrt(before)
        model = before + inner / before + 0.5 * (square - inner * inner / (before * before)) / before
        change += thr[g] * (np.sqrt(after) - model)
        first = end
    return change < -0.1 * slope
