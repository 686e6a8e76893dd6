"""Options, checked where they come in: whole numbers are whole, numbers finite, and neither a bool nor text."""

import math
import numbers
import operator
from typing import Any

from gramian.errors import OptionError

__all__ = ["real_number", "whole_number"]


def whole_number(value: Any, *, name: str, least: int = 1) -> int:
    """Take an option that counts something.

    Args:
        value: What was given: an int, or an integer of NumPy.
        name: Name of the option, for the message.
        least: The least that it may be.

    Returns:
        The number.

    Raises:
        OptionError: If it is no whole number, a bool, or less than that.

    Examples:
        >>> whole_number(3, name="steps")
        3
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise OptionError(
            f"{name} must be a whole number; got {_shown(value)}; try {name}={_whole(value, max(least, 1))}"
        )
    number = operator.index(value)
    if number < least:
        raise OptionError(f"{name} must be at least {least}; got {number}")
    return number


def real_number(value: Any, *, name: str, zero: bool = False, attempt: str = "1.0") -> float:
    """Take an option that measures something: a positive, finite number.

    Args:
        value: What was given: a float or an int, of Python or of NumPy.
        name: Name of the option, for the message.
        zero: Whether it may be 0.
        attempt: What the message says to try.

    Returns:
        The number.

    Raises:
        OptionError: If it is no number, a bool, not finite, or not positive.

    Examples:
        >>> real_number(2, name="lam")
        2.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise OptionError(f"{name} must be a number; got {_shown(value)}; try {name}={attempt}")
    number = float(value)
    if number < 0 or math.isnan(number) or (number == 0 and not zero):
        raise OptionError(f"{name} must be {'0 or ' if zero else ''}positive; got {number!r}; try {name}={attempt}")
    if math.isinf(number):
        raise OptionError(f"{name} must be finite; got {number!r}; try {name}={attempt}")
    return number


def _shown(value: Any) -> str:
    """Say what was given: a plain value as it is written, of anything else the type alone."""
    plain = isinstance(value, bool | int | float | str | None)
    return repr(value)[:60] if plain else f"a value of type {type(value).__name__}"


def _whole(value: Any, least: int) -> int:
    usable = isinstance(value, float) and math.isfinite(value) and value >= least
    return round(value) if usable else least
