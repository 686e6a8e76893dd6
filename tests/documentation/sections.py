"""The sections of a page, and the fences of each."""

import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Fence", "Section", "sections"]

_FENCE = re.compile(r"```(\w*)(.*)")
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Fence:
    """Code or output between two lines of backticks.

    Attributes:
        language: The word after the backticks.
        title: The name of the file, where the first line has one.
        line: Number of lines of the page before the code.
        text: The code.
    """

    language: str
    title: str | None
    line: int
    text: str


@dataclass(frozen=True)
class Section:
    """What a page says under one heading of the second level."""

    heading: str
    fences: list[Fence] = field(default_factory=list)

    def code(self, language: str) -> str:
        """Return the code of a language, all fences together."""
        return "\n".join(fence.text for fence in self.fences if fence.language == language)


def sections(page: Path) -> list[Section]:
    """Return the sections of a page; one without a heading of the second level is not among them."""
    found, opening, inside = [Section("")], None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if opening is None and line.startswith("## "):
            found.append(Section(line[3:].strip()))
        elif opening is None and (start := _FENCE.fullmatch(line)):
            title = _TITLE.search(start[2])
            opening, inside = (start[1], title[1] if title else None, number), []
        elif opening is not None and line == "```":
            found[-1].fences.append(Fence(*opening, "\n".join([*inside, ""])))
            opening = None
        else:
            inside.append(line)
    assert opening is None, f"{page}: the fence of line {opening} has no end"
    return found[1:]
