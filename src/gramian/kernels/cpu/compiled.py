"""The options with which Numba compiles the loops of the package."""

# Numba has no types to check.
# pyright: basic

from collections.abc import Callable
from typing import Any

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop at its first call, without the interpreter lock; the machine code is cached on disk.

    Sums may be reordered and contracted, but NaN and infinity keep their meaning. Numba's own threads ignore torch's
    number of threads, break after a fork, and spin while they wait; `threads` has others.
    """
    import numba

    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can hold the machine code
        return numba.njit(**options)(function)
