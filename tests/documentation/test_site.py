"""The site in a browser, from files: nothing is cut, nothing is requested, and the search needs no server."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documentation.conftest import DOCS
from tests.report.browser import Tab, executable, opened

pytest.importorskip("mkdocs", reason="the tools of the site are installed by `make docs`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="needs Chromium on a system with pipes that have numbers"),
]

CUT = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  const scrolls = (element) => {
    for (let each = element; each && each !== document.body; each = each.parentElement)
      if (/auto|scroll/.test(getComputedStyle(each).overflowX) && each.scrollWidth > each.clientWidth) return true;
    return false;
  };
  if (document.documentElement.scrollWidth > width) found.push("the page is wider than the window");
  for (const each of document.querySelectorAll("article :is(math, code, td, img, p, h1, h2, h3)"))
    if (each.getBoundingClientRect().right > width + 1 && !scrolls(each)) found.push(each.textContent.slice(0, 80));
  return found;
})()"""
"""What is cut at the right edge, and does not scroll."""

LINES = """[...document.querySelectorAll("article td")].filter((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const boxes = [...range.getClientRects()].filter((box) => box.width > 1);
  const ends = boxes.map((box) => box.bottom).sort((a, b) => a - b);
  return ends.filter((end, index) => index === 0 || end - ends[index - 1] > 9).length > 2;
}).map((cell) => cell.textContent.slice(0, 80))"""
"""Cells of tables with more than two lines."""

SEARCH = """(() => {
  const field = document.querySelector("[data-md-component=search-query]");
  field.focus();
  field.value = WORD;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
})()"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def tab(tmp_path) -> Iterator[Tab]:
    with opened(executable(), tmp_path, seconds=300) as page:
        yield page


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_cut_and_nothing_is_requested(site, tab, width) -> None:
    tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
    problems = {}
    for path in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # a server shows that page at any address
        tab.open(path)
        if found := [*tab.value(CUT), *tab.value(LINES)]:
            problems[path.name] = found[:5]
    assert problems == {}
    assert [address for address in tab.requests if not address.startswith(("file:", "data:", "about:"))] == []
    assert tab.complaints == []


@pytest.mark.parametrize("word", ["proximal", "Stiefel", "GradScaler", "FSDP2", "--target-active"])
def test_the_search_works_from_files(site, tab, word) -> None:
    tab.open(site / "rules.html")
    tab.value(SEARCH.replace("WORD", json.dumps(word)))
    end = time.monotonic() + 20
    while not (found := tab.value('document.querySelectorAll(".md-search-result__item").length')):
        assert time.monotonic() < end, "no result"
        time.sleep(0.2)
    assert found > 1
    assert word.lower() in tab.value('document.querySelector(".md-search-result__list").innerText').lower()
