"""Entry-wise penalties as instructions: the value, the subgradient and the prox residual of entries of X, in lanes.

A penalty becomes a tree of `EntryFunction`s and a list of numbers. Code is compiled once for each tree; the numbers,
such as δ of Huber's function, are read when it runs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

from gramian.kernels.cpu.llvm.code import Code, Vector
from gramian.penalties import L1, Huber, Penalty, Scaled, SquaredFrobenius, Sum

__all__ = ["EntryFunction", "LaneFunction", "lane_function"]


class LaneFunction(NamedTuple):
    """An entry-wise penalty: the function that is compiled, and the numbers it reads."""

    function: "EntryFunction"
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class EntryFunction(ABC):
    """A function h of an entry of X, which also depends on whether the entry is on the diagonal.

    Args:
        diagonal: Whether entries on the diagonal are penalised.
    """

    diagonal: bool

    count = 0
    """How many numbers the function reads."""

    @abstractmethod
    def value(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        """Emit h(x)."""

    @abstractmethod
    def subgradient(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        """Emit h'(x)."""

    @abstractmethod
    def prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        """Emit x − prox_τh(x)."""


class _Plain(EntryFunction):
    """A function that is the same on and off the diagonal, or zero on it."""

    def value(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        return self._value(code, x, numbers) if self._acts(on_diagonal) else code.splat(0)

    def subgradient(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        return self._subgradient(code, x, numbers) if self._acts(on_diagonal) else code.splat(0)

    def prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        return self._prox_residual(code, x, tau, numbers) if self._acts(on_diagonal) else code.splat(0)

    def _acts(self, on_diagonal: bool) -> bool:  # noqa: FBT001
        return self.diagonal or not on_diagonal

    @abstractmethod
    def _value(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector: ...

    @abstractmethod
    def _subgradient(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector: ...

    @abstractmethod
    def _prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector]) -> Vector: ...


def lane_function(penalty: Penalty) -> LaneFunction | None:
    """Return the entry-wise function of a penalty, or None if there are no instructions for it.

    Subclasses of known penalties are the user's code, and count as unknown.
    """
    build = _KNOWN.get(type(penalty))
    return None if build is None else build(penalty)


def _clip(code: Code, x: Vector, bound: Vector) -> Vector:
    """Emit max(−bound, min(x, bound)), which is NaN where x is."""
    below = code.subtract(code.splat(-0.0), bound)
    return code.larger(below, code.smaller(bound, x))


@dataclass(frozen=True)
class _L1(_Plain):
    def _value(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector:  # noqa: ARG002
        return code.absolute(x)

    def _subgradient(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector:  # noqa: ARG002
        zero = code.splat(0)
        positive = code.select(code.compare("ogt", x, zero), code.splat(1), zero)
        return code.select(code.compare("olt", x, zero), code.splat(-1), positive)

    def _prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector]) -> Vector:  # noqa: ARG002
        return _clip(code, x, tau)


@dataclass(frozen=True)
class _Huber(_Plain):
    count = 1

    def _value(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector:
        delta = numbers[0]
        size = code.absolute(x)
        slope = code.smaller(code.splat(1), code.divide(size, delta))
        half = code.multiply(code.multiply(code.splat(0.5), delta), slope)
        return code.multiply(slope, code.subtract(size, half))

    def _subgradient(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector:
        return _clip(code, code.divide(x, numbers[0]), code.splat(1))

    def _prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector]) -> Vector:
        one = code.splat(1)
        slope = code.divide(one, code.add(one, code.divide(numbers[0], tau)))
        return _clip(code, code.multiply(x, slope), tau)


@dataclass(frozen=True)
class _Square(_Plain):
    def _value(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector:  # noqa: ARG002
        return code.multiply(x, x)

    def _subgradient(self, code: Code, x: Vector, numbers: list[Vector]) -> Vector:  # noqa: ARG002
        return code.add(x, x)

    def _prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector]) -> Vector:  # noqa: ARG002
        return code.divide(x, code.add(code.splat(1), code.divide(code.splat(0.5), tau)))


@dataclass(frozen=True)
class _Scaled(EntryFunction):
    inner: EntryFunction

    @property
    def count(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 1 + self.inner.count

    def value(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        return code.multiply(numbers[0], self.inner.value(code, x, numbers[1:], on_diagonal=on_diagonal))

    def subgradient(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        return code.multiply(numbers[0], self.inner.subgradient(code, x, numbers[1:], on_diagonal=on_diagonal))

    def prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        # 0·∞ is NaN: a penalty with the factor 0 removes nothing, even at τ = ∞.
        zero = code.splat(0)
        scaled = code.select(code.compare("ogt", numbers[0], zero), code.multiply(numbers[0], tau), zero)
        return self.inner.prox_residual(code, x, scaled, numbers[1:], on_diagonal=on_diagonal)


@dataclass(frozen=True)
class _Sum(EntryFunction):
    """A sum, whose prox is found by bisection, as `prox_residual_by_bisection` does."""

    parts: tuple[EntryFunction, ...]

    @property
    def count(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(part.count for part in self.parts)

    def value(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        terms = [part.value(code, x, its, on_diagonal=on_diagonal) for part, its in self._split(numbers)]
        return reduce(code.add, terms)

    def subgradient(self, code: Code, x: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        terms = [part.subgradient(code, x, its, on_diagonal=on_diagonal) for part, its in self._split(numbers)]
        return reduce(code.add, terms)

    def prox_residual(self, code: Code, x: Vector, tau: Vector, numbers: list[Vector], *, on_diagonal: bool) -> Vector:
        zero, one, eps = code.splat(0), code.splat(1), math.ldexp(1, -23 if code.scalar == "float" else -52)
        size = code.absolute(x)

        def halve(_: str, bounds: list[Vector]) -> list[Vector]:
            low, high = bounds
            middle = code.multiply(code.add(low, high), code.splat(0.5))
            at = code.multiply(x, middle)
            slope = code.absolute(self.subgradient(code, at, numbers, on_diagonal=on_diagonal))
            # ∞·0 is NaN: where the slope is zero, an infinite τ removes nothing.
            pull = code.select(code.compare("ogt", slope, zero), code.multiply(tau, slope), zero)
            over = code.compare("ogt", code.add(code.multiply(size, middle), pull), size)
            return [code.select(over, low, middle), code.select(over, middle, high)]

        turns = 2 - round(math.log2(eps))
        low, high = code.loop(0, turns, 1, halve, [zero, one])
        ratio = code.multiply(code.add(low, high), code.splat(0.5))
        ratio = code.select(code.compare("olt", high, code.splat(2 * eps)), zero, ratio)
        ratio = code.select(code.compare("ogt", low, code.splat(1 - 2 * eps)), one, ratio)
        return code.subtract(x, code.multiply(x, ratio))

    def _split(self, numbers: list[Vector]) -> list[tuple[EntryFunction, list[Vector]]]:
        pairs, start = [], 0
        for part in self.parts:
            pairs.append((part, numbers[start : start + part.count]))
            start += part.count
        return pairs


def _of_scaled(penalty: Scaled) -> LaneFunction | None:
    inner = lane_function(penalty.penalty)
    if inner is None:
        return None
    return LaneFunction(_Scaled(penalty.diagonal, inner.function), (penalty.factor, *inner.numbers))


def _of_sum(penalty: Sum) -> LaneFunction | None:
    parts = [lane_function(part) for part in penalty.parts]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    numbers = tuple(number for part in known for number in part.numbers)
    return LaneFunction(_Sum(penalty.diagonal, tuple(part.function for part in known)), numbers)


_KNOWN: dict[type[Penalty], Callable[[Any], LaneFunction | None]] = {
    L1: lambda penalty: LaneFunction(_L1(penalty.diagonal), ()),
    Huber: lambda penalty: LaneFunction(_Huber(penalty.diagonal), (penalty.delta,)),
    SquaredFrobenius: lambda penalty: LaneFunction(_Square(penalty.diagonal), ()),
    Scaled: _of_scaled,
    Sum: _of_sum,
}
