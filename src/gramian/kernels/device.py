"""What the kernels on a GPU share: whether Triton can run, with what precision, and which penalties it knows."""

import importlib.util
import os
from typing import Any, NamedTuple

import torch

from gramian.penalties import L1, Huber, Penalty, SquaredFrobenius

__all__ = ["Epilogue", "cannot", "epilogue", "launch", "loses", "precision"]

_INSTALLED = importlib.util.find_spec("triton") is not None


class Epilogue(NamedTuple):
    """What device code does with an entry of X."""

    kind: int
    parameter: float
    exact: bool
    """Whether G is exact in 16 bits."""


def epilogue(penalty: Penalty) -> Epilogue | None:
    """Give the device code's number for a penalty, or None if it has none: then torch makes G."""
    if not penalty.diagonal:
        return None
    if type(penalty) is L1:
        return Epilogue(0, 0.0, exact=True)
    if type(penalty) is Huber:
        return Epilogue(1, penalty.delta, exact=False)
    if type(penalty) is SquaredFrobenius:
        return Epilogue(2, 0.0, exact=False)
    return None


def cannot(device: str) -> str | None:
    """Say why device code cannot run there, or None if it can."""
    if not _INSTALLED:
        return "Triton is not installed; it comes with torch for CUDA"
    if device != "cuda" and not (device == "cpu" and interpreted()):
        return f"it runs on a CUDA device; Φ is on {device}"
    return None


def loses(device: str, dtype: torch.dtype) -> str | None:
    """Say why another kernel is better there, or None if none is."""
    if device != "cuda":
        return "its interpreter is for tests"
    return "float64 is left to the device's own library" if dtype == torch.float64 else None


def interpreted() -> bool:
    """Tell whether Triton's interpreter stands in for a device, as TRITON_INTERPRET=1 asks for."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def precision(dtype: torch.dtype) -> dict[str, Any]:
    """Give the dtypes of the factors and of the sum of a product of `dtype`, and how float32 is multiplied."""
    import triton.language as tl

    if dtype == torch.float64:
        return {"WIDE": tl.float64, "NARROW": tl.float64, "PRECISION": "ieee"}
    narrow = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(dtype, tl.float32)
    if interpreted() or torch.version.cuda is None:
        # The interpreter cannot multiply bfloat16, and other makers' devices have no tf32.
        return {"WIDE": tl.float32, "NARROW": tl.float32 if interpreted() else narrow, "PRECISION": "ieee"}
    return {"WIDE": tl.float32, "NARROW": narrow, "PRECISION": "tf32x3"}


def launch(name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a function of the device code."""
    from gramian.kernels import triton_code

    getattr(triton_code, name)[grid](*arguments, **options)
