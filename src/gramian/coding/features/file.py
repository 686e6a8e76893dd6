"""Files of block-sparse features, in the safetensors format of dictionary files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gramian.coding.files.checksum import read_checked, write_checked
from gramian.coding.files.dictionary import LAYOUT, StoredParts
from gramian.errors import RunError
from gramian.typing import Phi

__all__ = ["FEATURES", "FeatureFile", "load_features", "plain_options", "save_features"]

FEATURES = "gramian-features-1"
"""The format of a file of features, in its metadata."""

_VALUES = ("scale", "samples", "steps", "options")
_OPTIONS = (int, float, str, bool)
_STATE, _TRAINING = "module.", "optimizer."
"""Prefixes of the names of tensors."""


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
        training: The state of the optimiser, to continue training; empty after training.
    """

    phi: Phi
    mean: Tensor
    scale: float
    samples: int
    steps: int
    options: dict[str, Any]
    state: Mapping[str, Tensor]
    training: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


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
    tensors = {"phi": file.phi, "mean": file.mean}
    tensors |= {_STATE + name: each for name, each in file.state.items()}
    tensors |= {_TRAINING + name: each for name, each in file.training.items()}
    values = {name: json.dumps(getattr(file, name)) for name in _VALUES}
    write_checked(path, tensors, {"format": FEATURES, "layout": LAYOUT, **values})


def load_features(path: Path) -> FeatureFile:
    """Read features.

    Raises:
        RunError: If the file does not exist, or is not a complete file of this format.
    """
    known = ("format", "layout", *_VALUES)
    parts = StoredParts(
        path,
        *read_checked(
            path, kind="feature", form=FEATURES, command="gramian features or BlockFeatures.save", known=known
        ),
    )
    phi = parts.tensors.get("phi")
    if phi is None or phi.ndim != 3:
        raise RunError(f"{path} must hold phi[l, m, n]; got {'none' if phi is None else list(phi.shape)}")
    options = parts.value("options")
    if not isinstance(options, dict) or not all(each is None or type(each) in _OPTIONS for each in options.values()):
        raise RunError(f"the options in {path} must be a mapping of names to plain values; got another value")
    state, training = (
        {name.removeprefix(prefix): each for name, each in parts.tensors.items() if name.startswith(prefix)}
        for prefix in (_STATE, _TRAINING)
    )
    return FeatureFile(
        phi=parts.tensor("phi", tuple(phi.shape)),
        mean=parts.tensor("mean", (len(phi),)),
        scale=parts.positive("scale"),
        samples=int(parts.positive("samples")),
        steps=int(parts.value("steps")),
        options=options,
        state=state,
        training=training,
    )
