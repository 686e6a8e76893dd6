"""The page of weights: every pair is counted, the worst groups are shown, and it needs nothing else."""

import re

import numpy as np
import pytest
import torch

import gramian
from gramian.report import curves, portrait, portraits, render_weights
from tests.report.page import Page


def page_of(**tensors: torch.Tensor) -> Page:
    inspection = gramian.inspect(tensors)
    portraits = {row.name: portrait(row.layout.to_phi(tensors[row.name])) for row in inspection.rows}
    return Page(render_weights({"a <b>.npz": (inspection, portraits)}))


@pytest.mark.parametrize("few", [1, 1 << 22])
def test_every_pair_is_counted(few, monkeypatch) -> None:
    monkeypatch.setattr(portraits, "_NUMBERS", few)
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
    assert len(drawn.groups) == 85**2
    assert drawn.groups[0] == 12345
    assert drawn.picture[0, 1].tolist() != drawn.picture[0, 0].tolist()
    assert (drawn.picture[3:5, 3:5, :3] == drawn.picture[3, 3, :3]).all()
    assert max(drawn.picture.shape[:2]) <= 256


def test_large_groups_are_shown_by_their_largest_entries() -> None:
    phi = torch.eye(600)[:, None, :]
    phi[0, 0, 400] = 1.0
    drawn = portrait(phi)
    assert drawn.picture.shape == (256, 256, 4)
    bright, dark = drawn.picture[0, 170], drawn.picture[100, 100]
    assert (bright != dark).any()
    assert (drawn.picture[170, 0] == bright).all()
    assert (drawn.picture[170, 170] == bright).all()


def brightness(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., :3].astype(int).sum(axis=-1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_colours_do_not_saturate(scale) -> None:
    phi = torch.randn(64, 1, 24, dtype=torch.float64) * torch.rand(24, dtype=torch.float64) * scale
    drawn = portrait(phi)
    X = gramian.residual(phi)[0].abs()
    low, high = float(X.flatten().quantile(0.02)), float(X.max())
    assert drawn.limits == pytest.approx((min(low, high / 10), high), rel=1e-6)
    order = X.clamp(*drawn.limits).flatten().argsort()
    levels = brightness(drawn.picture).flatten()[order.numpy()]
    assert (np.diff(levels) >= -2).all()  # the colours of magma get brighter, to rounding
    assert len(np.unique(levels[24:-24])) > 30
    assert (levels == levels[-1]).sum() <= 24 + 1  # at most the lengths, which are all wrong by 1 if they are tiny


def test_the_scale_is_told() -> None:
    phi = torch.eye(4)[:, None, :2].clone()
    assert portrait(phi).limits == (1e-8, 1.0)
    phi[0, 0, 1] = 0.5
    inspection = gramian.inspect({"w": phi[:, 0].T})
    text = " ".join(Page(render_weights({"w.npz": (inspection, {"w": portrait(phi)})})).text)
    assert "0.05 and below" in text
    assert "0.16" in text
    tiny = portrait(torch.full((1, 1, 1), 1.0, dtype=torch.float64) + 5e-324)
    assert tiny.limits == (1e-8, 1.0)


@pytest.mark.parametrize(
    ("layout", "shape", "numbers", "axes"),
    [
        (
            "(h d) i -> i h d; h=12",
            (48, 96),
            [str(head) for head in range(12)],
            "12 groups, with their numbers along h",
        ),
        (
            "(kind h d) i -> i (kind h) d; kind=3, h=2",
            (24, 96),
            ["0·0", "0·1", "1·0", "1·1", "2·0", "2·1"],
            "along kind·h",
        ),
        ("(h d) i -> i h d; h=2", (600, 700), ["0", "1"], "a pixel shows the largest of about 4"),
    ],
)
def test_heads_have_their_numbers(layout, shape, numbers, axes) -> None:
    tensor = torch.randn(shape)
    inspection = gramian.inspect({"w": tensor}, layouts=layout)
    phi = inspection.rows[0].layout.to_phi(tensor)
    drawn = portrait(phi)
    page = render_weights({"w.npz": (inspection, {"w": drawn})})
    (figure,) = (each for each in Page(page).all("svg") if each.get("class") == "blocks")
    width, height = map(int, figure["viewbox"].split()[2:])
    assert drawn.picture.shape[:2] == (height, width)
    assert max(width, height) < 360
    assert axes in page
    written = re.findall(r'<text x="(\d+)" y="([\d.]+)">([^<]+)</text>', page)
    assert [number for *_, number in written] == numbers
    # Below each number is the block of that group.
    X = gramian.residual(phi).abs()
    worst = int(X.amax(dim=(1, 2)).argmax())
    top, left = drawn.mosaic.corner(worst)
    assert [float(each) for each in written[worst][:2]] == pytest.approx([left, top - drawn.mosaic.margin / 4])
    side = drawn.mosaic.side
    block = brightness(drawn.picture)[top : top + side, left : left + side]
    assert block.max() == brightness(drawn.picture).max()


def test_of_many_groups_the_worst_are_named() -> None:
    tensor = torch.eye(4)[:2].repeat(200, 1)
    tensor[2 * 17 + 1] = tensor[2 * 17]
    inspection = gramian.inspect({"w": tensor}, layouts="(m n) i -> i m n; n=2")
    drawn = portrait(inspection.rows[0].layout.to_phi(tensor))
    text = " ".join(Page(render_weights({"w.npz": (inspection, {"w": drawn})})).text)
    assert "the 200 groups, the worst first: m = 17, 0, 1, 2, 3, …" in text


def test_before_and_after() -> None:
    before, after = ({"w": torch.randn(4, 8), name: torch.randn(4, 8)} for name in ("old", "new"))
    inspections = [gramian.inspect(weights) for weights in (before, after)]
    files = {
        name: (inspection, {row.name: portrait(row.layout.to_phi(weights[row.name])) for row in inspection.rows})
        for name, inspection, weights in zip("ab", inspections, (before, after), strict=True)
    }
    page = render_weights(files, inspections[1].since(inspections[0]))
    text = " ".join(Page(page).text)
    assert text.count("Before → after") == 1
    first, second = (inspection.rows[0].cells()[3] for inspection in inspections)
    assert f"{first}<br>→ {second}" in page
    assert "only before" in text


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
