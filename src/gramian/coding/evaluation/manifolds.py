"""Samples with known factors: sums of points on low-dimensional manifolds in random subspaces."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.options import real_number, whole_number
from gramian.typing import Phi

__all__ = ["MANIFOLDS", "ManifoldSamples", "ManifoldSum"]

_CALIBRATION = 50_000
"""Number of points from which the centre and the scale of a manifold are computed."""

Points = Float[Tensor, "count dimension"]


def _unit(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")


def _segment(count: int, generator: torch.Generator) -> Points:
    return 2 * _unit(count, generator)[:, None] - 1


def _circle(count: int, generator: torch.Generator) -> Points:
    angle = math.tau * _unit(count, generator)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def _disk(count: int, generator: torch.Generator) -> Points:
    return _circle(count, generator) * _unit(count, generator).sqrt()[:, None]


def _sphere(count: int, generator: torch.Generator) -> Points:
    vectors = torch.randn(count, 3, generator=generator, dtype=torch.float64, device="cpu")
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


def _torus(count: int, generator: torch.Generator) -> Points:
    u, v = math.tau * _unit(count, generator), math.tau * _unit(count, generator)
    radius = 1 + 0.4 * v.cos()
    return torch.stack([radius * u.cos(), radius * u.sin(), 0.4 * v.sin()], dim=1)


def _moebius(count: int, generator: torch.Generator) -> Points:
    u, v = math.tau * _unit(count, generator), _unit(count, generator) - 0.5
    radius = 1 + v * (u / 2).cos()
    return torch.stack([radius * u.cos(), radius * u.sin(), v * (u / 2).sin()], dim=1)


def _swiss_roll(count: int, generator: torch.Generator) -> Points:
    angle = 1.5 * math.pi * (1 + 2 * _unit(count, generator))
    return torch.stack([angle * angle.cos(), 21 * _unit(count, generator), angle * angle.sin()], dim=1)


def _helix(count: int, generator: torch.Generator) -> Points:
    angle = 2 * math.tau * _unit(count, generator)
    return torch.stack([angle.cos(), angle.sin(), angle / math.tau - 1], dim=1)


MANIFOLDS: dict[str, tuple[int, Callable[[int, torch.Generator], Points]]] = {
    "segment": (1, _segment),
    "circle": (2, _circle),
    "disk": (2, _disk),
    "sphere": (3, _sphere),
    "torus": (3, _torus),
    "moebius": (3, _moebius),
    "swiss_roll": (3, _swiss_roll),
    "helix": (3, _helix),
}
"""For each manifold the dimension of the space it spans, and a function that draws points on it."""

_CURVED = [name for name in MANIFOLDS if name != "segment"]


@dataclass(frozen=True)
class ManifoldSamples:
    """Samples with the part that each factor contributes.

    Attributes:
        x: Samples [count, l].
        active: Which factors are in a sample, [count, factors].
        codes: Coordinates of each factor's point in the basis of its subspace, [count, factors, 3]; 0 where the factor
            is not in the sample, and beyond its dimension.
    """

    x: Float[Tensor, "count l"]
    active: Bool[Tensor, "count factors"]
    codes: Float[Tensor, "count factors 3"]


class ManifoldSum:
    r"""Sums of a few points on manifolds: the data on which learned subspaces can be compared with the true ones.

    Half of the factors are segments (one dimension), and half are curved, taken in turn from circle, disk, sphere,
    torus, Möbius band, Swiss roll and helix (two or three dimensions). The points of a factor are centred, have a root
    mean square of 1, and lie in a random subspace. A sample is the sum of `active` factors, drawn without replacement;
    all samples are scaled by the same factor so that E‖x‖² = 1 without noise.

    Args:
        length: Length l of a sample.
        n_factors: Number of factors; half of them are segments.
        active: Number of factors in a sample.
        noise: Standard deviation of Gaussian noise on each entry of x, relative to the root mean square of the entries
            without noise.
        seed: Seed of the subspaces.

    Attributes:
        kinds: Name of each factor's manifold.
        dimensions: Dimension of each factor's subspace.
        phi: Orthonormal bases of the subspaces, Φ[l, factors, 3]; columns beyond the dimension of a factor are 0.

    Raises:
        OptionError: If a number is out of range.

    Examples:
        >>> data = ManifoldSum(32, n_factors=8, active=2)
        >>> samples = data.draw(1000, seed=1)
        >>> samples.x.shape, data.dimensions
        (torch.Size([1000, 32]), [1, 1, 1, 1, 2, 2, 3, 3])
        >>> bool((samples.active.sum(dim=1) == 2).all())
        True
    """

    def __init__(
        self, length: int = 128, n_factors: int = 128, active: int = 4, *, noise: float = 0.0, seed: int = 0
    ) -> None:
        length = whole_number(length, name="length", least=3)
        n_factors = whole_number(n_factors, name="n_factors")
        if whole_number(active, name="active") > n_factors:
            raise OptionError(f"active must be at most the number of factors, {n_factors}; got {active}")
        self.active = active
        self.noise = real_number(noise, name="noise", zero=True)
        straight = n_factors // 2
        self.kinds = ["segment"] * straight + [_CURVED[i % len(_CURVED)] for i in range(n_factors - straight)]
        self.dimensions = [MANIFOLDS[kind][0] for kind in self.kinds]
        generator = torch.Generator().manual_seed(whole_number(seed, name="seed", least=0))
        self.phi: Phi = torch.zeros(length, n_factors, 3, dtype=torch.float64, device="cpu")
        self._moments: list[tuple[Tensor, float]] = []
        for i, (kind, dimension) in enumerate(zip(self.kinds, self.dimensions, strict=True)):
            frame = torch.randn(length, dimension, generator=generator, dtype=torch.float64, device="cpu")
            self.phi[:, i, :dimension] = torch.linalg.qr(frame).Q
            points = MANIFOLDS[kind][1](_CALIBRATION, generator)
            centre = points.mean(dim=0)
            self._moments.append((centre, float((points - centre).square().sum(dim=1).mean().sqrt())))

    def draw(self, count: int, *, seed: int) -> ManifoldSamples:
        """Draw samples in float32.

        Args:
            count: Number of samples.
            seed: Seed of the samples.

        Cost:
            Memory for the codes, count·factors·3 numbers.
        """
        generator = torch.Generator().manual_seed(whole_number(seed, name="seed", least=0))
        length, n_factors, width = self.phi.shape
        order = torch.rand(count, n_factors, generator=generator, device="cpu").topk(self.active, dim=1).indices
        active = torch.zeros(count, n_factors, dtype=torch.bool, device="cpu").scatter_(1, order, value=True)
        codes = torch.zeros(count, n_factors, width, device="cpu")
        for i, (kind, (centre, size)) in enumerate(zip(self.kinds, self._moments, strict=True)):
            rows = active[:, i].nonzero()[:, 0]
            points = (MANIFOLDS[kind][1](len(rows), generator) - centre) / size
            codes[rows, i, : points.shape[1]] = points.float()
        codes /= self.active**0.5
        x = codes.flatten(1) @ self.phi.flatten(1).mT.float()
        if self.noise:
            x += self.noise / length**0.5 * torch.randn(count, length, generator=generator, device="cpu")
        return ManifoldSamples(x, active, codes)
