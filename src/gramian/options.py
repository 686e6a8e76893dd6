"""Checks of options (counts, positive numbers, learning rates, strengths); each function returns the checked number."""

import math
import numbers
import operator
from typing import Any

from gramian.errors import OptionError

__all__ = ["check_against_beta", "check_beta", "check_lr", "real_number", "whole_number"]


def whole_number(value: Any, *, name: str, least: int | None = 1) -> int:
    """Check an option that counts something.

    Args:
        value: An int, or an integer of NumPy.
        name: Name of the option, for the message.
        least: The smallest value allowed; None for no limit.

    Returns:
        The number.

    Raises:
        OptionError: If the value is not a whole number, is a bool, or is less than `least`.

    Examples:
        >>> whole_number(3, name="steps")
        3
    """
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            floor = max(1, least or 1)
            usable = isinstance(value, float) and math.isfinite(value) and value >= floor
            raise OptionError(
                f"{name} must be a whole number; got {_describe(value)}; try {name}={round(value) if usable else floor}"
            )
        value = operator.index(value)
    if least is not None and value < least:
        raise OptionError(f"{name} must be at least {least}; got {value}; try {name}={max(1, least)}")
    return value


def real_number(value: Any, *, name: str, zero: bool = False, infinite: bool = False, attempt: str = "1.0") -> float:
    """Check an option that measures something: a positive number.

    Args:
        value: A number of Python or NumPy, or an array or a tensor of one number.
        name: Name of the option, for the message.
        zero: Whether 0 is allowed.
        infinite: Whether infinity is allowed.
        attempt: The value that the message suggests.

    Returns:
        The number.

    Raises:
        OptionError: If the value is not a number, is a bool or NaN, is not positive, or is infinite where that is not
            allowed; or if it is a tensor with respect to which a derivative is taken.

    Examples:
        >>> real_number(2, name="lam")
        2.0
    """
    number = value if type(value) is float else _as_float(value, name, attempt)
    if 0 < number < math.inf or (number == 0 and zero) or (number == math.inf and infinite):
        return number
    if number == math.inf:
        raise OptionError(f"{name} must be finite; got {number!r}; try {name}={attempt}")
    raise OptionError(f"{name} must be {'0 or ' if zero else ''}positive; got {number!r}; try {name}={attempt}")


def check_lr(lr: Any) -> Any:
    """Check a learning rate η ≥ 0; infinity is allowed.

    A tensor on a device, such as the learning rate of a capturable optimiser, is not read, because that would wait for
    the device; nor is a tensor that torch.compile traces. Whether its number is valid is then not checked.

    Returns:
        The number, or that tensor, 0-dimensional.

    Raises:
        OptionError: If it is negative, NaN or not a number, or a tensor with respect to which a derivative is taken.
    """
    if type(lr) is float and lr >= 0:
        return lr
    tensor: Any = lr
    if hasattr(tensor, "device") and _stays_on_device(tensor):
        return tensor.reshape(())
    return real_number(lr, name="lr", zero=True, infinite=True, attempt="0.1")


def check_beta(beta: Any, *, infinite: bool = False) -> float:
    """Check a strength β ≥ 0.

    Args:
        beta: The strength.
        infinite: Whether infinity, the hard constraint, is allowed.

    Returns:
        The number.

    Raises:
        OptionError: If it is negative, NaN, not a number, or infinite where that is not allowed.
    """
    if type(beta) is float and 0 <= beta < math.inf:  # nearly every call, and this one is in every step
        return beta
    return real_number(beta, name="beta", zero=True, infinite=infinite)


def check_against_beta(beta: Any) -> float | None:
    """Check a strength β ≥ 0 against frozen vectors; infinity is allowed, and None means the strength within groups.

    Raises:
        OptionError: If it is negative, NaN or not a number.
    """
    return None if beta is None else real_number(beta, name="against_beta", zero=True, infinite=True)


def _as_float(value: Any, name: str, attempt: str) -> float:
    if type(value) is int or (not isinstance(value, bool) and isinstance(value, numbers.Real)):
        try:
            return float(value)
        except OverflowError:
            return math.copysign(math.inf, value)
    from torch import Tensor

    if isinstance(value, Tensor):
        return _constant(value, name, attempt)
    if getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "") in ("f", "i", "u"):
        return float(value)
    raise OptionError(f"{name} must be a number; got {_describe(value)}; try {name}={attempt}")


def _stays_on_device(value: Any) -> bool:
    """Tell whether a value is a tensor of one real number that must not be read."""
    import torch

    if not isinstance(value, torch.Tensor) or (value.device.type == "cpu" and not torch.compiler.is_compiling()):
        return False
    return value.numel() == 1 and value.is_floating_point() and not value.requires_grad


def _constant(value: Any, name: str, attempt: str) -> float:
    """Read the number in a tensor, which must be neither differentiated nor transformed."""
    from torch.autograd import forward_ad

    if value.numel() != 1 or value.is_complex() or str(value.dtype) == "torch.bool":
        shape = list(value.shape)
        raise OptionError(f"{name} must be a number; got a {value.dtype} tensor of shape {shape}; try {name}={attempt}")
    if not value.requires_grad and forward_ad.unpack_dual(value).tangent is None:
        try:
            return float(value)
        except RuntimeError:  # torch.func has wrapped it, and holds no number
            pass
    raise OptionError(
        f"{name} must be a constant, because no derivative with respect to it is computed; got a tensor that is "
        f"differentiated or transformed; try {name}.detach(), or loss(phi) * {name} for a strength that is learned"
    )


def _describe(value: Any) -> str:
    """Return the repr of a plain value, and only the type of any other value."""
    plain = isinstance(value, bool | int | float | str | None)
    return repr(value)[:60] if plain else f"a value of type {type(value).__name__}"
