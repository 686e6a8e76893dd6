"""Cells of tables keep to two lines: a hook of mkdocs gives each cell room for its text, and wide tables scroll."""

import html
import re

SHORT = 34
"""The most characters that stay on one line."""

_CELL = re.compile(r"<(t[dh])((?:\s[^>]*)?)>(.*?)</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


def width(text: str) -> int:
    """Return the least width of a cell in characters, for which its text has at most two lines; 0 for one line."""
    if len(text) <= SHORT:
        return 0
    longest = max(map(len, text.split()))
    # Lines end between words: each loses at most the longest word, and wide letters need a little more.
    return max(longest, 11 * len(text) // 20 + min(longest, 12) // 2 + 2)


def roomy(cell: re.Match[str]) -> str:
    """Give one cell the room that it needs."""
    tag, attributes, content = cell.groups()
    least = width(" ".join(html.unescape(_TAG.sub("", content)).split()))
    room = f"min-width: {least}ch" if least else "white-space: nowrap"
    if found := re.search(r'style="([^"]*)"', attributes):
        attributes = attributes.replace(found[0], f'style="{found[1].rstrip("; ")}; {room}"')
    else:
        attributes += f' style="{room}"'
    return f"<{tag}{attributes}>{content}</{tag}>"


def on_page_content(content: str, **_: object) -> str:
    """Give every cell of a page its room."""
    return _CELL.sub(roomy, content)
