"""The page in a real browser: by mouse and by keys, on any screen, with hostile text, and with 4,096 features."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gramian.activations import Preparation, open_activations
from gramian.activations.page import write_features_page
from gramian.coding import SparseCodes
from tests.activations.page.clocks import DAYS, LENGTH, picture_store, sentences, top_group, word_store
from tests.report.browser import Tab, executable, opened

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the PATH")

NAME = "document.querySelector('#name').textContent"
LISTED = "[...document.querySelectorAll('[role=option]')].map((row) => Number(row.dataset.feature))"
SELECTED = "[...document.querySelectorAll('[role=option][aria-selected=true]')].map((row) => row.dataset.feature)"
FOCUS = "document.activeElement.id"
READING = "document.querySelector('#reading').textContent"
COUNT = "document.querySelector('#count').textContent"
CODES = {
    "ArrowDown": 40,
    "ArrowUp": 38,
    "ArrowLeft": 37,
    "ArrowRight": 39,
    "Enter": 13,
    "Escape": 27,
    "Home": 36,
    "End": 35,
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Tab]:
    with opened(executable(), tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser, written) -> Tab:
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(written.path)
    return browser


def press(tab: Tab, *keys: str) -> None:
    for key in keys:
        tab.press(key, CODES.get(key, ord(key.upper()[0])))


def write(tab: Tab, text: str) -> None:
    """Type into the search field as a hand would end."""
    tab.ask("Input.insertText", text=text)


def choose(tab: Tab, selector: str, value: str) -> None:
    tab.value(
        f"(() => {{ const field = document.querySelector('{selector}'); field.value = '{value}';"
        "field.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def test_it_starts_with_the_most_frequent_feature(tab, written) -> None:
    order = written.record.frequency.argsort(descending=True, stable=True)[:6].tolist()
    assert tab.value(LISTED) == order
    assert tab.value(NAME) == f"Feature {order[0]}"
    assert tab.value(SELECTED) == [str(order[0])]
    assert tab.value(COUNT) == "6 of 10 features"
    assert "Point at a sample" in tab.value(READING)
    assert tab.value("document.querySelector('#training').hidden") is False
    assert tab.value("document.querySelectorAll('#curves svg').length") == 2


def test_a_click_opens_a_feature(tab, written) -> None:
    tab.click("[data-feature='1']")
    assert tab.value(NAME) == "Feature 1"
    assert tab.value(SELECTED) == ["1"]
    facts = tab.value("document.querySelector('#facts').textContent")
    assert f"{written.record.dimension[1]:.2f} of 2" in facts
    assert f"{written.record.circularity[1]:.2f}" in facts
    samples = tab.value("[...document.querySelectorAll('#samples mark')].map((mark) => mark.textContent)")
    assert len(samples) == 12
    assert len(set(samples)) >= 9
    assert "March" in samples
    assert tab.value("location.hash") == "#feature-1"
    assert tab.value("document.querySelectorAll('#strengths rect').length") > 2
    assert tab.value("document.querySelector('#list').getAttribute('aria-activedescendant')") == "option-1"


def test_dead_features_are_listed_on_request(tab) -> None:
    tab.click("#dead")
    assert tab.value(COUNT) == "10 of 10 features"
    tab.click("[data-feature='7']")
    assert tab.value(NAME) == "Feature 7, dead"
    assert "No sample of" in tab.value("document.querySelector('#axes').textContent")
    assert tab.complaints == []


def test_keys_walk_through_the_list(tab, written) -> None:
    order = written.record.frequency.argsort(descending=True, stable=True)[:6].tolist()
    press(tab, "j", "j", "k", "j")
    assert tab.value(NAME) == f"Feature {order[2]}"
    press(tab, "Escape")
    assert tab.value(FOCUS) == "list"
    press(tab, "ArrowDown")
    assert tab.value(NAME) == f"Feature {order[3]}"
    press(tab, "End")
    assert tab.value(NAME) == f"Feature {order[5]}"
    press(tab, "j")
    assert tab.value(NAME) == f"Feature {order[5]}"
    press(tab, "Home", "Enter")
    assert tab.value(NAME) == f"Feature {order[0]}"
    assert tab.value(FOCUS) == "name"
    press(tab, "Escape", "ArrowUp")
    assert tab.value(FOCUS) == "list"


def test_search_by_text_and_by_number(tab) -> None:
    press(tab, "/")
    assert tab.value(FOCUS) == "search"
    write(tab, "mONday")
    assert tab.value(LISTED) == [0]
    assert tab.value(COUNT) == "1 of 10 features"
    press(tab, "j")  # a letter in the field, not a key
    assert tab.value(FOCUS) == "search"
    press(tab, "Enter")
    assert tab.value(NAME) == "Feature 0"
    assert tab.value(FOCUS) == "list"
    press(tab, "/", "Escape")
    assert tab.value(COUNT) == "6 of 10 features"
    write(tab, "#3")
    assert tab.value(LISTED) == [3]
    press(tab, "Escape")
    write(tab, "nothing like it")
    assert tab.value(COUNT) == "0 of 10 features"
    press(tab, "Enter", "Escape", "j")
    assert tab.complaints == []


def test_orders(tab, written) -> None:
    record = written.record
    for order in ("strength", "dimension", "utilisation", "circularity", "share", "number", "frequency"):
        choose(tab, "#sort", order)
        values = -torch.arange(10.0) if order == "number" else getattr(record, order).float()
        listed = tab.value(LISTED)
        assert len(listed) == 6
        assert (values[listed].diff() <= 1e-6).all()
        tab.click("#direction")
        assert (values[tab.value(LISTED)].diff() >= -1e-6).all()
        assert tab.value("document.querySelector('#direction').getAttribute('aria-label')") == "smallest first"
        tab.click("#direction")


def place_of(tab: Tab, written, point: int, feature: int) -> tuple[float, float]:
    """Where a point is drawn: the plane reaches 1.12 of the largest coordinate."""
    record = written.record
    first, last = record.points.starts[feature : feature + 2].tolist()
    reach = 1.12 * float(record.points.position[first:last].abs().max())
    tab.value("document.querySelector('#plane').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = tab.value("document.querySelector('#plane').getBoundingClientRect().toJSON()")
    x, y = record.points.position[point].tolist()
    width = tab.value("document.querySelector('#plane').clientWidth")
    return box["x"] + 1 + width / 2 * (1 + x / reach), box["y"] + 1 + width / 2 * (1 - y / reach)


def test_pointing_at_a_point_shows_its_sample(tab, written) -> None:
    tab.click("[data-feature='0']")
    record = written.record
    first = int(record.points.starts[0])
    seen = set()
    for point in range(first, first + int(record.points.listed[0])):
        x, y = place_of(tab, written, point, 0)
        tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        place = written.activations.places([int(record.points.sample[point])])[0]
        reading = tab.value(READING)
        assert place.context[:40] in reading
        assert f"text {place.document}, token {place.position}" in reading
        assert tab.value("document.querySelector('#reading mark').textContent") == place.text
        assert tab.value("document.querySelectorAll('#samples .now').length") == 1
        seen.add(place.text)
    assert seen == set(DAYS)


def test_keys_walk_round_the_plane(tab, written) -> None:
    tab.click("[data-feature='0']")
    tab.value("document.querySelector('#plane').focus()")
    angles = []
    for _ in range(15):
        press(tab, "ArrowRight")
        angles.append(float(tab.value(READING).rsplit("·", 1)[1].strip(" °")))
    assert angles == sorted(angles)
    first = int(written.record.points.starts[0])
    x, y = written.record.points.position[first : int(written.record.points.starts[1])].T
    expected = torch.rad2deg(torch.atan2(y, x)).remainder(360).sort().values[:15]
    assert angles == pytest.approx(expected.tolist(), abs=0.6)
    press(tab, "ArrowLeft")
    assert float(tab.value(READING).rsplit("·", 1)[1].strip(" °")) == angles[-2]
    press(tab, "ArrowDown")
    assert tab.value(NAME) != "Feature 0"


def test_a_line_of_the_list_of_samples_shows_its_sample(tab) -> None:
    tab.click("[data-feature='0']")
    tab.click("#samples li:nth-of-type(3)")
    assert tab.value("document.querySelector('#samples li:nth-of-type(3)').className") == "now"
    assert "strength" in tab.value(READING)


def test_nearest_subspaces_are_links(tab, written) -> None:
    tab.click("[data-feature='0']")
    nearest = int(written.record.nearest.index[0, 0])
    text = tab.value("document.querySelector('#near button').textContent")
    assert text.startswith(f"#{nearest}")
    assert f"{written.record.nearest.overlap[0, 0]:.2f}" in text
    tab.click("#near button")
    assert tab.value(NAME).startswith(f"Feature {nearest}")
    assert "chance" in tab.value("document.querySelector('#together').textContent")


def test_the_map_opens_features(tab, written) -> None:
    tab.value("document.querySelector('#map').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = tab.value("document.querySelector('#map').getBoundingClientRect().toJSON()")
    record = written.record
    low = math.log10(1 / record.samples)
    across = (record.frequency[1].log10() - low) / (record.frequency.max().log10() - low)
    x = box["x"] + 30 + float(across) * (box["width"] - 42)
    y = box["y"] + box["height"] - 30 - (float(record.dimension[1]) - 1) * (box["height"] - 60)
    for kind in ("mousePressed", "mouseReleased"):
        tab.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert tab.value(NAME) == "Feature 1"


def test_an_address_names_a_feature(browser, written) -> None:
    browser.open(written.path)
    browser.value("location.hash = '#feature-4'")
    assert browser.value("new Promise((done) => setTimeout(() => done(" + NAME + "), 50))") == "Feature 4"


def test_no_requests_and_no_complaints(tab, written) -> None:
    press(tab, "j", "/", "Escape", "ArrowRight")
    tab.click("#direction")
    assert tab.complaints == []
    assert {url.split("#")[0] for url in tab.requests} == {written.path.as_uri()}


SCREENS = [(360, "dark"), (1400, "light")]
OTHERS = [pytest.param(width, scheme, marks=pytest.mark.slow) for width in (320, 800) for scheme in ("light", "dark")]


@pytest.mark.parametrize(("width", "scheme"), SCREENS + OTHERS)
def test_nothing_is_wider_than_the_window(browser, written, width, scheme) -> None:
    browser.complaints.clear()
    browser.ask("Emulation.setDeviceMetricsOverride", width=width, height=740, deviceScaleFactor=1, mobile=width < 500)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        browser.open(written.path)
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("document.querySelector('#plane').getBoundingClientRect().width") > 200
        browser.click("[data-feature='1']")
        assert browser.value(NAME) == "Feature 1"
        assert browser.value("document.documentElement.scrollWidth") <= width
        if width < 500:
            assert browser.value(FOCUS) == "name"
            browser.click("#back")
            assert browser.value(FOCUS) == "list"
        assert browser.complaints == []
    finally:
        browser.ask("Emulation.clearDeviceMetricsOverride")
        browser.ask("Emulation.setEmulatedMedia", features=[])


def test_without_scripts_the_overview_is_there(browser, written) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(written.path)
        assert browser.value("document.querySelectorAll('header .number').length") == 6
        assert browser.value("document.querySelector('#explorer').getBoundingClientRect().height") == 0
        assert browser.value("document.querySelector('noscript').getBoundingClientRect().height") > 20
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


HOSTILE = {
    "elements": (
        "</script><img src=x onerror=console.error('no')><!--",
        "</script><img src=x onerror=console.error('no')><!--",
    ),
    "characters": (
        "\u202e\u2066 \x00\x1b[31m ]]> &lt;b&gt; ${x} $x \u2028",
        "\\u202e\\u2066 \\x00\\x1b[31m ]]> &lt;b&gt; ${x}",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_stays_text(browser, tmp_path, kind) -> None:
    text, expected = HOSTILE[kind]
    activations, phi = word_store(tmp_path / "store", sentences(10), before=text)
    path = tmp_path / "page.html"
    plain = Preparation(torch.zeros(LENGTH), 1.0)
    write_features_page(
        path, phi, top_group(phi, 6), activations, preparation=plain, metrics=[{"step": 0.0, "unexplained": 1.0}],
        title=text + "\ud800", settings={text: text},
    )  # fmt: skip
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(path)
    browser.click("[data-feature='0']")
    for _ in range(6):
        press(browser, "ArrowRight")
        assert expected in browser.value(READING)
        assert expected in browser.value("document.querySelector('#samples').textContent")
    press(browser, "j", "j", "j")
    assert browser.complaints == []
    assert {url.split("#")[0] for url in browser.requests} == {path.as_uri()}
    assert browser.value("document.querySelectorAll('img').length") == 0
    assert browser.value("document.querySelectorAll('script').length") == 2
    title = browser.value("document.querySelector('h1').textContent")
    assert title.startswith(expected)
    assert title.endswith("\\ud800")
    assert expected in browser.value("document.querySelector('#details').textContent")


def test_pictures_have_their_patch_marked(browser, tmp_path) -> None:
    activations = picture_store(tmp_path / "store", tmp_path / "pictures")
    phi = torch.linalg.qr(torch.randn(3, 3)).Q.view(3, 3, 1)
    path = tmp_path / "page.html"
    write_features_page(path, phi, top_group(phi, 3), activations)
    browser.complaints.clear()
    browser.open(path)
    assert browser.value("document.querySelectorAll('#samples img').length") >= 4
    assert browser.value(
        "Promise.all([...document.querySelectorAll('#samples img')].map((image) => image.decode()))"
        ".then((all) => all.length)"
    )
    browser.click("#samples li:has(img)")
    where = browser.value("document.querySelector('#reading .where').textContent")
    row, column = (int(word.split()[-1]) for word in where.split(" · ")[0].split(", ")[1:])
    mark = browser.value(
        "(({left, top, width}) => [left, top, width])(document.querySelector('#reading .patch i').style)"
    )
    assert mark == [f"{25 * column}%", f"{25 * row}%", "25%"]
    assert "sub/" in where
    assert browser.complaints == []


@pytest.mark.slow
def test_4096_features(browser, tmp_path) -> None:
    m, n, k = 4096, 4, 16
    phi = torch.linalg.qr(torch.randn(m, LENGTH, n)).Q.permute(1, 0, 2)

    def encode(x: torch.Tensor) -> SparseCodes:
        groups = torch.rand(len(x), m).topk(k, dim=1).indices
        return SparseCodes(groups, torch.randn(len(x), k, n), m)

    path: Path = tmp_path / "page.html"
    words = [[str(word) for word in line] for line in sentences(1500)]
    activations, _ = word_store(tmp_path / "store", words, before="A longer text before it, as they are. " * 3)
    write_features_page(path, phi, encode, activations)
    assert path.stat().st_size < 15e6
    started = time.monotonic()
    browser.open(path)
    assert browser.value(COUNT) == "4096 of 4096 features"
    assert time.monotonic() - started < 3
    started = time.monotonic()
    press(browser, "/")
    write(browser, "monday")
    choose(browser, "#sort", "circularity")
    assert browser.value("document.querySelectorAll('[role=option]').length") < 40
    press(browser, "Enter", "End")
    assert time.monotonic() - started < 3
    assert browser.value(SELECTED) != []
    assert len(open_activations(tmp_path / "store")) == 16_500
