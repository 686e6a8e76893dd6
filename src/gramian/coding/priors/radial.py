"""The parts of densities of groups: the area of a sphere, random directions, and Gamma variates."""

import math

import numpy as np
import torch
from torch import Tensor

from gramian.coding.model import Codes

__all__ = ["directions", "gamma", "log_sphere"]


def log_sphere(n: int) -> float:
    """Compute the log of the surface area of the unit sphere in n dimensions."""
    return math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2)


def directions(count: int, m: int, n: int, generator: torch.Generator) -> Codes:
    """Draw a direction for each group, uniform on the unit sphere, in float64."""
    vectors = torch.randn(count, m, n, generator=generator, dtype=torch.float64, device="cpu")
    return vectors / torch.linalg.vector_norm(vectors, dim=2, keepdim=True)


def gamma(shape: float, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw Gamma variates of scale 1 in float64."""
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).standard_gamma(shape, size))
