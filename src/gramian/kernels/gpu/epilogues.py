"""Shared parts of the Triton kernels: whether Triton can run, its precision, and the penalties it implements."""

import os
from functools import cache
from typing import Any, NamedTuple

import torch

from gramian.penalties import L1, Huber, Penalty, SquaredFrobenius

__all__ = ["Epilogue", "epilogue", "launch", "precision", "slower_reason", "triton_version", "unsupported_reason"]

_OLDEST = (3, 3)
"""Triton 3.2, which comes with torch 2.6, multiplies no blocks in float64; nothing older than this was tested."""


class Epilogue(NamedTuple):
    """How device code computes the penalty and its subgradient from an entry of X."""

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
    """Say why device code cannot run on a device, or return None if it can."""
    if device != "cuda" and not (device == "cpu" and interpreted()):
        return f"it runs on a CUDA device; Φ is on {device}"
    version = triton_version()  # which loads Triton: only where it could be used
    if version is None:
        return "Triton is not installed; it comes with torch for CUDA"
    if version < _OLDEST:
        return f"it needs Triton 3.3 or later, which torch 2.7 brings; got Triton {'.'.join(map(str, version))}"
    return None


def slower_reason(device: str, dtype: torch.dtype) -> str | None:
    """Say why another kernel is faster on a device, or return None if none is."""
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


def precision(dtype: torch.dtype) -> dict[str, Any]:
    """Return the dtypes of factors and sums for products of `dtype`, and how float32 is multiplied."""
    import triton.language as tl

    if dtype == torch.float64:
        return {"WIDE": tl.float64, "NARROW": tl.float64, "PRECISION": "ieee"}
    narrow = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(dtype, tl.float32)
    if interpreted() or torch.version.cuda is None:
        # The interpreter cannot multiply bfloat16, and only CUDA devices have tf32.
        return {"WIDE": tl.float32, "NARROW": tl.float32 if interpreted() else narrow, "PRECISION": "ieee"}
    return {"WIDE": tl.float32, "NARROW": narrow, "PRECISION": "tf32x3"}


def launch(name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a function of the device code."""
    from gramian.kernels.gpu import triton_code

    getattr(triton_code, name)[grid](*arguments, **options)
