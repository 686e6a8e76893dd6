"""The report: one file that needs nothing else, and says what was measured."""

import base64
import io
import re
from dataclasses import replace

import pytest
from PIL import Image

from gramian.cli.record import learning_record
from gramian.coding.learning_run import LearningRun, RunSettings
from gramian.report import LearningRecord, render_report
from tests.report.page import Page


@pytest.fixture(scope="module")
def record() -> LearningRecord:
    run = LearningRun(RunSettings(groups=8, size=2, patch=8, steps=20, batch=16, iterations=5, report_every=10))
    while not run.finished:
        run.advance()
        if run.due:
            run.metrics.append(run.evaluate(seconds=1.0))
    return learning_record(run)


@pytest.fixture(scope="module")
def page(record) -> Page:
    return Page(render_report(record))


def test_it_needs_no_network_and_no_other_file(page, record) -> None:
    text = render_report(record)
    for _, attributes in page.seen:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href") and value is not None:
                assert value.startswith(("data:image/png;base64,", "#"))
    assert not page.all("script")
    assert not page.all("link")
    assert "@import" not in text
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
    assert len(page.all("svg")) == 3


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
    assert not page.all("script")
    assert nasty in "".join(page.text)


def test_single_atoms_and_no_metrics() -> None:
    run = LearningRun(RunSettings(groups=8, size=1, patch=8, steps=1, batch=4, iterations=2))
    Page(render_report(learning_record(run)))
