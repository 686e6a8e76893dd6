"""The page of weights: every pair is counted, the worst groups are shown, and it needs nothing else."""

import numpy as np
import pytest
import torch

import gramian
from gramian.report import curves, portrait, render_weights, weights_page
from tests.report.page import Page


def page_of(**tensors: torch.Tensor) -> Page:
    inspection = gramian.inspect(tensors)
    portraits = {row.name: portrait(row.layout.to_phi(tensors[row.name])) for row in inspection.rows}
    return Page(render_weights({"a <b>.npz": (inspection, portraits)}))


@pytest.mark.parametrize("few", [1, 1 << 22])
def test_every_pair_is_counted(few, monkeypatch) -> None:
    monkeypatch.setattr(weights_page, "_NUMBERS", few)
    phi = torch.randn(16, 7, 5, dtype=torch.float64)
    drawn = portrait(phi)
    X = gramian.residual(phi).abs()
    above = torch.ones(5, 5, dtype=torch.bool).triu(1)
    edges = curves.RESIDUAL_EDGES
    np.testing.assert_array_equal(drawn.lengths, np.histogram(X.diagonal(dim1=1, dim2=2).flatten(), edges)[0])
    np.testing.assert_array_equal(drawn.angles, np.histogram(X[:, above].flatten(), edges)[0])


def test_values_out_of_range_are_counted_in_the_outer_bins() -> None:
    drawn = portrait(torch.eye(3)[:, None, :].repeat(1, 2, 1) * torch.tensor([1.0, 1e6])[None, :, None])
    assert drawn.lengths[0] == 3
    assert drawn.lengths[-1] == 3
    assert drawn.angles[0] == 6


def test_the_worst_groups_come_first() -> None:
    phi = torch.eye(4)[:, None, :2].repeat(1, 40000, 1)
    phi[0, 12345, 1] = 0.5
    drawn = portrait(phi)
    assert drawn.n_groups == 85**2
    assert drawn.mosaic[0, 1].tolist() != drawn.mosaic[0, 0].tolist()
    assert (drawn.mosaic[3:5, 3:5, :3] == drawn.mosaic[3, 3, :3]).all()
    assert max(drawn.mosaic.shape[:2]) <= 256


def test_large_groups_are_shown_by_their_largest_entries() -> None:
    phi = torch.eye(600)[:, None, :]
    phi[0, 0, 400] = 1.0
    drawn = portrait(phi)
    assert drawn.mosaic.shape == (256, 256, 4)
    bright, dark = drawn.mosaic[0, 170], drawn.mosaic[100, 100]
    assert (bright != dark).any()
    assert (drawn.mosaic[170, 0] == bright).all()
    assert (drawn.mosaic[170, 170] == bright).all()


def test_it_needs_no_network_and_no_other_file() -> None:
    page = page_of(w=torch.randn(8, 20), bias=torch.zeros(3), huge=torch.randn(4, 300))
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert {each["href"] for each in page.all("a")} == {"#w", "#huge"}
    assert [each["id"] for each in page.all("h3")] == ["w", "huge"]
    text = " ".join(page.text)
    assert "a <b>.npz" in text
    assert "1 skipped" in text
    assert "of 1 axes" in text


def test_names_are_escaped_and_anchors_are_unique() -> None:
    names = ("[red]w", "<b>w</b>", "w w", "w_w", "w\x1b\n", "w\udcff")
    inspection = gramian.inspect({name: torch.randn(2, 5) for name in names})
    portraits = {row.name: portrait(row.layout.to_phi(torch.randn(2, 5))) for row in inspection.rows}
    page = Page(
        render_weights({"[a] <b>.npz": (inspection, portraits), "b\udcff.npz": (inspection, portraits)})
        .encode()
        .decode()
    )
    places = [each["id"] for each in page.all("h3")]
    assert len(set(places)) == len(places) == 12
    assert [each["href"] for each in page.all("a")] == [f"#{place}" for place in places]
    text = " ".join(page.text)
    for name in ("[red]w", "<b>w</b>", r"w\x1b\n", r"w\udcff", "[a] <b>.npz", r"b\udcff.npz"):
        assert name in text


def test_values_that_are_not_finite() -> None:
    tensor = torch.randn(2, 5)
    tensor[0, 0] = torch.nan
    assert "nan" in " ".join(page_of(w=tensor).text)
