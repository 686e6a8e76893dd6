"""Conversion of arrays and tensors for the estimators, and their base class."""

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from gramian.coding.model import Codes
from gramian.errors import DataError, OptionError, ShapeError

__all__ = [
    "GroupTransformer",
    "as_tensor",
    "check_center",
    "check_group_size",
    "like",
    "mean_and_scale",
    "merged_mean_and_scale",
    "seed_of",
]

_PART = 65_536
"""Samples that are converted to float64 at once."""


class GroupTransformer(TransformerMixin, BaseEstimator):
    """The base class of estimators with a dictionary `phi_` of groups, a mean `mean_` and a scale `scale_` of samples.

    Samples are arrays, or tensors on any device; float32 and float64 are kept.
    """

    phi_: Tensor
    mean_: np.ndarray
    scale_: float

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # noqa: ARG002
        """Return the names of the coefficients: `group{i}_{j}` for coefficient j of group i."""
        check_is_fitted(self)
        _, m, n = self.phi_.shape
        return np.asarray([f"group{i}_{j}" for i in range(m) for j in range(n)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _samples(self, X: Any, *, reset: bool = False) -> Tensor:
        """Validate samples as scikit-learn does, and return them as a tensor on their device."""
        if not reset:
            check_is_fitted(self)
        device = X.device if isinstance(X, Tensor) else torch.device("cpu")
        array: Any = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
        checked: Any = validate_data(self, X=array, dtype=[np.float64, np.float32], reset=reset)
        return torch.as_tensor(checked if checked.flags.writeable else checked.copy(), device=device)

    def _standardised(self, samples: Tensor) -> Tensor:
        return (samples - torch.as_tensor(self.mean_).to(samples)) / self.scale_

    def _grouped(self, flat: Tensor) -> Codes:
        m, n = self.phi_.shape[1:]
        self._check_codes(flat.shape)
        return flat.unflatten(1, (m, n))

    def _check_codes(self, shape: Any) -> None:
        m, n = self.phi_.shape[1:]
        if len(shape) != 2 or shape[1] != m * n:
            raise ShapeError(f"codes must have shape [samples, {m * n}]; got {list(shape)}")


def check_center(center: Any) -> None:
    """Check the option `center`.

    Raises:
        OptionError: If it is not a bool.
    """
    if not isinstance(center, bool | np.bool_):
        raise OptionError(f"center must be True or False; got {center!r}")


def check_group_size(group_size: int, n_features: int) -> None:
    """Check that groups can be orthonormal.

    Raises:
        OptionError: If the group size exceeds the number of features.
    """
    if group_size > n_features:
        raise OptionError(
            f"group_size must be at most the number of features; got group_size = {group_size}, n_features = "
            f"{n_features}; try group_size={n_features}"
        )


def as_tensor(values: Any) -> Tensor:
    """Convert to a tensor of floating-point numbers."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
    return tensor if tensor.is_floating_point() else tensor.float()


def like(tensor: Tensor, reference: Any) -> Any:
    """Return a tensor if the reference is one, otherwise an array."""
    return tensor if isinstance(reference, Tensor) else tensor.cpu().numpy()


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed for a `random_state` in the sense of scikit-learn."""
    if isinstance(random_state, int):
        return random_state
    return int(check_random_state(random_state).randint(2**31 - 1))


def mean_and_scale(samples: Tensor, *, center: bool) -> tuple[np.ndarray, float]:
    """Compute the mean of samples, 0 without `center`, and the standard deviation of all features about it.

    Raises:
        DataError: If all samples are equal; without `center`, if all are zero.
    """
    return merged_mean_and_scale(samples, center=center, previous=None)


def merged_mean_and_scale(
    samples: Tensor, *, center: bool, previous: tuple[np.ndarray, float, int] | None
) -> tuple[np.ndarray, float]:
    """Compute the mean and the scale of all samples so far, from those of previous samples and new samples.

    Args:
        samples: New samples [samples, l].
        center: Whether to compute the mean; otherwise it is 0.
        previous: Mean, scale and number of the previous samples; None if there are none.

    Returns:
        The mean, and the standard deviation of all features about it.

    Raises:
        DataError: If all samples are equal; without `center`, if all are zero.
    """
    count, parts = len(samples), samples.split(_PART)
    mean = torch.zeros(samples.shape[1], dtype=torch.float64)
    if center:
        mean = torch.stack([part.cpu().double().sum(dim=0) for part in parts]).sum(dim=0) / count
    variance = sum(float((part.cpu().double() - mean).square().sum()) for part in parts) / samples.numel()
    if previous is not None:
        previous_mean, previous_scale, previous_count = previous
        count += previous_count
        old, weight = torch.from_numpy(previous_mean), len(samples) / count
        between = float((mean - old).square().mean())
        # The total variance is the variance within the two sets plus the variance between their means.
        variance = (1 - weight) * previous_scale**2 + weight * variance + weight * (1 - weight) * between
        mean = torch.lerp(old, mean, weight)
    # For equal numbers, the computed variance is the rounding error of their mean.
    if not variance**0.5 > 4 * torch.finfo(torch.float64).eps * float(samples.abs().max()):
        problem = "must differ; got one value in every feature" if center else "must not all be zero; got zeros"
        raise DataError(f"samples {problem}, n_samples = {count}; try other samples, or more of them")
    return mean.numpy(), variance**0.5
