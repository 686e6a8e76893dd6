"""Arrays and tensors at the face of the estimator."""

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

__all__ = ["as_tensor", "like", "seed_of"]


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
