"""The options of learning, and their checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gramian.coding.arrays import check_center, check_group_size
from gramian.errors import OptionError
from gramian.options import real_number, whole_number

__all__ = ["FactorOptions", "checked_options"]

_STARTS = ("autoencoder", "random")


@dataclass(frozen=True)
class FactorOptions:
    """Options of learning, in units of standardised samples."""

    n_groups: int
    group_size: int
    active: int
    start: str
    start_steps: int
    anneal_steps: int
    batch_size: int
    max_iter: int
    tol: float
    candidates: int
    sweeps: int
    min_noise: float
    center: bool = True


def checked_options(values: Mapping[str, Any], *, n_features: int) -> FactorOptions:
    """Check the options of an estimator.

    Raises:
        OptionError: If one is out of range.
    """
    for name in ("n_groups", "group_size", "active", "batch_size", "candidates", "sweeps"):
        whole_number(values[name], name=name)
    for name in ("start_steps", "anneal_steps", "max_iter"):
        whole_number(values[name], name=name, least=0)
    real_number(values["tol"], name="tol", zero=True, attempt="1e-3")
    if not real_number(values["min_noise"], name="min_noise", attempt="1e-5") < 1:
        raise OptionError(f"min_noise must be less than 1; got {values['min_noise']!r}; try min_noise=1e-5")
    if values["start"] not in _STARTS:
        raise OptionError(f"start must be one of {', '.join(map(repr, _STARTS))}; got {values['start']!r}")
    check_center(values["center"])
    check_group_size(values["group_size"], n_features)
    return FactorOptions(**values)
