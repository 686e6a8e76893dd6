"""Device code for groups of up to 64 vectors: X of a group, or of some small ones, is one tile of a program.

WIDE is the dtype of sums, NARROW that of factors. A tile has FOLD adjacent groups of N vectors in its COLUMNS.
"""

# A type checker cannot follow the decorated functions.
# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from gramian.kernels.gpu.triton_code.entries import chirp, prox_residual, subgradient, sum_of, value

__all__ = ["fused_apply", "fused_factor", "fused_gram", "fused_update"]


@triton.jit
def _columns(block, m, N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the group and the member of every column of a tile, and whether the column exists."""
    column = tl.arange(0, COLUMNS)
    group = block * FOLD + column // N
    there = (column < FOLD * N) & (group < m)
    return group.to(tl.int64), column % N, there


@triton.jit
def _load(P, start, last, stride, offset, there, ROWS: tl.constexpr):
    row = start + tl.arange(0, ROWS)
    mask = (row < last)[:, None] & there[None, :]
    return tl.load(P + row.to(tl.int64)[:, None] * stride + offset[None, :], mask=mask, other=0.0)


@triton.jit
def _store(D, tile, start, last, stride, offset, there, ROWS: tl.constexpr):
    row = start + tl.arange(0, ROWS)
    mask = (row < last)[:, None] & there[None, :]
    where = D + row.to(tl.int64)[:, None] * stride + offset[None, :]
    tl.store(where, tile.to(D.dtype.element_ty), mask=mask)


@triton.jit
def _gram(
    P, first, last, stride, offset, there,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Form PᵀP of all columns of a tile over some rows."""
    gram = tl.zeros((COLUMNS, COLUMNS), WIDE)
    for start in range(first, last, ROWS):
        rows = _load(P, start, last, stride, offset, there, ROWS).to(NARROW)
        gram += tl.dot(tl.trans(rows), rows, input_precision=PRECISION, out_dtype=WIDE)
    return gram


@triton.jit
def _residual(gram, group, member, there, WIDE: tl.constexpr):
    """Return X of the groups of a tile as diagonal blocks, zero elsewhere, and the mask of these blocks."""
    gram = 0.5 * gram + 0.5 * tl.trans(gram)  # X_jk and X_kj are rounded differently
    same = (group[:, None] == group[None, :]) & there[:, None] & there[None, :]
    one = (member[:, None] == member[None, :]).to(WIDE)
    return tl.where(same, gram - one, 0.0), same


@triton.jit
def _group_sum(columns, same):
    """Sum over the columns of each group; every column gets the sum of its group."""
    return tl.sum(tl.where(same, columns[None, :], 0.0), axis=1)


@triton.jit
def _power_step(v, M, unit, tiny):
    size = tl.maximum(tl.sqrt(tl.sum(v * v, axis=0)), tiny)
    return tl.sum((v / size / unit)[:, None] * M, axis=0)


@triton.jit
def _norm(M, same, there, N: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr):
    """Estimate ‖M‖₂ of each group; see `gramian.kernels.norms.spectral_norm`."""
    sizes = tl.abs(M)
    sums = tl.sum(sizes, axis=1)
    bound = tl.max(tl.where(same, sums[None, :], 0.0), axis=1)
    if N > 16:  # then the tile has one group
        largest = tl.max(tl.max(sizes, axis=1), axis=0)
        top = tl.max(sums, axis=0)
        tiny: tl.constexpr = 2.2250738585072014e-308 if WIDE == tl.float64 else 1.1754943508222875e-38
        unit = tl.maximum(top, tiny)
        column = tl.arange(0, COLUMNS)
        heaviest = tl.argmax(sums, axis=0)
        a = tl.sum(tl.where((column == heaviest)[:, None], M, 0.0), axis=0) / unit
        b = tl.where(there, chirp(column), 0.0).to(WIDE)
        for _ in tl.static_range(2):
            a, b = _power_step(a, M, unit, tiny), _power_step(b, M, unit, tiny)
        power = tl.sqrt(tl.maximum(tl.sum(a * a, axis=0), tl.sum(b * b, axis=0))) * unit
        bound = tl.minimum(bound, tl.maximum(power, largest))
    return bound


@triton.jit
def _negative_step(
    X, same, member, there, tau, parameter,
    N: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr, PENALTY: tl.constexpr,
):  # fmt: skip
    """Return −S of every group, and for each column whether X of its group is finite; see `gramian.rules.proximal`."""
    finite = _group_sum(tl.sum(X * 0, axis=1), same) == 0
    near = tl.sqrt(_group_sum(tl.sum(X * X, axis=1), same)) <= 0.1
    one = tl.where(same & (member[:, None] == member[None, :]), 1.0, 0.0).to(WIDE)
    w = tl.full((COLUMNS,), 1.0, WIDE)
    far = tl.max(tl.where(there & (near == 0), 1, 0), axis=0)
    if far == 1:
        w = tl.where(near, 1.0, tl.maximum(_norm(X + one, same, there, N, COLUMNS, WIDE), 1.0))
    C = tl.where(same, prox_residual(X, (tau * w)[None, :], parameter, PENALTY), 0.0)
    limit = w
    if far == 1:
        within = tl.sqrt(_group_sum(tl.sum(C * C, axis=1), same)) <= w
        limit = tl.where(near | within, w, tl.maximum(w, _norm(C, same, there, N, COLUMNS, WIDE)))
        finite = finite & (limit * 0 == 0)
    return C * (-0.5 / limit)[None, :], finite


@triton.jit
def _finite_rows(P, length, stride, offset, there, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Return a number for each column that is 0 if all its entries are finite, and otherwise NaN."""
    bad = tl.zeros((COLUMNS,), WIDE)
    for start in range(0, length, ROWS):
        bad += tl.sum(_load(P, start, length, stride, offset, there, ROWS).to(WIDE) * 0, axis=0)
    return bad


@triton.jit
def _factor(
    P, X, same, member, there, length, p_l, offset, scale, parameter,
    N: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, PENALTY: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Return μ(X) of the group of each column, the factor of P (scale·G, or −S), and whether a group has a factor."""
    total = _group_sum(tl.sum(tl.where(same, value(X, parameter, PENALTY), 0.0), axis=1), same)
    if STEP:
        M, finite = _negative_step(X, same, member, there, scale, parameter, N, COLUMNS, WIDE, PENALTY)
        known = finite
        if tl.max(tl.where(there & (finite == 0), 1, 0), axis=0) == 1:
            # A finite group whose Gram matrix overflows is halved, the largest change that a step may make.
            bad = _finite_rows(P, length, p_l, offset, there, COLUMNS, ROWS, WIDE)
            known = finite | (_group_sum(bad, same) == 0)
            half = tl.where(same & (member[:, None] == member[None, :]), -0.5, 0.0).to(WIDE)
            M = tl.where((known & (finite == 0))[None, :], half, M)
    else:
        # The sign of a NaN is 0, which would hide it.
        known = total * 0 == 0
        M = tl.where(same, scale * subgradient(X, parameter, PENALTY), 0.0)
    return total, tl.where(same & (known == 0)[None, :], float("nan"), M), known


@triton.jit
def fused_gram(
    P, X, length, m, p_l, p_m, p_n, span,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Write X[m, n, n]; or, SPLIT, PᵀP over `span` rows each to X[splits, m, n, n]."""
    block, split = tl.program_id(0), tl.program_id(1)
    group, member, there = _columns(block, m, N, FOLD, COLUMNS)
    first = split * span
    last = tl.minimum(first + span, length)
    gram = _gram(P, first, last, p_l, group * p_m + member * p_n, there, COLUMNS, ROWS, WIDE, NARROW, PRECISION)
    tile, same = _residual(gram, group, member, there, WIDE)
    if SPLIT:
        tile = gram
    where = X + split.to(tl.int64) * m * (N * N) + (group * N + member)[:, None] * N + member[None, :]
    tl.store(where, tile, mask=same)


@triton.jit
def fused_factor(
    P, X, M, values, rate, length, m, p_l, p_m, p_n, splits, scale, parameter,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    PENALTY: tl.constexpr, STEP: tl.constexpr, RATE: tl.constexpr,
):  # fmt: skip
    """Sum PᵀP over the splits; write the factor of P to M[m, n, n] and μ(X) to values[m]."""
    group, member, there = _columns(tl.program_id(0), m, N, FOLD, COLUMNS)
    same = (group[:, None] == group[None, :]) & there[:, None] & there[None, :]
    where = (group * N + member)[:, None] * N + member[None, :]
    gram = tl.zeros((COLUMNS, COLUMNS), WIDE)
    for _ in range(splits):
        gram += tl.load(X + where, mask=same, other=0.0)
        X += m * (N * N)
    tile, same = _residual(gram, group, member, there, WIDE)
    if RATE:
        scale = scale * tl.load(rate).to(WIDE)
    total, factor, _ = _factor(
        P, tile, same, member, there, length, p_l, group * p_m + member * p_n, scale, parameter,
        N, COLUMNS, ROWS, WIDE, PENALTY, STEP,
    )  # fmt: skip
    tl.store(values + group, total, mask=there & (member == 0))
    tl.store(M + where, factor, mask=same)


@triton.jit
def fused_update(
    P, D, values, rate, length, m, p_l, p_m, p_n, d_l, d_m, d_n, scale, parameter,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr, PENALTY: tl.constexpr, EXACT: tl.constexpr, STEP: tl.constexpr,
    ADD: tl.constexpr, RATE: tl.constexpr,
):  # fmt: skip
    """Write μ(X) to values[m], and to D[l, m, n] scale·PG, or for a STEP with τ = scale, −PS or P − PS; D may be P.

    With a RATE, τ is its product with the number in memory.
    """
    block = tl.program_id(0)
    group, member, there = _columns(block, m, N, FOLD, COLUMNS)
    offset = group * p_m + member * p_n
    gram = _gram(P, 0, length, p_l, offset, there, COLUMNS, ROWS, WIDE, NARROW, PRECISION)
    X, same = _residual(gram, group, member, there, WIDE)
    if RATE:
        scale = scale * tl.load(rate).to(WIDE)
    total, M, known = _factor(
        P, X, same, member, there, length, p_l, offset, 1.0 if EXACT else scale, parameter,
        N, COLUMNS, ROWS, WIDE, PENALTY, STEP,
    )  # fmt: skip
    tl.store(values + group, total, mask=there & (member == 0))
    M = tl.where(known[None, :], M, 0.0)  # 0·NaN would spread a NaN to other groups of the tile
    for start in range(0, length, ROWS):
        rows = _load(P, start, length, p_l, offset, there, ROWS)
        rows = tl.where(known[None, :], rows, 0.0)
        if EXACT:  # G is exact in the dtype of P: its entries are signs
            product = tl.dot(rows.to(NARROW), M.to(NARROW), input_precision=PRECISION, out_dtype=WIDE) * scale
        else:
            product = tl.dot(rows.to(WIDE), M, input_precision=PRECISION, out_dtype=WIDE)
        if ADD:
            product += rows.to(WIDE)
        product = tl.where(known[None, :], product, float("nan"))
        tl.debug_barrier()  # D may be P: all threads have read these rows before one writes them
        _store(D, product, start, length, d_l, group * d_m + member * d_n, there, ROWS)


@triton.jit
def fused_apply(
    P, M, D, values, total, length, m, p_l, p_m, p_n, d_l, d_m, d_n, span,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    PRECISION: tl.constexpr, ADD: tl.constexpr, TOTAL: tl.constexpr,
):  # fmt: skip
    """Write PM, or P + PM, to D[l, m, n], which may be P, for M[m, n, n]; `span` rows in a program.

    For a TOTAL, the first program writes the sum of values[m], in a fixed order.
    """
    if TOTAL:  # noqa: SIM102, known when it is compiled
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            tl.store(total, sum_of(values, m, 1024, WIDE))
    group, member, there = _columns(tl.program_id(0), m, N, FOLD, COLUMNS)
    first = tl.program_id(1) * span
    last = tl.minimum(first + span, length)
    same = (group[:, None] == group[None, :]) & there[:, None] & there[None, :]
    factor = tl.load(M + (group * N + member)[:, None] * N + member[None, :], mask=same, other=0.0)
    offset = group * p_m + member * p_n
    clean = there | (there == 0)
    if FOLD > 1:  # 0·NaN would spread a NaN to other groups of the tile
        bad = tl.sum(factor * 0, axis=0)
        for start in range(first, last, ROWS):
            bad += tl.sum(_load(P, start, last, p_l, offset, there, ROWS).to(WIDE) * 0, axis=0)
        clean = _group_sum(bad, same) == 0
        factor = tl.where(clean[:, None], factor, 0.0)
    for start in range(first, last, ROWS):
        rows = _load(P, start, last, p_l, offset, there, ROWS).to(WIDE)
        if FOLD > 1:
            rows = tl.where(clean[None, :], rows, 0.0)
        product = tl.dot(rows, factor, input_precision=PRECISION, out_dtype=WIDE)
        if ADD:
            product += rows
        product = tl.where(clean[None, :], product, float("nan"))
        tl.debug_barrier()  # D may be P
        _store(D, product, start, last, d_l, group * d_m + member * d_n, there, ROWS)
