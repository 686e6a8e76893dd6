"""The options with which Numba compiles the loops of coordinate descent."""

# Numba has no types to check.
# pyright: basic

from collections.abc import Callable
from typing import Any

__all__ = ["compiled", "inlined", "inlined_finite"]

_SUMS = {"reassoc", "contract", "nsz"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop at its first call, without the interpreter lock; the machine code is cached on disk.

    Sums may be reordered and contracted, but NaN and infinity keep their meaning. Numba's threads are not used, because
    they ignore torch's number of threads and break after a fork; `gramian.kernels.cpu.threads` uses those of torch.
    """
    return _compile(function, _SUMS, inline=False)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function as a part of the loops that call it.

    Otherwise a loop would call the machine code of a function that happens to have been compiled or loaded before,
    which may sum in another order: the process that fills the cache would compute other bits than those that read it.
    """
    return _compile(function, _SUMS, inline=True)


def inlined_finite(function: Callable[..., Any]) -> Callable[..., Any]:
    """Do the same for results that are undefined if a number is NaN, which makes the search for a maximum fast."""
    return _compile(function, {*_SUMS, "nnan"}, inline=True)


def _compile(function: Callable[..., Any], fastmath: set[str], *, inline: bool) -> Callable[..., Any]:
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "forceinline": inline}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can hold the machine code
        return numba.njit(**options)(function)
