"""Device code for the product of float32 vectors and a matrix of signs, which is exact in bfloat16."""

# A type checker cannot follow the decorated functions.
# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

__all__ = ["sign_product"]


@triton.jit
def _leading(x):
    """Cut a float32 number to its eight leading bits, which bfloat16 holds; infinity and NaN stay what they are."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def sign_product(
    P, G, D, length, n, width, p_l, p_m, p_n, g_m, g_j, g_k, d_l, d_m, d_n, scale,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, BAND: tl.constexpr, WIDE: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Write scale·PG to D[l, m, width], or add it, for P[l, m, n] in float32 and G[m, n, width] in bfloat16.

    The 24 bits of a number of P are three bfloat16 numbers, so that the products are exact and only their sum, in
    float32, is rounded. NARROW is bfloat16 where it can be multiplied, which Triton's interpreter cannot. Programs that
    follow one another share the rows or the columns that they read.
    """
    down_tiles, across_tiles = tl.cdiv(length, ROWS), tl.cdiv(width, COLUMNS)
    tile = tl.program_id(0)
    first = tile // (BAND * across_tiles) * BAND
    height = tl.minimum(down_tiles - first, BAND)
    place = tile % (BAND * across_tiles)
    group = tl.program_id(1).to(tl.int64)
    i = (first + place % height) * ROWS + tl.arange(0, ROWS)
    k = place // height * COLUMNS + tl.arange(0, COLUMNS)
    j = tl.arange(0, DEPTH)
    rows = P + group * p_m + i.to(tl.int64)[:, None] * p_l + j.to(tl.int64)[None, :] * p_n
    columns = G + group * g_m + j.to(tl.int64)[:, None] * g_j + k.to(tl.int64)[None, :] * g_k
    total = tl.zeros((ROWS, COLUMNS), WIDE)
    for start in range(0, n, DEPTH):
        inside = j < n - start
        x = tl.load(rows, mask=(i < length)[:, None] & inside[None, :], other=0.0)
        signs = tl.load(columns, mask=inside[:, None] & (k < width)[None, :], other=0.0).to(NARROW)
        high = _leading(x)
        rest = x - high
        middle = _leading(rest)
        low = rest - middle
        total = tl.dot(low.to(tl.bfloat16).to(NARROW), signs, total, input_precision=PRECISION, out_dtype=WIDE)
        total = tl.dot(middle.to(tl.bfloat16).to(NARROW), signs, total, input_precision=PRECISION, out_dtype=WIDE)
        total = tl.dot(high.to(tl.bfloat16).to(NARROW), signs, total, input_precision=PRECISION, out_dtype=WIDE)
        rows += DEPTH * p_n
        columns += DEPTH * g_j
    there = (i < length)[:, None] & (k < width)[None, :]
    where = D + group * d_m + i.to(tl.int64)[:, None] * d_l + k.to(tl.int64)[None, :] * d_n
    total *= scale
    if ADD:
        total += tl.load(where, mask=there, other=0.0)
    tl.store(where, total, mask=there)
