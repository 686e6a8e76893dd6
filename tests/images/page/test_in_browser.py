"""The report in a real browser: the slider turns the picture, and nothing leaves the file."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gramian.images.evaluation.record import LearningRecord
from gramian.images.page import render_report
from tests.report.browser import Tab, executable, opened

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome on the PATH")

PIXELS = "[...document.querySelector('#atom').getContext('2d').getImageData(0, 0, 8, 8).data]"
DEGREES = "document.querySelector('#degrees').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Tab]:
    with opened(executable(), tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def file(tmp_path_factory, record) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(record), encoding="utf-8")
    return path


@pytest.fixture
def tab(browser, file) -> Tab:
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(file)
    return browser


def pixels(tab: Tab) -> np.ndarray:
    colours = np.asarray(tab.value(PIXELS)).reshape(8, 8, 4)
    assert (colours[..., 3] == 255).all()
    assert (colours[..., 0] == colours[..., 1]).all()
    assert (colours[..., 0] == colours[..., 2]).all()
    return colours[..., 0]


def turn(tab: Tab, degrees: int) -> np.ndarray:
    """Turn the slider to so many degrees, as a hand would end."""
    tab.value(f"(() => {{ const a = document.querySelector('#angle'); a.value = {degrees};"
              "a.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip
    assert tab.value(DEGREES) == f"{degrees}°"
    return pixels(tab)


def expected(record: LearningRecord, group: int, degrees: int) -> np.ndarray:
    """The oracle: Φ_i (cos θ e₁ + sin θ e₂), in a scale of its largest pixel at any θ."""
    assert record.planes is not None
    one, two = (record.phi[:, group] @ record.planes.axes[group, :, k] for k in (0, 1))
    angles = torch.linspace(0, 2 * math.pi, 3601)
    largest = (angles.cos()[:, None] * one + angles.sin()[:, None] * two).abs().max()
    theta = math.radians(degrees)
    return (128 + 127 * (math.cos(theta) * one + math.sin(theta) * two) / largest).reshape(8, 8).numpy()


def test_it_starts_with_the_most_used_group(tab, record) -> None:
    group = int(record.usage.argmax())
    assert tab.value("document.querySelector('#strips input:checked').value") == str(group)
    assert tab.value(DEGREES) == "0°"
    assert tab.value("document.querySelector('#turner').hidden") is False
    np.testing.assert_allclose(pixels(tab), expected(record, group, 0), atol=2)


@pytest.mark.parametrize("degrees", [45, 90, 175, 300])
def test_the_slider_turns_the_picture(tab, record, degrees) -> None:
    before = pixels(tab)
    after = turn(tab, degrees)
    assert np.abs(after - before).max() > 20
    np.testing.assert_allclose(after, expected(record, int(record.usage.argmax()), degrees), atol=2)


def test_half_a_turn_gives_the_negative_and_a_whole_one_the_same(tab) -> None:
    here, opposite = turn(tab, 60), turn(tab, 240)
    assert np.ptp(here) > 50
    assert np.abs(here + opposite - 256).max() <= 1
    np.testing.assert_array_equal(turn(tab, 360), turn(tab, 0))


def test_it_is_turned_by_keys_and_by_the_mouse(tab) -> None:
    before = pixels(tab)
    tab.click("#angle")
    assert tab.value(DEGREES) == "180°"
    assert np.abs(before + pixels(tab) - 256).max() <= 1
    tab.press("ArrowRight", 39)
    assert tab.value(DEGREES) == "185°"
    tab.press("Home", 36)
    assert tab.value(DEGREES) == "0°"
    np.testing.assert_array_equal(pixels(tab), before)


def test_another_group_is_another_picture(tab, record) -> None:
    order = record.usage.argsort(descending=True).tolist()
    turn(tab, 30)
    seen = []
    for place in (1, 2, 0):
        tab.click(f"#strips label:nth-of-type({place + 1})")
        assert tab.value("document.querySelector('#strips input:checked').value") == str(order[place])
        np.testing.assert_allclose(pixels(tab), expected(record, order[place], 30), atol=2)
        assert str(order[place]) in tab.value("document.querySelector('#atom').getAttribute('aria-label')")
        assert tab.value(DEGREES) == "30°"
        seen.append(pixels(tab))
    assert min(np.abs(seen[0] - seen[1]).max(), np.abs(seen[1] - seen[2]).max()) > 20
    tab.press("ArrowDown", 40)
    assert tab.value("document.querySelector('#strips input:checked').value") == str(order[1])
    np.testing.assert_array_equal(pixels(tab), seen[0])


def test_no_network_requests_and_no_errors_in_the_console(tab, file) -> None:
    tab.click("#strips label:nth-of-type(2)")
    turn(tab, 90)
    assert tab.complaints == []
    assert file.as_uri() in tab.requests
    assert all(url == file.as_uri() or url.startswith("data:image/png;base64,") for url in tab.requests)


def test_complaints_and_requests_would_be_seen(tab) -> None:
    # Were they not, the test above would pass with anything.
    tab.value("console.error('no'), fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert any('"no"' in each for each in tab.complaints)
    assert "http://127.0.0.1:9/" in tab.requests


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_is_wider_than_the_window(tab, width) -> None:
    tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    try:
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")
        assert tab.value("document.querySelector('#atom').getBoundingClientRect().width") > 200
    finally:
        tab.ask("Emulation.clearDeviceMetricsOverride")


def test_without_scripts_the_strips_are_there(browser, file) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(file)
        assert browser.value("document.querySelector('#turner').getBoundingClientRect().height") == 0
        assert browser.value("document.querySelectorAll('#strips input:disabled').length") == 8
        assert browser.value("document.querySelector('#strips img').getBoundingClientRect().width") > 150
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)
