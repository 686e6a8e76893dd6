"""The report: one file that needs nothing else, and says what was measured."""

import base64
import html
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gramian.coding import GroupPlanes, Inference
from gramian.images.evaluation import GaborAgreement, GaborFit, GaborSpread, phase_response
from gramian.images.evaluation.record import LearningRecord, learning_record
from gramian.images.page import render_report
from gramian.images.page.sample_code import sample_code
from gramian.images.page.turning import turning_section
from gramian.images.run import LearningRun, RunSettings
from gramian.images.samples import load_images
from tests.report.page import Page


@pytest.fixture(scope="module")
def text(record) -> str:
    return render_report(record)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


@pytest.fixture
def without_curves(monkeypatch) -> None:
    """Leave out the curves, which take seconds: for pages that differ elsewhere."""
    monkeypatch.setattr("gramian.report.curves._svg", lambda figure: "<svg></svg>")


def test_it_needs_no_network_and_no_other_file(page, text) -> None:
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


def test_pictures_are_valid_and_have_alternative_text(page, record) -> None:
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
    assert len(page.all("svg")) == 4 + groups
    assert sum("eight directions" in words for words in sizes) == groups


def test_the_page_lists_all_measurements(page, record) -> None:
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


def test_the_groups_have_their_numbers(page, record, text) -> None:
    figure = text[text.index('<svg class="atoms"') :]
    figure = figure[: figure.index("</svg>")]
    numbers = [int(number) for number in re.findall(r"<text [^>]*>(\d+)</text>", figure)]
    assert numbers == record.usage.argsort(descending=True).tolist()
    (picture,) = page.all("image")
    with Image.open(io.BytesIO(base64.b64decode(picture["href"].split(",", 1)[1]))) as image:
        assert image.size == (int(picture["width"]), int(picture["height"]))
        pixels = np.asarray(image)
    # To the right of each number stands the group's first atom.
    places = re.findall(r'<text x="(\d+)" y="(\d+)">(\d+)</text>', figure)
    assert len(places) == len(numbers)
    for x, y, group in places:
        left, top = int(x) + 1, int(y) - 4
        atom = record.phi[:, int(group), 0]
        drawn = torch.tensor(pixels[top : top + 8, left : left + 8, 0].astype(float)).flatten()
        torch.testing.assert_close(drawn, 127.5 + 127.5 * (atom / atom.abs().max()).double(), rtol=0, atol=0.51)
        assert pixels[top, left - 1, 3] == 0


def test_every_ratio_says_where_it_is_measured(page, record) -> None:
    text = " ".join(" ".join(page.text).split())
    assert f"SNR at {record.active} coefficients of {record.patches} held-out patches" in text
    assert "This page reports three signal-to-noise ratios" in text
    assert "SNR of whole codes of held-out patches, dB" in text
    assert f"{record.held_out.snr:.1f} dB, with whole codes" in text
    height, width = record.held_out.original.shape
    assert f"upper left {height} × {width} pixels" not in text
    part = replace(record, held_out=replace(record.held_out, whole=(height + 1, width)))
    assert f"upper left {height} × {width} pixels" in render_report(part)


@pytest.mark.usefixtures("without_curves")
def test_a_part_of_a_picture_is_called_a_part(record) -> None:
    height, width = record.held_out.original.shape
    part = replace(record, held_out=replace(record.held_out, whole=(height + 1, width)))
    assert f"upper left {height} × {width} pixels" in render_report(part)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory) -> LearningRun:
    """A run that differs from the default one in all that code and panels must know of."""
    path = tmp_path_factory.mktemp("pictures") / "film's.npy"
    np.save(path, np.random.default_rng(0).random((6, 30, 40, 3)).cumsum(axis=1) / 30)
    options = {"groups": 6, "size": 3, "patch": 5, "steps": 8, "batch": 16, "iterations": 5, "colour": True}
    return LearningRun(
        RunSettings(images=str(path), **options, whiten="zca", prior="nonnegative", infer="lca", target_active=2.0)
    )


@pytest.fixture(scope="module")
def other_record(other_run) -> LearningRecord:
    while not other_run.finished:
        other_run.advance()
    other_run.log_metrics(seconds=1.0)
    return learning_record(other_run)


