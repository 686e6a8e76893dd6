"""Which samples are drawn and listed."""

import math

import torch

from gramian.activations.evaluation.geometry import code_moments, code_planes
from gramian.activations.evaluation.points import Points, select_points
from tests.activations.evaluation.conftest import codes_of


def points_of(dense: torch.Tensor, **options: int) -> Points:
    codes = codes_of(dense)
    return select_points(codes, code_planes(codes, code_moments(codes)), **options)


def circle(count: int) -> torch.Tensor:
    angle = math.tau * torch.rand(count)
    radius = 1 + 0.1 * torch.rand(count)
    return (radius * torch.stack([angle.cos(), angle.sin()]))[None].permute(2, 0, 1)


def test_every_sector_of_a_circle_has_its_outermost_sample() -> None:
    dense = circle(1000)
    points = points_of(dense, listed=8, drawn=50)
    assert points.listed.tolist() == [8]
    assert points.starts.tolist() == [0, 50]
    assert len(points.sample.unique()) == 50
    x, y = points.position[:8].T
    angles = torch.atan2(y, x) % math.tau
    assert (angles.diff() > 0).all()
    sectors = (angles / math.tau * 8).long()
    assert sectors.tolist() == list(range(8))
    codes = codes_of(dense)
    every = code_planes(codes, code_moments(codes)).positions
    all_sectors = (torch.atan2(every[:, 1], every[:, 0]) % math.tau / math.tau * 8).long() % 8
    for sector in range(8):
        radius = every.norm(dim=1).masked_fill(all_sectors != sector, 0)
        assert points.sample[sector] == radius.argmax()


def test_a_line_lists_its_strongest_samples() -> None:
    dense = torch.zeros(300, 1, 2)
    dense[:, 0, 0] = torch.rand(300)
    dense[:, 0, 1] = 0.01 * torch.randn(300)
    points = points_of(dense, listed=5, drawn=20)
    strongest = dense[:, 0, 0].topk(5).indices
    assert sorted(points.sample[:5].tolist()) == sorted(strongest.tolist())


def test_few_samples_and_silent_groups() -> None:
    dense = torch.zeros(40, 3, 2)
    dense[:4, 0] = torch.randn(4, 2)
    dense[:, 2] = torch.randn(40, 2)
    points = points_of(dense, listed=6, drawn=30)
    assert points.starts.tolist() == [0, 4, 4, 34]
    assert points.listed.tolist() == [4, 0, 6]
    assert sorted(points.sample[:4].tolist()) == [0, 1, 2, 3]
    for place, sample in enumerate(points.sample[4:].tolist(), 4):
        torch.testing.assert_close(points.strength[place], dense[sample, 2].norm())


def test_the_seed_decides() -> None:
    dense = circle(500)
    one, same, other = (points_of(dense, drawn=40, seed=seed).sample for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(one[:12], other[:12])
