"""Launch device code on the device of its tensors; if Triton cannot compile it, torch's products are used."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import Tensor

from gramian.kernels.gpu.configurations import TrialError, is_trial
from gramian.kernels.gpu.epilogues import interpreted
from gramian.kernels.reference import REFERENCE, Reference

__all__ = ["DeviceCodeError", "launch", "or_reference", "precision", "processors", "registers", "sums"]

_FUNCTIONS = {
    "registers": ("whole_groups",),
    "signs": ("sign_product",),
    "fused": ("fused_gram", "fused_factor", "fused_update", "fused_apply"),
    "tiles": ("residual_tiles", "symmetric_tiles", "invalidate", "limit_step", "step_factor"),
}
"""The functions of the modules of the device code."""

_DEVICE_ERRORS = ("illegal", "misaligned", "launch failure", "CUDA error", "HIP error")
"""Parts of messages of errors that a device reports. They may be due to an earlier launch, so they must not be
caught."""

_failures: dict[object, str] = {}
_Method = TypeVar("_Method", bound=Callable[..., Any])


class DeviceCodeError(Exception):
    """Triton cannot compile a function of the device code for this device."""


def launch(name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a function of the device code on the device of its tensors.

    Raises:
        DeviceCodeError: If it cannot be compiled; nothing was computed then.
        TrialError: The same, for a configuration that is tried.
    """
    function = _function(name)[grid]
    if interpreted():
        function(*arguments, **{key: value for key, value in options.items() if not key.startswith("num_")})
        return
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    key = (name, device, tuple(options.items()))
    if key in _failures:
        raise DeviceCodeError(_failures[key])
    try:
        with _on(device):
            function(*arguments, **options)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        if any(part in message for part in _DEVICE_ERRORS):
            raise
        if is_trial():
            raise TrialError(message) from error
        _failures[key] = message
        warnings.warn(
            f"Triton cannot compile {name} for {_device_name(device)}, so torch computes it, which is slower; got "
            f"{message.splitlines()[0][:200]}; try another version of Triton, or install a C compiler",
            RuntimeWarning,
            stacklevel=2,
        )
        raise DeviceCodeError(message) from error


def or_reference(method: _Method) -> _Method:
    """Let the reference kernel compute what a method cannot, because its device code does not compile."""

    @wraps(method)
    def run(self: Reference, *arguments: Any, **options: Any) -> Any:
        try:
            return method(self, *arguments, **options)
        except DeviceCodeError:
            return getattr(REFERENCE, method.__name__)(*arguments, **options)

    return run  # pyright: ignore[reportReturnType]


def precision(dtype: torch.dtype) -> dict[str, Any]:
    """Return the dtypes of factors and sums for products of `dtype`, and how float32 is multiplied."""
    import triton.language as tl

    if dtype == torch.float64:
        return {"WIDE": tl.float64, "NARROW": tl.float64, "PRECISION": "ieee"}
    narrow = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(dtype, tl.float32)
    if interpreted():
        return {"WIDE": tl.float32, "NARROW": tl.float32, "PRECISION": "ieee"}  # it cannot multiply bfloat16
    # Only CUDA devices have tf32.
    return {"WIDE": tl.float32, "NARROW": narrow, "PRECISION": "ieee" if torch.version.hip else "tf32x3"}


def sums(dtype: torch.dtype) -> dict[str, Any]:
    """Return the dtype of sums, for device code without matrix units."""
    return {"WIDE": precision(dtype)["WIDE"]}


def registers(most: int) -> dict[str, int]:
    """Let a thread use up to `most` registers; without it ptxas may spill some so that more programs run at once."""
    return {} if interpreted() or torch.version.hip else {"maxnreg": most}  # an option of CUDA devices


def processors(device: torch.device) -> int:
    """Return the number of multiprocessors of a device."""
    return _processors(device) if device.type == "cuda" else 128


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, because Triton launches there even if the tensors are on another."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@cache
def _function(name: str) -> Any:
    module = next(module for module, names in _FUNCTIONS.items() if name in names)
    return getattr(import_module(f"gramian.kernels.gpu.triton_code.{module}"), name)
