"""Files of block-sparse features, in the safetensors format of dictionary files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gramian.coding.files.checksum import read_checked, write_checked
from gramian.coding.files.dictionary import LAYOUT, StoredParts
from gramian.errors import RunError
from gramian.typing import Phi

__all__ = ["FeatureFile", "load_features", "plain_options", "save_features"]

_FORMAT = "gramian-features-1"
_VALUES = ("scale", "samples", "steps", "options")
_OPTIONS = (int, float, str, bool)
_STATE = "module."


@dataclass(frozen=True, repr=False)
class FeatureFile:
    """What a file stores.

    Attributes:
        phi: The dictionary Φ[l, m, n] of samples after division by the scale.
        mean: Mean of the samples, [l].
        scale: Scale of the samples.
        samples: Number of samples that mean and scale are computed from.
        steps: Number of training steps.
        options: The options of the estimator.
        state: The state of the module without its frames.
    """

    phi: Phi
    mean: Tensor
    scale: float
    samples: int
    steps: int
    options: dict[str, Any]
    state: dict[str, Tensor]


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are plain values, without `random_state`."""
    values = {name: each.item() if hasattr(each, "dtype") else each for name, each in options.items()}
    kept = {name: each for name, each in values.items() if each is None or type(each) in _OPTIONS}
    kept.pop("random_state", None)
    return kept


def save_features(path: Path, file: FeatureFile) -> None:
    """Write features atomically.

    Raises:
        RunError: If the file cannot be written.
    """
    tensors = {"phi": file.phi, "mean": file.mean, **{_STATE + name: each for name, each in file.state.items()}}
    values = {name: json.dumps(getattr(file, name)) for name in _VALUES}
    write_checked(path, tensors, {"format": _FORMAT, "layout": LAYOUT, **values})


def load_features(path: Path) -> FeatureFile:
    """Read features.

    Raises:
        RunError: If the file does not exist, or is not a complete file of this format.
    """
    known = ("format", "layout", *_VALUES)
    parts = StoredParts(
        path, *read_checked(path, kind="feature", form=_FORMAT, command="BlockFeatures.save", known=known)
    )
    phi = parts.tensors.get("phi")
    if phi is None or phi.ndim != 3:
        raise RunError(f"{path} must hold phi[l, m, n]; got {'none' if phi is None else list(phi.shape)}")
    options = parts.value("options")
    if not isinstance(options, dict) or not all(each is None or type(each) in _OPTIONS for each in options.values()):
        raise RunError(f"the options in {path} must be a mapping of names to plain values; got another value")
    names = [name for name in parts.tensors if name.startswith(_STATE)]
    return FeatureFile(
        phi=parts.tensor("phi", tuple(phi.shape)),
        mean=parts.tensor("mean", (len(phi),)),
        scale=parts.positive("scale"),
        samples=int(parts.positive("samples")),
        steps=int(parts.value("steps")),
        options=options,
        state={name.removeprefix(_STATE): parts.tensors[name] for name in names},
    )
