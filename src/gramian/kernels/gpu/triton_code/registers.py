"""Device code for groups of up to eight vectors: every thread holds whole groups in its registers.

The tile of a member is a tensor [ROWS, GROUPS], and an entry X_jk is the column sum of the product of two tiles, so
there are no matrices, no matrix units, and every product is a full float32 product. A tuple has the entries j ≤ k of a
symmetric matrix, row by row.
"""

# A type checker cannot follow the decorated functions.
# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

from gramian.kernels.gpu.triton_code.entries import prox_residual, subgradient, value

__all__ = ["whole_groups"]


@triton.jit
def _split(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    return tl.split(tl.reshape(tile, (ROWS, COLUMNS // 2, 2)))


@triton.jit
def _members(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MEMBERS: tl.constexpr):
    """Split a tile whose rows hold the members of each group side by side."""
    if MEMBERS == 1:
        x = (tile,)
    elif MEMBERS == 2:
        x = _split(tile, ROWS, COLUMNS)
    else:
        even, odd = _split(tile, ROWS, COLUMNS)
        a, c = _split(even, ROWS, COLUMNS // 2)
        b, d = _split(odd, ROWS, COLUMNS // 2)
        if MEMBERS == 4:
            x = (a, b, c, d)
        else:
            a0, a4 = _split(a, ROWS, COLUMNS // 4)
            a1, a5 = _split(b, ROWS, COLUMNS // 4)
            a2, a6 = _split(c, ROWS, COLUMNS // 4)
            a3, a7 = _split(d, ROWS, COLUMNS // 4)
            x = (a0, a1, a2, a3, a4, a5, a6, a7)
    return x


@triton.jit
def _side_by_side(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MEMBERS: tl.constexpr):
    """Undo `_members`."""
    if MEMBERS == 1:
        tile = x[0]
    elif MEMBERS == 2:
        tile = tl.join(x[0], x[1])
    elif MEMBERS == 4:
        tile = tl.join(tl.join(x[0], x[2]), tl.join(x[1], x[3]))
    else:
        even = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
        odd = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
        tile = tl.join(even, odd)
    return tl.reshape(tile, (ROWS, COLUMNS))


@triton.jit
def _columns(block, m, s_m, N: tl.constexpr, MEMBERS: tl.constexpr, GROUPS: tl.constexpr, DENSE: tl.constexpr):
    """Return the offset of every column of a tile with the members side by side, and whether it exists."""
    column = tl.arange(0, GROUPS * MEMBERS)
    if DENSE:
        offset = block.to(tl.int64) * (GROUPS * MEMBERS) + column
        there = column < (m - block * GROUPS) * N
    else:
        group, member = block * GROUPS + column // MEMBERS, column % MEMBERS
        offset = group.to(tl.int64) * s_m + member
        there = (group < m) & (member < N)
    return offset, there


@triton.jit
def _load(
    P, start, length, m, p_l, p_m, p_n, block,
    N: tl.constexpr, MEMBERS: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, ADJACENT: tl.constexpr,
    DENSE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Load some rows: a tuple of tiles [ROWS, GROUPS], one for each member, and of zeros up to MEMBERS if ADJACENT."""
    row = start + tl.arange(0, ROWS)
    if ADJACENT:
        offset, there = _columns(block, m, p_m, N, MEMBERS, GROUPS, DENSE)
        mask = (row < length)[:, None] & there[None, :]
        tile = tl.load(P + row.to(tl.int64)[:, None] * p_l + offset[None, :], mask=mask, other=0.0)
        x = _members(tile.to(WIDE), ROWS, GROUPS * MEMBERS, MEMBERS)
    else:
        group = block * GROUPS + tl.arange(0, GROUPS)
        mask = (row < length)[:, None] & (group < m)[None, :]
        where = P + row.to(tl.int64)[:, None] * p_l + group.to(tl.int64)[None, :] * p_m
        x = (tl.load(where, mask=mask, other=0.0).to(WIDE),)
        for j in tl.static_range(1, N):
            x = x + (tl.load(where + j * p_n, mask=mask, other=0.0).to(WIDE),)
    return x


@triton.jit
def _store(
    D, x, start, length, m, d_l, d_m, d_n, block,
    N: tl.constexpr, MEMBERS: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, ADJACENT: tl.constexpr,
    DENSE: tl.constexpr,
):  # fmt: skip
    row = start + tl.arange(0, ROWS)
    if ADJACENT:
        offset, there = _columns(block, m, d_m, N, MEMBERS, GROUPS, DENSE)
        for _ in tl.static_range(N, MEMBERS):
            x = x + (x[0],)  # in columns that do not exist
        mask = (row < length)[:, None] & there[None, :]
        tile = _side_by_side(x, ROWS, GROUPS * MEMBERS, MEMBERS).to(D.dtype.element_ty)
        tl.store(D + row.to(tl.int64)[:, None] * d_l + offset[None, :], tile, mask=mask)
    else:
        group = block * GROUPS + tl.arange(0, GROUPS)
        mask = (row < length)[:, None] & (group < m)[None, :]
        where = D + row.to(tl.int64)[:, None] * d_l + group.to(tl.int64)[None, :] * d_m
        for j in tl.static_range(N):
            tl.store(where + j * d_n, x[j].to(D.dtype.element_ty), mask=mask)


@triton.jit
def _gram(x, N: tl.constexpr):
    """Return the sums over the rows of x_j x_k for j ≤ k, and a sum that is NaN where x is not finite, else 0."""
    sums = (tl.sum(x[0] * x[0], axis=0),)
    bad = x[0] * 0
    for k in tl.static_range(1, N):
        sums = sums + (tl.sum(x[0] * x[k], axis=0),)
        bad += x[k] * 0
    for j in tl.static_range(1, N):
        for k in tl.static_range(j, N):
            sums = sums + (tl.sum(x[j] * x[k], axis=0),)
    return sums + (tl.sum(bad, axis=0),)


@triton.jit
def _add(a, b, COUNT: tl.constexpr):
    total = (a[0] + b[0],)
    for i in tl.static_range(1, COUNT):
        total = total + (a[i] + b[i],)
    return total


@triton.jit
def _entry(X, j: tl.constexpr, k: tl.constexpr, N: tl.constexpr):
    if j <= k:
        entry = X[j * N - j * (j - 1) // 2 + k - j]
    else:
        entry = X[k * N - k * (k - 1) // 2 + j - k]
    return entry


@triton.jit
def _value(X, parameter, N: tl.constexpr, PENALTY: tl.constexpr):
    total = X[0] * 0
    for j in tl.static_range(N):
        for k in tl.static_range(j, N):
            entry = value(_entry(X, j, k, N), parameter, PENALTY)
            total += entry if j == k else 2 * entry
    return total


@triton.jit
def _norms(X, N: tl.constexpr, SHIFT: tl.constexpr):
    """Return ‖X‖_F, and the largest absolute row sum of X + SHIFT·I, which is at least ‖X + SHIFT·I‖₂."""
    squares = X[0] * 0
    largest = X[0] * 0
    for j in tl.static_range(N):
        total = X[0] * 0
        for k in tl.static_range(N):
            entry = _entry(X, j, k, N)
            squares += entry * entry
            total += tl.abs(entry + SHIFT if j == k else entry)
        largest = tl.maximum(largest, total)
    return tl.sqrt(squares), largest


@triton.jit
def _negative_step(X, bad, tau, parameter, N: tl.constexpr, PENALTY: tl.constexpr):
    """Return −S of every group; see `gramian.rules.proximal`."""
    COUNT: tl.constexpr = N * (N + 1) // 2
    size, gram = _norms(X, N, 1)
    near = size <= 0.1
    w = tl.where(near, 1.0, tl.maximum(gram, 1.0))
    C = (prox_residual(X[0], tau * w, parameter, PENALTY),)
    zero = X[0] * 0
    for i in tl.static_range(1, COUNT):
        C = C + (prox_residual(X[i], tau * w, parameter, PENALTY),)
        zero += X[i] * 0
    size, largest = _norms(C, N, 0)
    limit = tl.where(near | (size <= w), w, tl.maximum(w, largest))
    # A finite group whose Gram matrix overflows is halved, a group with a NaN becomes NaN.
    overflow = (zero != 0) | (limit * 0 != 0)
    factor = tl.where(bad == 0, -0.5 / limit, float("nan"))
    M = (tl.where(overflow & (bad == 0), -0.5, factor * C[0]),)
    for j in tl.static_range(N):
        for k in tl.static_range(j, N):
            if j + k > 0:
                entry = factor * _entry(C, j, k, N)
                M = M + (tl.where(overflow & (bad == 0), -0.5 if j == k else 0.0, entry),)
    return M


@triton.jit
def _subgradients(X, total, scale, parameter, N: tl.constexpr, PENALTY: tl.constexpr):
    COUNT: tl.constexpr = N * (N + 1) // 2
    factor = total * 0 + scale  # NaN where the total is not finite: the sign of a NaN is 0, which would hide it
    G = (factor * subgradient(X[0], parameter, PENALTY),)
    for i in tl.static_range(1, COUNT):
        G = G + (factor * subgradient(X[i], parameter, PENALTY),)
    return G


@triton.jit
def _multiply(x, M, N: tl.constexpr, ADD: tl.constexpr):
    """Return xM, or x + xM."""
    for k in tl.static_range(N):
        total = x[0] * M[k]
        for j in tl.static_range(1, N):
            total += x[j] * _entry(M, j, k, N)
        if ADD:
            total += x[k]
        if k == 0:
            product = (total,)
        else:
            product = product + (total,)
    return product


@triton.jit
def whole_groups(
    P, D, values, rate, length, m, p_l, p_m, p_n, d_l, d_m, d_n, scale, parameter,
    N: tl.constexpr, MEMBERS: tl.constexpr, GROUPS: tl.constexpr, ROWS: tl.constexpr, ONE_TILE: tl.constexpr,
    P_ADJACENT: tl.constexpr, P_DENSE: tl.constexpr, D_ADJACENT: tl.constexpr, D_DENSE: tl.constexpr,
    WIDE: tl.constexpr, PENALTY: tl.constexpr, STEP: tl.constexpr, ADD: tl.constexpr, RATE: tl.constexpr,
):  # fmt: skip
    """Write μ(X) to values[m], and to D scale·PG, or for a STEP with τ = scale, −PS or P − PS; D may be P.

    With a RATE, τ is its product with the number in memory.
    """
    COUNT: tl.constexpr = N * (N + 1) // 2
    block = tl.program_id(0)
    x = _load(P, 0, length, m, p_l, p_m, p_n, block, N, MEMBERS, GROUPS, ROWS, P_ADJACENT, P_DENSE, WIDE)
    sums = _gram(x, N)
    if not ONE_TILE:
        for start in range(ROWS, length, ROWS):
            y = _load(P, start, length, m, p_l, p_m, p_n, block, N, MEMBERS, GROUPS, ROWS, P_ADJACENT, P_DENSE, WIDE)
            sums = _add(sums, _gram(y, N), COUNT + 1)
    X = (sums[0] - 1,)
    for j in tl.static_range(N):
        for k in tl.static_range(j, N):
            if j + k > 0:
                entry = _entry(sums, j, k, N)
                X = X + (entry - 1 if j == k else entry,)
    total = _value(X, parameter, N, PENALTY)
    group = block * GROUPS + tl.arange(0, GROUPS)
    tl.store(values + group, total, mask=group < m)
    if RATE:
        scale = scale * tl.load(rate).to(WIDE)
    if STEP:
        M = _negative_step(X, sums[COUNT], scale, parameter, N, PENALTY)
    else:
        M = _subgradients(X, total, scale, parameter, N, PENALTY)
    for i in tl.static_range(COUNT):
        if i == 0:
            rows = (M[0][None, :],)
        else:
            rows = rows + (M[i][None, :],)
    if ONE_TILE:
        y = _multiply(x, rows, N, ADD)
        _store(D, y, 0, length, m, d_l, d_m, d_n, block, N, MEMBERS, GROUPS, ROWS, D_ADJACENT, D_DENSE)
    else:
        for start in range(0, length, ROWS):
            x = _load(P, start, length, m, p_l, p_m, p_n, block, N, MEMBERS, GROUPS, ROWS, P_ADJACENT, P_DENSE, WIDE)
            y = _multiply(x, rows, N, ADD)
            tl.debug_barrier()  # D may be P: all threads have read these rows before one writes them
            _store(D, y, start, length, m, d_l, d_m, d_n, block, N, MEMBERS, GROUPS, ROWS, D_ADJACENT, D_DENSE)
