"""The samples on the page: a token in its context, a patch in its picture, or a number."""

from collections.abc import Sequence
from typing import Any

from gramian.activations.store.places import Place

__all__ = ["readable", "sample_table"]

_BEFORE, _AFTER = 56, 44
"""Characters of the context on either side of a token."""

_LONGEST = 60
"""Characters of a token, and of the name of a picture."""

_CONTROL = {"\n": "⏎", "\r": "⏎", "\t": "⇥"}


def readable(text: str) -> str:
    r"""Replace characters that cannot be printed: ends of lines and tabs by symbols, the others by their codes.

    Examples:
        >>> readable("one\ntwo\x07 \u202e \udce9")
        'one⏎two\\x07 \\u202e \\udce9'
    """
    return "".join(
        character if character.isprintable() else _CONTROL.get(character) or ascii(character)[1:-1]
        for character in text
    )


def sample_table(places: Sequence[Place], *, kind: str) -> dict[str, Any]:
    """Return the columns of a table of samples, in JSON.

    Args:
        places: Where the samples come from.
        kind: What positions count: 'tokens', 'patches' or 'rows'.

    Returns:
        For all samples the document and the position. For texts also the token and its context before and after; for
        rows the name of the document as the token; for pictures the row and the column of the patch, the grid, and the
        names by document.
    """
    table: dict[str, Any] = {
        "kind": kind,
        "document": [place.document for place in places],
        "position": [place.position for place in places],
    }
    if kind == "patches":
        table["names"] = {str(place.document): readable(_shortened(place.context)) for place in places if place.context}
        table["patch"] = [None if place.patch is None else [*place.patch, *(place.grid or ())] for place in places]
    elif any(place.context for place in places):
        columns = [
            ("", readable(_shortened(place.context)), "") if kind == "rows" else _context(place) for place in places
        ]
        table["before"], table["token"], table["after"] = (list(column) for column in zip(*columns, strict=True))
    return table


def _context(place: Place) -> tuple[str, str, str]:
    """Return the context before a token, the token, and the context after it; an empty token if it has no text."""
    text = place.context
    first, last = place.span or (0, 0)
    start, end = max(0, first - _BEFORE), last + _AFTER
    before = ("…" if start else "") + readable(text[start:first])
    after = readable(text[last:end]) + ("…" if end < len(text) else "")
    return before, readable(_shortened(text[first:last])), after


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"