@pytest.mark.usefixtures("without_curves")
def test_the_code_of_the_page_runs(other_run, other_record, tmp_path, monkeypatch) -> None:
    assert other_run.learner.lam != other_run.settings.lam
    other_run.save(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    code = html.unescape(re.findall(r"<pre>(.*?)</pre>", render_report(other_record), re.DOTALL)[0])
    assert f"{other_run.learner.lam:.4g}" in code
    names = {}
    exec(code, names)
    pixels = load_images(Path(other_run.settings.images), colour=True).images[0].pixels
    samples = other_run.preparation.samples(pixels, stride=2)
    assert torch.equal(names["codes"], other_run.encode(samples.x).codes)
    assert (names["codes"] - names["encoded"].codes).abs().max() < 0.1
    assert names["codes"].any()
    assert names["restored"].shape == pixels.shape


def test_the_code_of_shipped_pictures(record) -> None:
    code = sample_code(record)
    compile(code, "the page", "exec")
    assert "shipped_images()[0]" in code


@pytest.mark.usefixtures("without_curves")
def test_gratings_are_inferred_as_the_run_infers(other_run, other_record) -> None:
    options = {"lam": other_run.learner.lam, "channels": 3}
    same = phase_response(other_run.phi, **options, prior="nonnegative", infer="lca")
    assert torch.equal(other_record.phase.amplitude, same.amplitude)
    plain = phase_response(other_run.phi, **options)
    assert not torch.allclose(other_record.phase.amplitude, plain.amplitude)
    assert "prior nonnegative, by lca" in " ".join(Page(render_report(other_record)).text)


@pytest.mark.usefixtures("without_curves")
def test_many_small_groups_take_no_longer(monkeypatch) -> None:
    """Patches, groups that are drawn and atoms that are fitted are bounded, and the page says so."""
    run = LearningRun(RunSettings(groups=30, size=4, patch=4, steps=1, batch=16, iterations=2))
    coded, told = [], []
    encode = run.encode

    def counted(x: torch.Tensor) -> Inference:
        coded.append(len(x))
        return encode(x)

    monkeypatch.setattr(run, "encode", counted)
    monkeypatch.setattr("gramian.images.evaluation.record._EFFORT", 2e6)
    monkeypatch.setattr("gramian.images.evaluation.record._ENTRIES_FITTED", 16 * 4 * 9)
    monkeypatch.setattr("gramian.images.page.learning_page.MOST_DRAWN", 7)
    monkeypatch.setattr("gramian.images.page.groups.MOST_DRAWN", 7)
    record = learning_record(run, lambda *stage: told.append(stage))
    text = render_report(record, lambda *stage: told.append(stage))
    assert max(coded) <= 512
    assert sum(coded) < 5 * 250
    assert record.gabor.explained.isfinite().all(dim=1).sum() == 9
    assert "was fitted to every atom of the 9 most used groups." in text
    assert text.count("Drawn are the 7 most used of 30 groups.") == 2
    assert len(Page(text).all("text")) >= 7
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == [
        "held-out patches", "a held-out picture", "patches moved by 0", "patches moved by 1", "patches moved by 2",
        "gratings", "Gabor functions", "the page",
    ]  # fmt: skip
    for stage in stages:
        each = [(done, total) for name, done, total in told if name == stage]
        assert each == sorted(each)
        assert each[0][0] == 0
        assert each[-1][0] == each[-1][1] > 0


@pytest.mark.usefixtures("without_curves")
def test_names_that_are_no_text(record) -> None:
    picture = replace(record.held_out, name="caf\udce9.png")
    assert "caf\\udce9.png" in render_report(replace(record, held_out=picture)).encode().decode()


@pytest.mark.usefixtures("without_curves")
def test_a_run_that_was_stopped(record) -> None:
    assert "It was stopped at step 20 of 50, and can be resumed." in render_report(replace(record, steps=(20, 50)))


@pytest.mark.slow
def test_the_same_record_gives_the_same_text(record, text) -> None:
    assert render_report(record) == text


@pytest.mark.usefixtures("without_curves")
def test_names_are_escaped(record) -> None:
    nasty = "<script>alert('x')</script> & $title"
    page = Page(render_report(replace(record, title=nasty, settings={**record.settings, nasty: nasty})))
    assert len(page.all("script")) == 1
    assert nasty in "".join(page.text)


def strips(page: Page) -> dict[int, np.ndarray]:
    """Pictures of groups that turn, by group."""
    by_group = {}
    for picture in page.all("img"):
        if match := re.fullmatch(r"group (\d+) at eight directions of its code", picture["alt"]):
            with Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",", 1)[1]))) as image:
                by_group[int(match[1])] = np.asarray(image.convert("RGBA"))
    return by_group


def test_strips_turn_by_an_eighth_each(page, record) -> None:
    by_group = strips(page)
    assert list(by_group) == record.usage.argsort(descending=True).tolist()
    for group, picture in by_group.items():
        assert picture.shape == (8, 8 * 8 + 7, 4)
        one, two = (record.phi[:, group] @ record.planes.axes[group, :, k] for k in (0, 1))
        largest = torch.hypot(one, two).max()
        for eighth in range(8):
            theta = 2 * math.pi * eighth / 8
            atom = (math.cos(theta) * one + math.sin(theta) * two) / largest
            drawn = torch.tensor(picture[:, 9 * eighth : 9 * eighth + 8, 0].astype(float)).flatten()
            torch.testing.assert_close(drawn, 127.5 + 127.5 * atom.double(), rtol=0, atol=0.51)


def test_the_slider_has_the_pixels_of_two_directions(page, record) -> None:
    inputs = [each for each in page.all("input") if each["type"] == "radio"]
    assert len(inputs) == 8
    for each in inputs:
        numbers = np.frombuffer(base64.b64decode(each["data-atoms"]), dtype=np.int8).reshape(2, 64)
        directions = (record.phi[:, int(each["value"])] @ record.planes.axes[int(each["value"])]).mT
        largest = directions.norm(dim=0).max()
        np.testing.assert_allclose(numbers, 127 * directions / largest, atol=0.51)


def test_groups_of_two_are_planes_and_larger_ones_are_not(page, record) -> None:
    assert "of the power of these groups' codes" not in " ".join(page.text)
    planes = GroupPlanes(axes=torch.eye(3)[None, :, :2].expand(8, 3, 2), share=torch.full((8,), 0.75))
    larger = replace(record, phi=torch.randn(64, 8, 3), planes=planes)
    section = turning_section(larger, torch.arange(8))
    assert "(two of 3; they hold 75 % of the power of these groups' codes)" in section


@pytest.mark.usefixtures("without_curves")
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


@pytest.mark.slow
@pytest.mark.usefixtures("without_curves")
def test_single_atoms_and_no_metrics() -> None:
    run = LearningRun(RunSettings(groups=8, size=1, patch=8, steps=1, batch=4, iterations=2))
    page = Page(render_report(learning_record(run)))
    assert not page.all("script")
    assert not page.all("canvas")
    assert "Gabor" not in " ".join(page.text)
