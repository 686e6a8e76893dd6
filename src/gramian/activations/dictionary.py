"""Dictionary files for activations: the generic dictionary file plus the preparation of activations."""

from pathlib import Path

from gramian.activations.samples.preparation import Preparation
from gramian.coding.files import dictionary as files
from gramian.coding.files.dictionary import StoredParts, save_dictionary
from gramian.errors import RunError

__all__ = ["Dictionary", "load_dictionary", "save_dictionary"]

Dictionary = files.Dictionary[Preparation]
"""A dictionary for activations; `gramian.coding.files.Dictionary` documents the attributes."""


def load_dictionary(path: Path) -> Dictionary:
    """Read a dictionary and check it.

    Raises:
        RunError: If there is no such file, or it is not a complete dictionary of activations.

    Examples:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "dictionary.safetensors"
        >>> phi = torch.randn(16, 8, 4)
        >>> save_dictionary(path, Dictionary(phi, phi, Preparation(torch.zeros(16), 2.0), lam=1.0))
        >>> load_dictionary(path).preparation.scale
        2.0
    """
    return files.load_dictionary(path, read_preparation=_preparation, values=("scale",))


def _preparation(parts: StoredParts) -> Preparation:
    mean = parts.tensors.get("mean")
    if mean is None or mean.ndim != 1 or not len(mean):
        got = "none" if mean is None else list(mean.shape)
        raise RunError(f"{parts.path} must hold the mean of activations [l]; got {got}; try a run of gramian features")
    return Preparation(parts.tensor("mean", tuple(mean.shape)), parts.positive("scale"))
