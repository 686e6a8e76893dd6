"""Shared parts of the Triton kernels: whether Triton can run, and the penalties that device code implements."""

import os
from functools import cache
from typing import NamedTuple

import torch

from gramian.penalties import L1, Huber, Penalty, SquaredFrobenius

__all__ = ["Epilogue", "epilogue", "interpreted", "slower_reason", "triton_version", "unsupported_reason"]

_OLDEST = (3, 3)
"""Triton 3.2, which comes with torch 2.6, cannot multiply blocks in float64; older versions than this are not
tested."""


class Epilogue(NamedTuple):
    """The penalty and its subgradient of an entry of X, in the form that device code uses."""

    kind: int
    parameter: float
    exact: bool
    """Whether G is exact in 16 bits."""


def epilogue(penalty: Penalty) -> Epilogue | None:
    """Return the epilogue of a penalty, or None if device code does not implement it: then torch computes G."""
    if not penalty.diagonal:
        return None
    if type(penalty) is L1:
        return Epilogue(0, 0.0, exact=True)
    if type(penalty) is Huber:
        return Epilogue(1, penalty.delta, exact=False)
    if type(penalty) is SquaredFrobenius:
        return Epilogue(2, 0.0, exact=False)
    return None


def unsupported_reason(device: str) -> str | None:
    """Return why device code cannot run on a device, or None if it can."""
    if device != "cuda" and not (device == "cpu" and interpreted()):
        return f"it runs on a CUDA device; Φ is on {device}"
    version = triton_version()  # which loads Triton: only where it could be used
    if version is None:
        return "Triton is not installed; it comes with torch for CUDA"
    if version < _OLDEST:
        return f"it needs Triton 3.3 or later, which torch 2.7 brings; got Triton {'.'.join(map(str, version))}"
    return None


def slower_reason(device: str, dtype: torch.dtype) -> str | None:
    """Return why another kernel is faster on a device, or None if none is."""
    if device != "cuda":
        return "Triton's interpreter is for tests"
    return "the library of the device is faster in float64" if dtype == torch.float64 else None


@cache
def triton_version() -> tuple[int, ...] | None:
    """Return the major and minor version of Triton, or None if it is not installed."""
    try:
        import triton
    except ImportError:
        return None
    return tuple(int(part) for part in triton.__version__.split(".")[:2])


def interpreted() -> bool:
    """Tell whether TRITON_INTERPRET=1 selects Triton's interpreter, which runs device code on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
