"""Values by pattern for the parameters of a model, also for those that are added to it later."""

import weakref
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from torch import nn

from gramian.selection import Pattern
from gramian.selection.parameters import candidates_of
from gramian.selection.patterns import Matcher

__all__ = ["ByPattern"]

T = TypeVar("T")


class ByPattern(Generic[T]):
    """The value of the first pattern that matches a parameter.

    Args:
        model: The model, held by a weak reference.
        values: Values by pattern.
        option: Name of the option, for errors.
        matcher: Matches patterns with the parameters that the model has now.

    Raises:
        OptionError: If a pattern is invalid or matches nothing.
    """

    def __init__(self, model: nn.Module, values: Mapping[Pattern, T], option: str, matcher: Matcher) -> None:
        self._model: weakref.ref[nn.Module] | None = weakref.ref(model)
        self._values = dict(values)
        self._option = option
        self._match(matcher)

    def get(self, name: str) -> T | None:
        """Return the value for the parameter of a name; None if no pattern matches it."""
        model = None if self._model is None else self._model()
        if name not in self._seen and model is not None:
            self._match(Matcher(candidates_of(model), strict=False))  # it was added to the model since
        return self._by_name.get(name)

    def __getstate__(self) -> dict[str, Any]:
        # A copy belongs to an attachment that does nothing; functions and weak references cannot be pickled.
        return {**vars(self), "_model": None, "_values": {}, "_by_name": {}}

    def _match(self, matcher: Matcher) -> None:
        self._by_name = matcher.by_name(self._values, self._option)
        self._seen = matcher.names
