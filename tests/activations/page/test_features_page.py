"""The file: one page with all its data, written in one stroke."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from gramian.activations import Preparation, open_activations
from gramian.activations.evaluation import feature_record
from gramian.activations.page import write_features_page
from gramian.activations.page.data import as_json, curves_of, packed
from gramian.coding import SparseCodes
from gramian.errors import OptionError, RunError, ShapeError
from tests.activations.page.clocks import picture_store, top_group
from tests.report.page import Page


def data_of(text: str) -> dict:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[0])


def column(data: dict, name: str) -> np.ndarray:
    kind, text = data["columns"][name]
    return np.frombuffer(base64.b64decode(text), dtype=kind)


@pytest.fixture(scope="module")
def text(written) -> str:
    return written.path.read_text(encoding="utf-8")


def test_it_needs_no_network_and_no_other_file(text) -> None:
    page = Page(text)
    for _, attributes in page.seen:
        for name in ("src", "href"):
            assert attributes.get(name) is None
    assert [each.get("type") for each in page.all("script")] == ["application/json", None]
    assert not page.all("link")
    script = text.split("<script>")[1].split("</script>")[0]
    assert not re.search(
        r"fetch|XMLHttpRequest|import\b|Worker|WebSocket|https:|eval\(|innerHTML|outerHTML|insertAdj", script
    )
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 400_000


def test_the_overview(text, written) -> None:
    record = written.record
    words = " ".join(Page(text).text)
    assert f"{100 * record.unexplained:.3g} %" in words
    assert "1.0 of 10" in words
    assert "40 %" in words  # four of ten are dead
    assert f"{record.description.total:.0f} bits" in words
    assert f"{record.mean_dimension:.2f} of 2" in words
    assert "arXiv 2410.11179" in words
    assert "groups" in words
    assert "clocks" in words


def test_the_circles_are_recognised(written) -> None:
    roundest = written.record.circularity.argsort(descending=True)[:2].tolist()
    assert sorted(roundest) == [0, 1]
    assert written.record.nearest.index[0, 0] in (8, 9)


def test_the_data_are_those_of_the_record(text, written) -> None:
    data, record = data_of(text), written.record
    np.testing.assert_allclose(column(data, "frequency"), record.frequency, rtol=1e-6)
    np.testing.assert_allclose(column(data, "dimension"), record.dimension, rtol=1e-6)
    np.testing.assert_array_equal(column(data, "near").reshape(10, -1), record.nearest.index)
    np.testing.assert_array_equal(column(data, "starts"), record.points.starts)
    counts = record.points.starts.diff()
    limit = torch.from_numpy(column(data, "limit").copy()).repeat_interleave(counts)[:, None]
    position = torch.from_numpy(column(data, "position").astype(np.float32)).view(-1, 2) / 32767 * limit
    torch.testing.assert_close(position, record.points.position, rtol=0, atol=1e-4)
    largest = record.largest.repeat_interleave(counts)
    strength = torch.from_numpy(column(data, "amplitude").astype(np.float32)) / 65535 * largest
    torch.testing.assert_close(strength, record.points.strength, rtol=1e-4, atol=1e-4)


def test_points_have_the_tokens_of_their_samples(text, written) -> None:
    data = data_of(text)
    places = written.activations.places(written.record.points.sample)
    table = data["table"]
    for place, sample in zip(places, column(data, "sample"), strict=True):
        assert table["document"][sample] == place.document
        assert table["position"][sample] == place.position
        assert table["token"][sample] == place.text


def test_samples_are_a_sorted_part_of_the_activations(written, tmp_path) -> None:
    options = {"preparation": Preparation(torch.zeros(16), 1.0), "samples": 200}
    seen: list[torch.Tensor] = []

    def encode(x: torch.Tensor) -> SparseCodes:
        seen.append(x)
        return top_group(written.phi, 6)(x)

    stages: list[tuple[str, int, int]] = []
    record = write_features_page(
        tmp_path / "a.html",
        written.phi,
        encode,
        written.activations,
        progress=lambda *stage: stages.append(stage),
        **options,
    )
    assert record.samples == 200
    x = torch.cat(seen)
    every = written.activations[:]
    rows = [int((every == row).all(dim=1).nonzero()) for row in x]
    assert rows == sorted(set(rows))
    data = data_of((tmp_path / "a.html").read_text(encoding="utf-8"))
    table = data["table"]
    points = column(data, "sample")
    for place in range(0, len(points), 11):
        origin = written.activations.places([rows[int(record.points.sample[place])]])[0]
        assert (table["document"][points[place]], table["position"][points[place]]) == (
            origin.document,
            origin.position,
        )
    assert stages == [("encoding", 0, 200), ("encoding", 200, 200)]


def test_an_existing_page_is_replaced_or_kept_whole(written, tmp_path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    arguments = (written.phi, top_group(written.phi, 6), written.activations)
    with pytest.raises(ShapeError):
        write_features_page(path, written.phi[:5], *arguments[1:])
    assert path.read_text() == "old"
    write_features_page(path, *arguments, samples=100)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RunError):
        write_features_page(tmp_path / "none" / "page.html", *arguments, samples=10)


def test_errors(written, tmp_path) -> None:
    encode = top_group(written.phi, 6)
    with pytest.raises(ShapeError, match=r"phi must be Φ\[l, m, n\] with l = 16"):
        write_features_page(tmp_path / "a.html", written.phi[:4], encode, written.activations)
    with pytest.raises(OptionError, match="samples must be"):
        write_features_page(tmp_path / "a.html", written.phi, encode, written.activations, samples=0)


def test_plain_arrays_give_sample_numbers(tmp_path) -> None:
    x = torch.randn(50, 6)
    phi = torch.linalg.qr(torch.randn(6, 6)).Q.view(6, 2, 3)
    write_features_page(tmp_path / "a.html", phi, top_group(phi, 2), open_activations(x))
    data = data_of((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert data["table"] == {"kind": "rows", "document": list(range(50)), "position": [0] * 50}
    assert data["pictures"] == {}
    assert data["curves"] == {"step": []}


def test_pictures_are_read_again(tmp_path) -> None:
    activations = picture_store(tmp_path / "store", tmp_path / "pictures")
    phi = torch.linalg.qr(torch.randn(3, 3)).Q.view(3, 3, 1)
    path = tmp_path / "a.html"
    write_features_page(path, phi, top_group(phi, 3), activations)
    data = data_of(path.read_text(encoding="utf-8"))
    assert sorted(data["pictures"]) == ["0", "1", "2", "3", "4"]  # the last name leads out of the folder
    assert data["table"]["names"]["5"] == "../outside.png"
    content = base64.b64decode(data["pictures"]["3"].removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(content)) as image, Image.open(tmp_path / "pictures" / "sub" / "3.png") as original:
        assert image.size == (32, 32)
        assert np.abs(np.asarray(image, dtype=int)[3::8, 3::8] - np.asarray(original)[3::8, 3::8]).mean() < 12
    row, col, rows, columns = data["table"]["patch"][5]
    assert (rows, columns) == (4, 4)
    assert 4 * row + col == data["table"]["position"][5]
    write_features_page(path, phi, top_group(phi, 3), activations, pictures=tmp_path / "nowhere")
    assert data_of(path.read_text(encoding="utf-8"))["pictures"] == {}


def test_json_is_safe_in_html() -> None:
    hostile = {"a": "</script><script>alert(1)</script><!-- & \u2028 \ud800 \x00"}
    text = as_json(hostile)
    assert not re.search(r"[<>&]", text)
    assert text.isascii()
    assert json.loads(text) == hostile
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json([float("nan")])


def test_curves_have_no_infinite_numbers() -> None:
    rows = [{"step": 0.0, "unexplained": float("inf"), "other": 1.0}, {"step": 10.0, "unexplained": 0.25, "snr": 3.0}]
    assert curves_of(rows) == {"step": [0.0, 10.0], "unexplained": [None, 0.25], "snr": [None, 3.0]}


def test_many_samples_need_wider_numbers(monkeypatch) -> None:
    dense = torch.randn(70_000, 1, 2)
    record = feature_record([dense[:, 0]], torch.eye(2)[:, None], lambda _: SparseCodes.of(dense), drawn=70_000)
    data, samples = packed(record)
    assert data["columns"]["sample"][0] == "int32"
    assert len(samples) == 70_000
    assert column(data, "sample").max() == 69_999
