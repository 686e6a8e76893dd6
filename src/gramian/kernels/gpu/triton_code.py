"""The device code of the fused and the tiled kernel, in Triton, which is optional: imported at the first launch."""

# WIDE is the dtype of the sums, NARROW that of the factors.
# A type checker and a shape check cannot follow the decorated functions.
# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

__all__ = ["fused_apply", "fused_gradient", "fused_gram", "product", "strip"]


@triton.jit
def _value(x, parameter, PENALTY: tl.constexpr):
    size = tl.abs(x)
    if PENALTY == 0:
        return size
    if PENALTY == 1:
        slope = tl.minimum(size / parameter, 1.0)
        return slope * (size - 0.5 * parameter * slope)
    return x * x


@triton.jit
def _subgradient(x, parameter, PENALTY: tl.constexpr):
    if PENALTY == 0:
        return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
    if PENALTY == 1:
        return tl.minimum(tl.maximum(x / parameter, -1.0), 1.0)
    return 2 * x


@triton.jit
def _columns(block, m, N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the group and the member of every column of a tile, and whether the column exists."""
    column = tl.arange(0, COLUMNS)
    group = block * FOLD + column // N
    there = (column < FOLD * N) & (group < m)
    return group.to(tl.int64), column % N, there


@triton.jit
def _load(P, start, length, stride, offset, there, ROWS: tl.constexpr):
    row = start + tl.arange(0, ROWS)
    mask = (row < length)[:, None] & there[None, :]
    return tl.load(P + row.to(tl.int64)[:, None] * stride + offset[None, :], mask=mask, other=0.0)


@triton.jit
def _gram(
    P, length, m, p_l, p_m, p_n, block,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Form X of FOLD adjacent groups as the diagonal blocks of one matrix, zero elsewhere."""
    group, member, there = _columns(block, m, N, FOLD, COLUMNS)
    offset = group * p_m + member * p_n
    X = tl.zeros((COLUMNS, COLUMNS), WIDE)
    for start in range(0, length, ROWS):
        rows = _load(P, start, length, p_l, offset, there, ROWS).to(NARROW)
        X += tl.dot(tl.trans(rows), rows, input_precision=PRECISION, out_dtype=WIDE)
    X = 0.5 * X + 0.5 * tl.trans(X)  # X_jk and X_kj are rounded differently
    same = (group[:, None] == group[None, :]) & there[:, None] & there[None, :]
    one = (member[:, None] == member[None, :]).to(WIDE)
    return tl.where(same, X - one, 0.0), same


@triton.jit
def fused_gram(
    P, X, length, m, p_l, p_m, p_n,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write X[m, n, n]."""
    block = tl.program_id(0)
    tile, same = _gram(P, length, m, p_l, p_m, p_n, block, N, FOLD, COLUMNS, ROWS, WIDE, NARROW, PRECISION)
    group, member, _ = _columns(block, m, N, FOLD, COLUMNS)
    tl.store(X + (group * N + member)[:, None] * N + member[None, :], tile, mask=same)


@triton.jit
def fused_gradient(
    P, D, values, length, m, p_l, p_m, p_n, d_l, d_m, d_n, scale, parameter,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr, PENALTY: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Write scale·PG to D[l, m, n], and the row sums of the penalty's entries to values[m, n]."""
    block = tl.program_id(0)
    X, same = _gram(P, length, m, p_l, p_m, p_n, block, N, FOLD, COLUMNS, ROWS, WIDE, NARROW, PRECISION)
    group, member, there = _columns(block, m, N, FOLD, COLUMNS)
    sums = tl.sum(tl.where(same, _value(X, parameter, PENALTY), 0.0), axis=1)
    tl.store(values + group * N + member, sums, mask=there)
    # The sign of a NaN is 0, which would hide it; and 0·NaN would spread it to other groups of the tile.
    total = tl.sum(tl.where(same, sums[None, :], 0.0), axis=1)
    finite = total * 0 == 0
    G = tl.where(same, _subgradient(X, parameter, PENALTY), 0.0)
    for start in range(0, length, ROWS):
        rows = _load(P, start, length, p_l, group * p_m + member * p_n, there, ROWS)
        rows = tl.where(finite[None, :], rows, 0.0)
        if EXACT:  # G is exact in the dtype of P: its entries are signs
            change = tl.dot(rows.to(NARROW), G.to(NARROW), input_precision=PRECISION, out_dtype=WIDE)
        else:
            change = tl.dot(rows.to(WIDE), G, input_precision=PRECISION, out_dtype=WIDE)
        change = tl.where(finite[None, :], scale * change, float("nan"))
        row = start + tl.arange(0, ROWS)
        where = D + row.to(tl.int64)[:, None] * d_l + (group * d_m + member * d_n)[None, :]
        tl.store(where, change.to(D.dtype.element_ty), mask=(row < length)[:, None] & there[None, :])


@triton.jit
def fused_apply(
    P, M, D, length, m, p_l, p_m, p_n, d_l, d_m, d_n,
    N: tl.constexpr, FOLD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Write PM, or P + PM, to D[l, m, n], which may be P, for M[m, n, n]."""
    block = tl.program_id(0)
    group, member, there = _columns(block, m, N, FOLD, COLUMNS)
    same = (group[:, None] == group[None, :]) & there[:, None] & there[None, :]
    factor = tl.load(M + (group * N + member)[:, None] * N + member[None, :], mask=same, other=0.0)
    offset = group * p_m + member * p_n
    bad = tl.zeros((COLUMNS,), WIDE)
    for start in range(0, length, ROWS):
        bad += tl.sum(_load(P, start, length, p_l, offset, there, ROWS).to(WIDE) * 0, axis=0)
    bad += tl.sum(factor * 0, axis=0)
    finite = tl.sum(tl.where(same, bad[None, :], 0.0), axis=1) == 0
    factor = tl.where(finite[:, None], factor, 0.0)
    for start in range(0, length, ROWS):
        rows = _load(P, start, length, p_l, offset, there, ROWS).to(NARROW)
        rows = tl.where(finite[None, :], rows, 0.0)
        moved = tl.dot(rows, factor, input_precision=PRECISION, out_dtype=WIDE)
        if ADD:
            moved += rows
        moved = tl.where(finite[None, :], moved, float("nan"))
        row = start + tl.arange(0, ROWS)
        where = D + row.to(tl.int64)[:, None] * d_l + (group * d_m + member * d_n)[None, :]
        tl.store(where, moved.to(D.dtype.element_ty), mask=(row < length)[:, None] & there[None, :])


@triton.jit
def strip(
    P, G, sums, length, n, first, last, p_l, p_n, parameter,
    ACROSS: tl.constexpr, DOWN: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr, PENALTY: tl.constexpr,
):  # fmt: skip
    """Write G[I, i:] for the block I from `first` to `last`, and the share of each tile of X in μ(X) to `sums`.

    Tiles below the diagonal mirror those above it bit for bit; their `sums` are not written. DOWN and ACROSS must be
    equal.
    """
    down, across = tl.program_id(0), tl.program_id(1)
    if across >= down:
        i = first + down * DOWN + tl.arange(0, DOWN)
        j = first + across * ACROSS + tl.arange(0, ACROSS)
        X = tl.zeros((DOWN, ACROSS), WIDE)
        for start in range(0, length, ROWS):
            left = _load(P, start, length, p_l, i.to(tl.int64) * p_n, i < last, ROWS)
            right = _load(P, start, length, p_l, j.to(tl.int64) * p_n, j < n, ROWS)
            X += tl.dot(tl.trans(left.to(NARROW)), right.to(NARROW), input_precision=PRECISION, out_dtype=WIDE)
        there = (i < last)[:, None] & (j < n)[None, :]
        within = (j < last) & (across == down)
        X = tl.where(within[None, :], 0.5 * X + 0.5 * tl.trans(X), X)
        X = tl.where(there, X - (i[:, None] == j[None, :]).to(WIDE), 0.0)
        # Entries to the right of the diagonal block count twice: X has them below the diagonal, too.
        times = tl.where(within, 1.0, 2.0).to(WIDE)
        tile = down * tl.num_programs(1) + across
        tl.store(sums + tile, tl.sum(tl.sum(_value(X, parameter, PENALTY) * times[None, :], axis=1), axis=0))
        subgradient = _subgradient(X, parameter, PENALTY).to(G.dtype.element_ty)
        row, column = (i - first).to(tl.int64), (j - first).to(tl.int64)
        tl.store(G + row[:, None] * (n - first) + column[None, :], subgradient, mask=there)
        # A branch: in a mask, the comparison of two numbers is int32 in Triton's interpreter, which 3.9 refuses there.
        if across > down:
            mirrored = there & (j < last)[None, :]
            tl.store(G + column[None, :] * (n - first) + row[:, None], subgradient, mask=mirrored)


@triton.jit
def product(
    A, B, D, rows, columns, inner, a_r, a_i, b_i, b_c, d_r, d_c, scale,
    DOWN: tl.constexpr, ACROSS: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr, NARROW: tl.constexpr,
    PRECISION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Write scale·AB to D, or add it to D."""
    r = tl.program_id(0) * DOWN + tl.arange(0, DOWN)
    c = tl.program_id(1) * ACROSS + tl.arange(0, ACROSS)
    total = tl.zeros((DOWN, ACROSS), WIDE)
    for start in range(0, inner, DEEP):
        i = start + tl.arange(0, DEEP)
        a = tl.load(
            A + r.to(tl.int64)[:, None] * a_r + i.to(tl.int64)[None, :] * a_i,
            mask=(r < rows)[:, None] & (i < inner)[None, :], other=0.0,
        )  # fmt: skip
        b = tl.load(
            B + i.to(tl.int64)[:, None] * b_i + c.to(tl.int64)[None, :] * b_c,
            mask=(i < inner)[:, None] & (c < columns)[None, :], other=0.0,
        )  # fmt: skip
        total += tl.dot(a.to(NARROW), b.to(NARROW), input_precision=PRECISION, out_dtype=WIDE)
    where = D + r.to(tl.int64)[:, None] * d_r + c.to(tl.int64)[None, :] * d_c
    there = (r < rows)[:, None] & (c < columns)[None, :]
    total *= scale
    if ADD:
        total += tl.load(where, mask=there, other=0.0)
    tl.store(where, total, mask=there)
