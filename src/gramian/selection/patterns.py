"""Names matched by globs and regular expressions; selections and layouts that are given by such patterns."""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor

from gramian.errors import OptionError
from gramian.layout import Layout

__all__ = ["Layouts", "Names", "Selector", "as_selector", "layouts_by_name"]

Selector = str | re.Pattern[str] | Callable[[str, Tensor], bool] | Iterable[str]
"""A glob of parameter names, several of them, a regular expression (searched), or a function of name and parameter."""

Layouts = Mapping[str | re.Pattern[str], Layout | str]
"""Layouts by glob or regular expression of parameter names; the first that matches is used."""

_SHOWN = 6
"""Names that a message lists."""


def as_selector(select: Selector | None) -> Selector | None:
    """Turn a selection into one that can be evaluated more than once: an iterator becomes a list.

    Raises:
        OptionError: If it is not a `Selector`.
    """
    if select is None or isinstance(select, (str, re.Pattern)) or callable(select):
        return select
    if not isinstance(select, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"select must be a glob of names, several globs, a compiled regular expression or a function of name and "
            f"parameter; got {type(select).__name__}; try select='*weight'"
        )
    return list(select)


class Names:
    """The names of parameters. A pattern may also match the name that torch uses, with the prefixes of wrappers.

    Args:
        raw: The name that torch uses, by name.
        strict: Whether a pattern that matches nothing is an error.
    """

    def __init__(self, raw: Mapping[str, str], *, strict: bool) -> None:
        self._raw = raw
        self._strict = strict

    def matching(self, pattern: object, option: str) -> set[str]:
        """Return the names that a pattern matches.

        Raises:
            OptionError: If it is neither a glob nor a regular expression; or, if strict, matches nothing.
        """
        if isinstance(pattern, str):
            glob = pattern
            matched = {name for name, raw in self._raw.items() if fnmatchcase(name, glob) or fnmatchcase(raw, glob)}
        elif isinstance(pattern, re.Pattern):
            matched = {name for name, raw in self._raw.items() if pattern.search(name) or pattern.search(raw)}
        else:
            raise OptionError(
                f"{option} must name parameters by a glob or a compiled regular expression; got {pattern!r}"
            )
        if not matched and self._strict:
            text = pattern if isinstance(pattern, str) else pattern.pattern
            examples = ", ".join(repr(name) for name in list(self._raw)[:_SHOWN])
            raise OptionError(
                f"every pattern in {option} must match a parameter; got {text!r}, which matches none of the "
                f"{len(self._raw)}: {examples}{', …' if len(self._raw) > _SHOWN else ''}"
            )
        return matched

    def selected_by(self, select: str | re.Pattern[str] | Iterable[str]) -> set[str]:
        """Return the names that one of several patterns matches.

        Raises:
            OptionError: As for `matching`.
        """
        patterns = [select] if isinstance(select, (str, re.Pattern)) else select
        return {name for pattern in patterns for name in self.matching(pattern, "select")}


def layouts_by_name(layouts: Layouts | Layout | str | None, names: Names) -> dict[str, Layout | str]:
    """Return the layout that was given for each name by a pattern; one layout for all names is not among them.

    Raises:
        OptionError: If `layouts` is neither one layout nor a mapping; and as for `Names.matching`.
    """
    if layouts is None or isinstance(layouts, (Layout, str)):
        return {}
    if not isinstance(layouts, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"layouts must be one layout, or layouts by glob or regular expression; got {type(layouts).__name__}; try "
            "layouts={'*weight': 'o i -> i () o'}"
        )
    by_name: dict[str, Layout | str] = {}
    for pattern, layout in layouts.items():
        for name in names.matching(pattern, "layouts"):
            by_name.setdefault(name, layout)
    return by_name
