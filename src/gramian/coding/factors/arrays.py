"""Arrays and tensors at the face of the estimator."""

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from gramian.errors import DataError

__all__ = ["as_tensor", "like", "mean_and_scale", "seed_of"]


def as_tensor(values: Any) -> Tensor:
    """Convert to a tensor of floating-point numbers."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
    return tensor if tensor.is_floating_point() else tensor.float()


def like(tensor: Tensor, reference: Any) -> Any:
    """Return a tensor if the reference is one, otherwise an array."""
    return tensor if isinstance(reference, Tensor) else tensor.cpu().numpy()


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed for `random_state` as scikit-learn understands it."""
    if isinstance(random_state, int):
        return random_state
    return int(check_random_state(random_state).randint(2**31 - 1))


def mean_and_scale(samples: Tensor, *, center: bool) -> tuple[np.ndarray, float]:
    """Compute the mean of samples, 0 without `center`, and the standard deviation of all features about it.

    Raises:
        DataError: If all samples are equal; without `center`, if all are zero.
    """
    exact = samples.double()
    mean = exact.mean(dim=0) if center else torch.zeros_like(exact[0])
    variance = float((exact - mean).square().mean())
    # For equal numbers, the computed variance is the rounding error of their mean.
    if not variance**0.5 > 4 * torch.finfo(torch.float64).eps * float(exact.abs().max()):
        problem = "must differ; got one value in every feature" if center else "must not all be zero; got zeros"
        raise DataError(f"samples {problem}, n_samples = {len(samples)}; try other samples, or more of them")
    return mean.cpu().numpy(), variance**0.5
