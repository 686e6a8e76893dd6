"""Device code for groups of more than 64 vectors: the computation between two products of the library, tile by tile.

A program has a tile (i, j) of X with j ≥ i, and writes its mirror image too, so that X is exactly symmetric.
"""

# A type checker cannot follow the decorated functions.
# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from gramian.kernels.gpu.triton_code.entries import chirp, prox_residual, subgradient, value

__all__ = ["invalidate", "limit_step", "residual_tiles", "step_factor", "symmetric_tiles"]


@triton.jit
def residual_tiles(
    H, G, sums, n, parameter,
    TILE: tl.constexpr, WIDE: tl.constexpr, PENALTY: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Read H[m, n, n] = PᵀP, which need not be symmetric; write G(X), or for a STEP X, to G[m, n, n], which may be H.

    The shares of a tile in μ(X) and in ‖X‖²_F go to sums[m, tiles, tiles, 2].
    """
    down, across = tl.program_id(0), tl.program_id(1)
    if across >= down:
        group = tl.program_id(2).to(tl.int64)
        i = down * TILE + tl.arange(0, TILE)
        j = across * TILE + tl.arange(0, TILE)
        there = (i < n)[:, None] & (j < n)[None, :]
        row, column = i.to(tl.int64), j.to(tl.int64)
        upper = group * n * n + row[:, None] * n + column[None, :]
        lower = group * n * n + column[:, None] * n + row[None, :]
        mirrored = (j < n)[:, None] & (i < n)[None, :]
        a = tl.load(H + upper, mask=there, other=0.0).to(WIDE)
        b = tl.load(H + lower, mask=mirrored, other=0.0).to(WIDE)
        X = 0.5 * a + 0.5 * tl.trans(b)
        X = tl.where(there, X - (i[:, None] == j[None, :]).to(WIDE), 0.0)
        times = tl.where(down == across, 1.0, 2.0).to(WIDE)
        place = sums + ((group * tl.num_programs(0) + down) * tl.num_programs(1) + across) * 2
        tl.store(place, times * tl.sum(value(X, parameter, PENALTY)))
        tl.store(place + 1, times * tl.sum(X * X))
        out = X
        if not STEP:
            out = subgradient(X, parameter, PENALTY)
        out = out.to(G.dtype.element_ty)
        tl.debug_barrier()  # G may be H
        tl.store(G + upper, out, mask=there)
        if across > down:
            tl.store(G + lower, tl.trans(out), mask=mirrored)


@triton.jit
def symmetric_tiles(
    P, Q, G, sums, length, n, first, last, p_l, p_m, p_n, parameter,
    TILE: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr, PRECISION: tl.constexpr,
    PENALTY: tl.constexpr, STEP: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
    """Write G[I, i:] of every group for the block I from i = `first` to `last`, to G[m, last − first, n − first].

    For a STEP it writes X instead. The shares of a tile of X in μ(X), and for a STEP in ‖X‖²_F, go to
    sums[m, down, across, 2]. For a COPY, the programs on the diagonal write P to Q[m, l, n], in its dtype.
    """
    down, across = tl.program_id(0), tl.program_id(1)
    if across >= down:
        group = tl.program_id(2).to(tl.int64)
        i = first + down * TILE + tl.arange(0, TILE)
        j = first + across * TILE + tl.arange(0, TILE)
        k = tl.arange(0, ROWS)
        left = P + group * p_m + i.to(tl.int64)[None, :] * p_n
        right = P + group * p_m + j.to(tl.int64)[None, :] * p_n
        X = tl.zeros((TILE, TILE), WIDE)
        for start in range(0, length, ROWS):
            inside = (k < length - start)[:, None]
            row = (start + k).to(tl.int64)[:, None] * p_l
            a = tl.load(left + row, mask=inside & (i < last)[None, :], other=0.0).to(NARROW)
            b = tl.load(right + row, mask=inside & (j < n)[None, :], other=0.0).to(NARROW)
            if COPY:
                where = Q + (group * length + start + k.to(tl.int64))[:, None] * n + i[None, :]
                tl.store(where, a.to(Q.dtype.element_ty), mask=inside & ((i < last) & (i == j))[None, :])
            X += tl.dot(tl.trans(a), b, input_precision=PRECISION, out_dtype=WIDE)
        there = (i < last)[:, None] & (j < n)[None, :]
        within = (j < last) & (across == down)
        X = tl.where(within[None, :], 0.5 * X + 0.5 * tl.trans(X), X)
        X = tl.where(there, X - (i[:, None] == j[None, :]).to(WIDE), 0.0)
        # Entries to the right of the diagonal block count twice: X has them below the diagonal, too.
        times = tl.where(within, 1.0, 2.0).to(WIDE)
        place = sums + ((group * tl.num_programs(0) + down) * tl.num_programs(1) + across) * 2
        tl.store(place, tl.sum(value(X, parameter, PENALTY) * times[None, :]))
        out = X
        if STEP:
            tl.store(place + 1, tl.sum(X * X * times[None, :]))
        else:
            out = subgradient(X, parameter, PENALTY)
        out = out.to(G.dtype.element_ty)
        G += group * (last - first) * (n - first)
        row, column = (i - first).to(tl.int64), (j - first).to(tl.int64)
        tl.store(G + row[:, None] * (n - first) + column[None, :], out, mask=there)
        # A branch: in a mask, the comparison of two numbers is int32 in Triton's interpreter, which 3.9 refuses there.
        if across > down:
            mirrored = (j < last)[:, None] & (i < last)[None, :]
            tl.store(G + column[:, None] * (n - first) + row[None, :], tl.trans(out), mask=mirrored)


@triton.jit
def _total(sums, group, which, down, across, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Sum the results of the tiles of a group; the lower tiles have none."""
    tiles = down * across
    total = tl.zeros((BLOCK,), WIDE)
    for start in range(0, tiles, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        written = (tile < tiles) & (tile % across >= tile // across)
        total += tl.load(sums + (group * tiles + tile) * 2 + which, mask=written, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _total_of_all(sums, m, down, across, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Sum μ(X) over the groups, from what their tiles wrote."""
    tiles = down * across
    total = tl.zeros((BLOCK,), WIDE)
    for start in range(0, m * tiles, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tile = i % tiles
        written = (i < m * tiles) & (tile % across >= tile // across)
        total += tl.load(sums + i.to(tl.int64) * 2, mask=written, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def invalidate(sums, G, values, down, across, g_m, width, BLOCK: tl.constexpr, WIDE: tl.constexpr, ADD: tl.constexpr):
    """Write μ(X) to values[m], or add it; where it is not finite, set the first row of G to NaN, so that PG is NaN.

    The sign of a NaN is computed as 0, which would hide it.
    """
    group = tl.program_id(0).to(tl.int64)
    total = _total(sums, group, 0, down, across, BLOCK, WIDE)
    if ADD:
        total += tl.load(values + group)
    tl.store(values + group, total)
    if total * 0 != 0:
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            bad = tl.full((BLOCK,), float("nan"), WIDE).to(G.dtype.element_ty)
            tl.store(G + group * g_m + column, bad, mask=column < width)


@triton.jit
def _rows(
    X, start, n, tau, parameter, ROWS: tl.constexpr, WIDTH: tl.constexpr, PENALTY: tl.constexpr, SHRUNK: tl.constexpr
):
    """Load some rows of X + I, or SHRUNK of C."""
    row = start + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    there = (row < n)[:, None] & (column < n)[None, :]
    x = tl.load(X + row.to(tl.int64)[:, None] * n + column[None, :], mask=there, other=0.0)
    if SHRUNK:
        x = tl.where(there, prox_residual(x, tau, parameter, PENALTY), 0.0)
    else:
        x = tl.where(there & (row[:, None] == column[None, :]), x + 1, x)
    return x


@triton.jit
def _products(
    X, a, b, scratch, n, tau, parameter, ROWS: tl.constexpr, WIDTH: tl.constexpr, PENALTY: tl.constexpr,
    SHRUNK: tl.constexpr,
):  # fmt: skip
    """Return Ma and Mb for the symmetric M of `_rows`, which is read once."""
    for start in range(0, n, ROWS):
        row = start + tl.arange(0, ROWS)
        x = _rows(X, start, n, tau, parameter, ROWS, WIDTH, PENALTY, SHRUNK)
        tl.store(scratch + row, tl.sum(x * a[None, :], axis=1), mask=row < n)
        tl.store(scratch + n + row, tl.sum(x * b[None, :], axis=1), mask=row < n)
    tl.debug_barrier()
    column = tl.arange(0, WIDTH)
    a = tl.load(scratch + column, mask=column < n, other=0.0)
    b = tl.load(scratch + n + column, mask=column < n, other=0.0)
    tl.debug_barrier()
    return a, b


@triton.jit
def _norms(
    X, scratch, n, tau, parameter, ROWS: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr, PENALTY: tl.constexpr,
    SHRUNK: tl.constexpr,
):  # fmt: skip
    """Return ‖M‖_F and the estimate of ‖M‖₂ of `gramian.kernels.norms.spectral_norm`, and whether M is finite."""
    sums = tl.zeros((WIDTH,), WIDE)
    squares = tl.zeros((WIDTH,), WIDE)
    most = tl.zeros((WIDTH,), WIDE)
    for start in range(0, n, ROWS):
        x = _rows(X, start, n, tau, parameter, ROWS, WIDTH, PENALTY, SHRUNK)
        size = tl.abs(x)
        sums += tl.sum(size, axis=0)
        squares += tl.sum(size * size, axis=0)
        most = tl.maximum(most, tl.max(size, axis=0))
    bound = tl.max(sums, axis=0)
    finite = tl.sum(sums * 0, axis=0) == 0
    tiny: tl.constexpr = 2.2250738585072014e-308 if WIDE == tl.float64 else 1.1754943508222875e-38
    norm = bound
    if (n > 16) & finite:
        unit = tl.maximum(bound, tiny)
        column = tl.arange(0, WIDTH)
        heaviest = tl.argmax(sums, axis=0)
        x = tl.load(X + heaviest.to(tl.int64) * n + column, mask=column < n, other=0.0)
        if SHRUNK:
            x = tl.where(column < n, prox_residual(x, tau, parameter, PENALTY), 0.0)
        else:
            x = tl.where(column == heaviest, x + 1, x)
        a = x / unit
        b = tl.where(column < n, chirp(column), 0.0).to(WIDE)
        for _ in range(2):
            a = a / tl.maximum(tl.sqrt(tl.sum(a * a, axis=0)), tiny) / unit
            b = b / tl.maximum(tl.sqrt(tl.sum(b * b, axis=0)), tiny) / unit
            a, b = _products(X, a, b, scratch, n, tau, parameter, ROWS, WIDTH, PENALTY, SHRUNK)
        power = tl.sqrt(tl.maximum(tl.sum(a * a, axis=0), tl.sum(b * b, axis=0))) * unit
        norm = tl.minimum(bound, tl.maximum(power, tl.max(most, axis=0)))
    return tl.sqrt(tl.sum(squares, axis=0)), norm, finite


@triton.jit
def limit_step(
    P, X, sums, values, total, limits, scratch, rate, length, n, m, down, across, p_l, p_m, p_n, tau, parameter,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr, PENALTY: tl.constexpr, RATE: tl.constexpr,
    WRITE: tl.constexpr,
):  # fmt: skip
    """Write μ(X) to values[m], its sum to total, and to limits[m, 2] the τw and −1/2·size of `gramian.rules.proximal`.

    The second is 0 for a finite group whose Gram matrix overflows, and NaN for a group that is not finite. With WRITE,
    X is overwritten with −S. With a RATE, τ is its product with the number in memory.
    """
    group = tl.program_id(0).to(tl.int64)
    if RATE:
        tau = tau * tl.load(rate).to(WIDE)
    if tl.program_id(0) == 0:
        tl.store(total, _total_of_all(sums, m, down, across, 1024, WIDE))
    tl.store(values + group, _total(sums, group, 0, down, across, 256, WIDE))
    size = tl.sqrt(_total(sums, group, 1, down, across, 256, WIDE))
    X += group * n * n
    scratch += group * 2 * n
    w = 1.0 + 0 * size
    limit = w
    if size <= 0.1:
        factor = -0.5 / limit
    else:
        _far, gram, finite = _norms(X, scratch, n, tau, parameter, ROWS, WIDTH, WIDE, PENALTY, False)
        w = tl.maximum(gram, 1.0)
        frobenius, norm, _known = _norms(X, scratch, n, tau * w, parameter, ROWS, WIDTH, WIDE, PENALTY, True)
        limit = tl.where(frobenius <= w, w, tl.maximum(w, norm))
        factor = -0.5 / limit
        if (finite == 0) | (limit * 0 != 0):
            bad = tl.zeros((WIDTH,), WIDE)
            member = tl.arange(0, WIDTH)
            at = P + group * p_m + member.to(tl.int64) * p_n
            for _ in range(length):
                bad += tl.load(at, mask=member < n, other=0.0).to(WIDE) * 0
                at += p_l
            factor = tl.sum(bad, axis=0)
    tl.store(limits + group * 2, tau * w)
    tl.store(limits + group * 2 + 1, factor)
    if WRITE:
        tl.debug_barrier()  # all threads have read X before one overwrites it
        column = tl.arange(0, WIDTH)
        for start in range(0, n, ROWS):
            row = start + tl.arange(0, ROWS)
            there = (row < n)[:, None] & (column < n)[None, :]
            where = X + row.to(tl.int64)[:, None] * n + column[None, :]
            half = tl.where(row[:, None] == column[None, :], -0.5, 0.0).to(WIDE)
            x = tl.load(where, mask=there, other=0.0)
            tl.store(where, _negative_factor(x, tau * w, factor, half, parameter, PENALTY), mask=there)


@triton.jit
def _negative_factor(x, tau, factor, half, parameter, PENALTY: tl.constexpr):
    step = tl.where(factor == 0, half, prox_residual(x, tau, parameter, PENALTY) * factor)
    # The prox residual of a NaN need not be one.
    return tl.where(factor * 0 == 0, step, float("nan"))


@triton.jit
def step_factor(X, M, limits, n, parameter, BLOCK: tl.constexpr, WIDE: tl.constexpr, PENALTY: tl.constexpr):
    """Write −S to M[m, n, n], which may be X."""
    group = tl.program_id(1).to(tl.int64)
    tau, factor = tl.load(limits + group * 2), tl.load(limits + group * 2 + 1)
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = entry < n.to(tl.int64) * n
    x = tl.load(X + group * n * n + entry, mask=there, other=0.0)
    half = tl.where(entry % n == entry // n, -0.5, 0.0).to(WIDE)
    tl.store(M + group * n * n + entry, _negative_factor(x, tau, factor, half, parameter, PENALTY), mask=there)
