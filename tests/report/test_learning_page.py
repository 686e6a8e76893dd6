"""The report: one file that needs nothing else, and says what was measured."""

import base64
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gramian.cli.record import learning_record
from gramian.coding import GaborAgreement, GaborFit, GaborSpread, GroupPlanes
from gramian.coding.learning_run import LearningRun, RunSettings
from gramian.report import render_report
from gramian.report.turning import turning_section
from tests.report.page import Page


@pytest.fixture(scope="module")
def page(record) -> Page:
    return Page(render_report(record))


def test_it_needs_no_network_and_no_other_file(page, record) -> None:
    text = render_report(record)
    for _, attributes in page.seen:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href") and value is not None:
                assert value.startswith(("data:image/png;base64,", "#"))
    assert page.all("script") == [{}]
    assert not page.all("link")
    assert "@import" not in text
    script = text.split("<script>")[1].split("</script>")[0]
    assert not re.search(r"fetch|XMLHttpRequest|import|Worker|WebSocket|https?:|eval|innerHTML", script)
    assert not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 3_000_000


def test_pictures_can_be_read_and_have_words(page, record) -> None:
    pictures = page.all("img")
    sizes = {}
    for picture in pictures:
        assert picture["alt"]
        content = base64.b64decode(picture["src"].split(",", 1)[1])
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            sizes[picture["alt"]] = image.size
    assert len(pictures) >= 10
    assert sizes["the original picture"] == tuple(reversed(record.held_out.original.shape))
    assert sizes["the reconstruction"] == sizes["the original picture"]
    groups = min(16, record.phi.shape[1])
    assert len(page.all("svg")) == 3 + groups
    assert sum("eight directions" in words for words in sizes) == groups


def test_it_says_what_was_measured(page, record) -> None:
    text = " ".join(page.text)
    assert f"{record.snr_active:.2f} / {record.snr_debiased:.2f} dB" in text
    assert f"{record.phase.variation.learned:.2f}" in text
    assert f"{record.shift[1].random_groups:.2f}" in text
    assert "random groups" in text
    assert "stopped at step" not in text
    for name, value in record.settings.items():
        assert name in text
        assert str(value) in text
    assert "$" not in text


def test_a_run_that_was_stopped(record) -> None:
    assert "It was stopped at step 20 of 50, and can be resumed." in render_report(replace(record, steps=(20, 50)))


def test_the_same_record_gives_the_same_text(record) -> None:
    assert render_report(record) == render_report(record)


def test_names_are_escaped(record) -> None:
    nasty = "<script>alert('x')</script> & $title"
    page = Page(render_report(replace(record, title=nasty, settings={**record.settings, nasty: nasty})))
    assert len(page.all("script")) == 1
    assert nasty in "".join(page.text)


def strips(page: Page) -> dict[int, np.ndarray]:
    """Pictures of groups that turn, by group."""
    found = {}
    for picture in page.all("img"):
        if match := re.fullmatch(r"group (\d+) at eight directions of its code", picture["alt"]):
            with Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",", 1)[1]))) as image:
                found[int(match[1])] = np.asarray(image.convert("RGBA"))
    return found


def test_strips_turn_by_an_eighth_each(page, record) -> None:
    found = strips(page)
    assert list(found) == record.usage.argsort(descending=True).tolist()
    for group, picture in found.items():
        assert picture.shape == (8, 8 * 8 + 7, 4)
        one, two = (record.phi[:, group] @ record.planes.axes[group, :, k] for k in (0, 1))
        largest = torch.hypot(one, two).max()
        for eighth in range(8):
            theta = 2 * math.pi * eighth / 8
            atom = (math.cos(theta) * one + math.sin(theta) * two) / largest
            shown = torch.tensor(picture[:, 9 * eighth : 9 * eighth + 8, 0].astype(float)).flatten()
            torch.testing.assert_close(shown, 127.5 + 127.5 * atom.double(), rtol=0, atol=0.51)


def test_the_slider_has_the_pixels_of_two_directions(page, record) -> None:
    inputs = [each for each in page.all("input") if each["type"] == "radio"]
    assert len(inputs) == 8
    for each in inputs:
        numbers = np.frombuffer(base64.b64decode(each["data-atoms"]), dtype=np.int8).reshape(2, 64)
        directions = (record.phi[:, int(each["value"])] @ record.planes.axes[int(each["value"])]).mT
        largest = directions.norm(dim=0).max()
        np.testing.assert_allclose(numbers, 127 * directions / largest, atol=0.51)


def test_groups_of_two_are_planes_and_larger_ones_are_not(page, record, unchecked) -> None:
    assert "of the power of these groups' codes" not in " ".join(page.text)
    planes = GroupPlanes(axes=torch.eye(3)[None, :, :2].expand(8, 3, 2), share=torch.full((8,), 0.75))
    larger = replace(record, phi=torch.randn(64, 8, 3), planes=planes)
    section = turning_section(larger, torch.arange(8))
    assert "(two of 3; they hold 75 % of the power of these groups' codes)" in section


def test_gabor_functions_stand_where_they_are(record) -> None:
    places = {"row": 2.0, "column": 5.0, "orientation": 0.0, "frequency": 0.25, "phase": 0.0}
    numbers = {**places, "width_along": 1.0, "width_across": 1.5, "amplitude": 1.0, "explained": 0.9}
    fit = GaborFit(**{name: torch.full((8, 2), value) for name, value in numbers.items()})
    fit.explained[:, 1] = 0.1
    learned = GaborSpread(position=1.25, orientation=math.nan, frequency=0.125, quadrature=3.0, resultant=0.5)
    agreement = GaborAgreement(
        threshold=0.5, atoms=8, pairs=7, learned=learned, random_groups=replace(learned, position=4.5)
    )
    page = Page(render_report(replace(record, gabor=fit, agreement=agreement)))
    (bar,) = {tuple(each.items()) for each in page.all("line")}
    # A wave along the columns: its stripes stand upright, 1.5 pixels up and down from the middle of pixel (2, 5).
    ends = {name: float(value) for name, value in bar if name in ("x1", "y1", "x2", "y2")}
    assert ends == {"x1": 5.5, "x2": 5.5, "y1": 1.0, "y2": 4.0}
    assert len(page.all("line")) == 8
    text = " ".join(page.text)
    assert "8 of 16 atoms" in text
    assert "all 7 pairs" in text
    assert "8 of their atoms are not well fitted" in text
    assert [cell in page.text for cell in ("1.2", "4.5", "–", "0.12")] == [True] * 4


def test_single_atoms_and_no_metrics() -> None:
    run = LearningRun(RunSettings(groups=8, size=1, patch=8, steps=1, batch=4, iterations=2))
    page = Page(render_report(learning_record(run)))
    assert not page.all("script")
    assert not page.all("canvas")
    assert "Gabor" not in " ".join(page.text)
