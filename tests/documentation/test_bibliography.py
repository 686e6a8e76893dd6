"""The bibliography: every source that is named has an entry, every entry has a link and is named somewhere."""

import ast
import re
from functools import cache

import pytest

from tests.documentation.conftest import DOCS, load

citations = load("citations")
SOURCE = DOCS.parent / "src" / "gramian"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if path.name != "bibliography.md"]
PAGES += [DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md")]
"""The pages of the site, with those of its folders, and those that a reader of the repository sees."""
LINES = [line for line in citations.BIBLIOGRAPHY.read_text(encoding="utf-8").splitlines() if line.startswith("- ")]

ELSEWHERE = ("papers.nips.cc", "cs.toronto.edu", "openreview.net", "kellerjordan.github.io")
"""Places of publication of the entries that have neither a DOI nor an arXiv number."""


@cache
def quoted() -> dict[str, str]:
    """Titles under "References:" in the docstrings, each with the place that names it."""
    titles = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                _, _, section = (ast.get_docstring(node) or "").partition("\nReferences:\n")
                section = section.split("\n\n")[0]
                names = re.findall(r'"([^"]+)"', re.sub(r"\([^()]*\)", "", " ".join(section.split())))
                titles |= dict.fromkeys(names, f"{path.relative_to(SOURCE)}, {getattr(node, 'name', '')}")
    return titles


@cache
def linked() -> dict[str, str]:
    """Keys that pages link to, each with a page."""
    found = {}
    for path in PAGES:
        found |= dict.fromkeys(re.findall(r"bibliography\.md#(\w+)", path.read_text(encoding="utf-8")), path.name)
    return found


def test_the_entries_are_in_order_and_each_has_a_link() -> None:
    keys = list(citations.entries())
    assert keys == sorted(set(keys))
    assert len(keys) == len(LINES)
    for line in LINES:
        (link,) = re.findall(r"\]\((https://\S+)\)$", line)
        places = ("https://doi.org/10.", "https://arxiv.org/abs/", *(f"https://{place}/" for place in ELSEWHERE))
        assert link.replace("www.", "").startswith(places), line


def test_every_title_in_a_docstring_has_an_entry() -> None:
    titles = citations.entries()
    assert len(quoted()) > 40
    assert {title: place for title, place in quoted().items() if citations.key_of(title, titles) is None} == {}


def test_every_link_of_a_page_has_an_entry() -> None:
    assert {key: page for key, page in linked().items() if key not in citations.entries()} == {}


def test_every_entry_is_named_by_a_page_or_a_docstring() -> None:
    titles = citations.entries()
    named = {citations.key_of(title, titles) for title in quoted()} | linked().keys()
    assert titles.keys() - named == set()


def test_pages_in_folders_are_among_them() -> None:
    assert {"cookbook", "measured"} <= {path.parent.name for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_names_sources_by_the_bibliography_only(path) -> None:
    assert re.findall(r"https?://(?:doi\.org|arxiv\.org)\S+", path.read_text(encoding="utf-8")) == []


def test_titles_become_links_in_the_pages_of_the_api() -> None:
    page = type("Page", (), {"file": type("File", (), {"src_uri": "api/rules.md"})})
    section = "<summary>References</summary><p>Davis, {0}Subgradient methods for sharp weakly convex functions{0}</p>"
    for quote in ('"', "&quot;"):
        text = citations.on_page_content(section.format(quote) + "</details>", page=page)
        assert 'href="../bibliography.html#davis2018"' in text
    page.file.src_uri = "rules.md"
    assert "href" not in citations.on_page_content(section.format('"') + "</details>", page=page)
