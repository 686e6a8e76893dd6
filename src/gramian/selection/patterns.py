"""Patterns that choose among candidates: names, modules, types of modules and functions."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import Tensor, nn

from gramian.errors import OptionError
from gramian.layout import Layout
from gramian.selection.candidate import Candidate
from gramian.torch_internals import WRAPPED_MODULE_ATTRIBUTES

__all__ = ["Layouts", "Matcher", "Pattern", "Selector", "as_selector", "is_pattern"]

T = TypeVar("T")

Pattern = str | re.Pattern[str] | type[nn.Module] | nn.Module | Callable[[str, Tensor], bool]
"""Which parameters: a glob or a regular expression that matches the whole name, a type of modules, a module of the
model, or a function of name and parameter."""

Selector = Pattern | Iterable[Pattern]
"""A pattern, or several."""

Layouts = Mapping[Pattern, Layout | str]
"""Layouts by pattern; the first that matches a parameter is used."""

_KINDS = (
    "a glob or a compiled regular expression of names, a type of modules, a module of the model, or a function of name "
    "and parameter"
)

_SHOWN = 6
"""Names that a message lists."""


def is_pattern(value: object) -> bool:
    """Tell whether a value is one pattern."""
    return isinstance(value, (str, re.Pattern)) or callable(value)


def as_selector(select: Selector | None, *, name: str = "select") -> tuple[Pattern, ...] | None:
    """Return the patterns of a selection, which can be evaluated more than once.

    Raises:
        OptionError: If it is neither a pattern nor an iterable of patterns.
    """
    if select is None:
        return None
    if is_pattern(select):
        return (select,)  # pyright: ignore[reportReturnType]
    patterns: tuple[Any, ...] = tuple(select) if isinstance(select, Iterable) else (select,)
    for pattern in patterns:
        if not is_pattern(pattern):
            raise OptionError(
                f"{name} must be {_KINDS}, or several of them; got {type(pattern).__name__}; try {name}='*weight'"
            )
    return patterns


class Matcher:
    """Match patterns with candidates. A pattern may also match the name that torch uses, with prefixes of wrappers.

    Args:
        candidates: What patterns may match.
        strict: Whether a pattern that matches nothing is an error.
    """

    def __init__(self, candidates: Sequence[Candidate], *, strict: bool) -> None:
        self._candidates = candidates
        self._strict = strict

    @property
    def names(self) -> set[str]:
        """The names of all candidates."""
        return {candidate.name for candidate in self._candidates}

    def matching(self, pattern: object, option: str) -> set[str]:
        """Return the names that a pattern matches; a module or a type matches all parameters within.

        Raises:
            OptionError: If it is not a pattern; or, if strict, matches nothing.
        """
        test = _test(pattern)
        if test is None:
            raise OptionError(f"{option} must name parameters by {_KINDS}; got {pattern!r}")
        matched = {candidate.name for candidate in self._candidates if test(candidate)}
        if not matched and self._strict and not _is_function(pattern):
            raise OptionError(f"every pattern in {option} must match a parameter; got {self._no_match(pattern)}")
        return matched

    def matching_any(self, patterns: Iterable[Pattern], option: str) -> set[str]:
        """Return the names that one of several patterns matches.

        Raises:
            OptionError: As for `matching`.
        """
        return {name for pattern in patterns for name in self.matching(pattern, option)}

    def selected_by(self, patterns: Iterable[Pattern]) -> set[str]:
        """Return the names that one of several patterns selects.

        A module, and every module of a type, selects what the default policy selects within it; if that is nothing, the
        weights for which a layout is known; if there are none, all of two or more axes.

        Raises:
            OptionError: As for `matching`.
        """
        selected: set[str] = set()
        for pattern in patterns:
            matched = self.matching(pattern, "select")
            if isinstance(pattern, (type, nn.Module)):
                within = [candidate for candidate in self._candidates if candidate.name in matched]
                selected.update(*_weights_by_module(within, pattern))
            else:
                selected.update(matched)
        return selected

    def by_name(self, values: Mapping[Any, T], option: str) -> dict[str, T]:
        """Return the value of the first pattern that matches each name; names that none matches are left out.

        Raises:
            OptionError: As for `matching`.
        """
        by_name: dict[str, T] = {}
        for pattern, value in values.items():
            for name in self.matching(pattern, option):
                by_name.setdefault(name, value)
        return by_name

    def _no_match(self, pattern: object) -> str:
        """Describe a pattern that matches nothing, and the names that exist."""
        if isinstance(pattern, (type, nn.Module)):
            if not any(candidate.modules for candidate in self._candidates):
                return f"{_kind(pattern)}, but there are only tensors with names here; try a glob such as '*weight'"
            what = "of which this model has none with parameters"
            return f"{_kind(pattern)}, {what if isinstance(pattern, type) else 'which has no parameters in this model'}"
        text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        names = [candidate.name for candidate in self._candidates]
        hint = ""
        if isinstance(pattern, re.Pattern) and any(pattern.search(name) for name in names):
            hint = f"; a regular expression must match the whole name: try re.compile({f'.*{text}.*'!r})"
        examples = ", ".join(map(repr, names[:_SHOWN]))
        return (
            f"{text!r}, which matches none of the {len(names)}: {examples}{', …' if len(names) > _SHOWN else ''}{hint}"
        )


def _test(pattern: object) -> Callable[[Candidate], bool] | None:
    if isinstance(pattern, str):
        return lambda candidate: fnmatchcase(candidate.name, pattern) or fnmatchcase(candidate.raw, pattern)
    if isinstance(pattern, re.Pattern):
        return lambda candidate: bool(pattern.fullmatch(candidate.name) or pattern.fullmatch(candidate.raw))
    if isinstance(pattern, (type, nn.Module)):
        return lambda candidate: _outermost(candidate, pattern) is not None
    return (lambda candidate: bool(pattern(candidate.name, candidate.read()))) if callable(pattern) else None


def _is_function(pattern: object) -> bool:
    return callable(pattern) and not isinstance(pattern, (type, nn.Module))


def _outermost(candidate: Candidate, pattern: "type | nn.Module") -> nn.Module | None:
    """Return the outermost module that contains a candidate and is the pattern, or has that type."""
    if isinstance(pattern, type):
        return next((module for module in candidate.modules if isinstance(module, pattern)), None)
    wanted = _unwrapped(pattern)
    return next((module for module in candidate.modules if module in (pattern, wanted)), None)


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that torch.compile wraps."""
    inner = (getattr(module, attribute, None) for attribute in WRAPPED_MODULE_ATTRIBUTES)
    return next((each for each in inner if isinstance(each, nn.Module)), module)


def _weights_by_module(within: Sequence[Candidate], pattern: "type | nn.Module") -> list[set[str]]:
    by_module: dict[int, list[Candidate]] = {}
    for candidate in within:
        by_module.setdefault(id(_outermost(candidate, pattern)), []).append(candidate)
    return [_weights(candidates) for candidates in by_module.values()]


def _weights(candidates: Sequence[Candidate]) -> set[str]:
    free = [candidate for candidate in candidates if not candidate.proposal.barred]
    chosen = [candidate for candidate in free if candidate.proposal.chosen]
    known = [candidate for candidate in free if candidate.proposal.layout is not None]
    many = [candidate for candidate in free if candidate.shape is not None and len(candidate.shape) > 1]
    return {candidate.name for candidate in chosen or known or many}


def _kind(pattern: "type | nn.Module") -> str:
    return pattern.__name__ if isinstance(pattern, type) else f"a module of type {type(pattern).__name__}"
