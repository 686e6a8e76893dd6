"""Titles in the docstrings link to the bibliography: a hook of mkdocs for the pages of the API.

A docstring names a source by its title in quotes, which is readable in `help()` too. An entry of the bibliography is a
line that begins with an anchor and has the title in italics.
"""

import html
import re
from pathlib import Path
from typing import Any

BIBLIOGRAPHY = Path(__file__).parent / "bibliography.md"
_ENTRY = re.compile(r'^- <a id="(\w+)"></a>.*?\*(.+?)\*', re.MULTILINE)
_QUOTED = re.compile(r"(?:\"|&quot;)([^\"<>&]{8,200}?(?:&#x27;[^\"<>&]*)*)(?:\"|&quot;)")
_REFERENCES = re.compile(r"<summary>References</summary>.*?</details>", re.DOTALL)


def entries() -> dict[str, str]:
    """Return the titles of the bibliography by their keys, as they compare."""
    return {key: _plain(title) for key, title in _ENTRY.findall(BIBLIOGRAPHY.read_text(encoding="utf-8"))}


def key_of(title: str, titles: dict[str, str]) -> str | None:
    """Find the entry of a title as a docstring quotes it: whole, or without a part after the colon."""
    return next((key for key, full in titles.items() if _plain(title) in full), None)


def on_page_content(content: str, *, page: Any, **_: object) -> str:
    """Link the titles under "References" in a page of the API."""
    if not page.file.src_uri.startswith("api/"):
        return content
    titles = entries()

    def linked(match: re.Match[str]) -> str:
        key = key_of(html.unescape(match[1]), titles)
        return match[0] if key is None else f'<a href="../bibliography.html#{key}">{match[0]}</a>'

    return _REFERENCES.sub(lambda section: _QUOTED.sub(linked, section[0]), content)


def _plain(title: str) -> str:
    return " ".join(title.replace("’", "'").rstrip(".").lower().split())
