"""Read the dictionaries of any tool from files of arrays, as Φ[l, m, n]."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gramian.errors import GramianError, WeightsError, printable
from gramian.layout import Layout, as_layout
from gramian.typing import FLOATING_DTYPES, Phi
from gramian.weights import Weights, open_weights

__all__ = ["read_groups"]

_LEARNED = "dictionary.safetensors"
"""The dictionary in the folder of a run."""

_DEFAULTS = {2: "m l -> l m ()", 3: "m n l -> l m n"}
"""Layouts of arrays [directions, l] and [groups, size, l], by number of axes."""


def read_groups(path: Path, *, tensor: str | None = None, layout: Layout | str | None = None) -> Phi:
    """Read the dictionary in a file as Φ[l, m, n].

    The tensor `phi` of a file that gramian has written is Φ[l, m, n]; in a file of additive factor analysers, unused
    directions become 0. Any other array is [groups, size, l] or [directions, l] by default.

    Args:
        path: A `.npy` file, a file of weights (see `gramian.weights.open_weights`), or the folder of a run.
        tensor: Name of the tensor; by default `phi`, or else the only tensor of two or three axes.
        layout: Layout of an array that is not `phi`.

    Raises:
        WeightsError: If the file cannot be read, or does not have exactly one such tensor.
        LayoutError: If the array does not fit its layout.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "decoder.npy"
        >>> np.save(path, np.ones((100, 4, 64), dtype="float32"))
        >>> read_groups(path).shape
        torch.Size([64, 100, 4])
    """
    if path.is_dir() and (path / _LEARNED).is_file():
        path = path / _LEARNED
    if path.suffix.lower() == ".npy":
        return _arranged(path, _array(path), layout)
    weights = open_weights(path)
    name = _name(weights, tensor)
    values = weights.read(name)
    if name != "phi":
        return _arranged(path, values, layout)
    if values.ndim != 3 or values.dtype not in FLOATING_DTYPES:
        raise WeightsError(f"phi in {path} must be real numbers Φ[l, m, n]; got {values.dtype} {list(values.shape)}")
    _, m, n = values.shape
    variances = weights.entries.get("variances")
    if variances is not None and variances.shape == (m, n):
        values = values * (weights.read("variances") > 0)
    return values


def _array(path: Path) -> Tensor:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return torch.tensor(np.asarray(array, dtype=array.dtype.newbyteorder("=")))
    except (OSError, ValueError, TypeError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)[:200]
        raise WeightsError(f"{path} must be an array of numbers; it cannot be read: {reason}") from error


def _name(weights: Weights, tensor: str | None) -> str:
    """Choose the tensor by name, or the only one that may be a dictionary."""
    names = [name for name, entry in weights.entries.items() if len(entry.shape) in _DEFAULTS]
    if tensor is None and "phi" in weights.entries:
        return "phi"
    if tensor is None and len(names) == 1:
        return names[0]
    if tensor in weights.entries:
        return str(tensor)
    listed = ", ".join(printable(name) for name in names[:10]) or "none"
    what = "must have one tensor of two or three axes" if tensor is None else f"must have the tensor {tensor!r}"
    advice = f"; try the name of the tensor, like {printable(names[0])!r}" if names else ""
    raise WeightsError(f"{weights.path} {what}; got {listed}{advice}")


def _arranged(path: Path, values: Tensor, layout: Layout | str | None) -> Phi:
    if values.dtype not in FLOATING_DTYPES:
        raise WeightsError(f"the array in {path} must hold real floating-point numbers; got {values.dtype}")
    chosen = _DEFAULTS.get(values.ndim) if layout is None else layout
    try:
        resolved = as_layout(chosen, values.ndim)
        return values if resolved is None else resolved.to_phi(values)
    except GramianError as error:
        raise type(error)(f"{path}: {error}") from error
