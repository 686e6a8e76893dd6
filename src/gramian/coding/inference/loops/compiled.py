"""The options with which Numba compiles the loops of coordinate descent."""

# Numba has no types to check.
# pyright: basic

from collections.abc import Callable
from typing import Any

__all__ = ["compiled", "compiled_finite"]

_SUMS = {"reassoc", "contract", "nsz"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop at its first call, without the interpreter lock; the machine code is cached on disk.

    Sums may be reordered and contracted, but NaN and infinity keep their meaning. Numba's threads are not used, because
    they ignore torch's number of threads, break after a fork, and spin while they wait; those in which
    `gramian.kernels.cpu.threads` runs these loops do not.
    """
    return _compile(function, _SUMS)


def compiled_finite(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop whose result is undefined if a number is NaN, which makes the search for a maximum fast."""
    return _compile(function, {*_SUMS, "nnan"})


def _compile(function: Callable[..., Any], fastmath: set[str]) -> Callable[..., Any]:
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can hold the machine code
        return numba.njit(**options)(function)
