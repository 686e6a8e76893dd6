"""The penalty, its subgradient and its prox residual for one entry of X, and sums of entries, in device code."""

# A type checker cannot follow the decorated functions.
# pyright: basic, reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportGeneralTypeIssues=false

import triton
import triton.language as tl

__all__ = ["chirp", "prox_residual", "subgradient", "sum_of", "value"]


@triton.jit
def value(x, parameter, PENALTY: tl.constexpr):
    """μ of one entry: l1 (0), huber (1) or squared_frobenius (2)."""
    size = tl.abs(x)
    if PENALTY == 0:
        return size
    if PENALTY == 1:
        slope = tl.minimum(size / parameter, 1.0)
        return slope * (size - 0.5 * parameter * slope)
    return x * x


@triton.jit
def subgradient(x, parameter, PENALTY: tl.constexpr):
    if PENALTY == 0:
        return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
    if PENALTY == 1:
        return tl.minimum(tl.maximum(x / parameter, -1.0), 1.0)
    return 2 * x


@triton.jit
def prox_residual(x, tau, parameter, PENALTY: tl.constexpr):
    """C_τ of one entry, in a form that is correct at τ = 0 and at τ = ∞."""
    if PENALTY == 0:
        return tl.minimum(tl.maximum(x, -tau), tau)
    if PENALTY == 1:
        return tl.minimum(tl.maximum(x * (1 / (1 + parameter / tau)), -tau), tau)
    return x / (1 + 0.5 / tau)


@triton.jit
def chirp(k):
    """cos(0.731·k²) in float64, the fixed vector of `gramian.kernels.norms`, without the stack memory of tl.cos."""
    k = k.to(tl.float64)
    angle = 0.731 * (k * k)
    turns = tl.floor(angle * 0.15915494309189535 + 0.5)
    s = 0.5 * ((angle - turns * 6.283185307179586) - turns * 2.4492935982947064e-16)
    q = s * s  # |s| ≤ π/2, where this series of the sine is exact to 1e-18
    # Products with 1/272 and so on: a division in float64 is a call of a subroutine, whose registers are spilled.
    series = 1 - q * (1 / 272) * (1 - q * (1 / 342) * (1 - q * (1 / 420)))
    series = 1 - q * (1 / 72) * (1 - q * (1 / 110) * (1 - q * (1 / 156) * (1 - q * (1 / 210) * series)))
    series = 1 - q * (1 / 6) * (1 - q * (1 / 20) * (1 - q * (1 / 42) * series))
    return 1 - 2 * q * series * series


@triton.jit
def sum_of(numbers, count, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Sum an array, always in the same order."""
    total = tl.zeros((BLOCK,), WIDE)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(numbers + i, mask=i < count, other=0.0)
    return tl.sum(total, axis=0)
