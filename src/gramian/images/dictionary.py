"""Dictionary files for pictures: the general dictionary file with the preparation of pictures."""

from pathlib import Path

import torch
from torch import Tensor

from gramian.coding.files import dictionary as files
from gramian.coding.files.dictionary import StoredParts, save_dictionary
from gramian.errors import RunError
from gramian.images.samples.preparation import WHITENINGS, Preparation
from gramian.images.samples.whitening import ZCAWhitening

__all__ = ["Dictionary", "load_dictionary", "save_dictionary"]

Dictionary = files.Dictionary[Preparation]
"""A dictionary for patches of pictures; `gramian.coding.files.Dictionary` documents the attributes."""

_VALUES = ("size", "channels", "whiten", "scale", "cutoff")
_ZCA = ("mean", "matrix", "inverse")


def load_dictionary(path: Path) -> Dictionary:
    """Read a dictionary and check it.

    Args:
        path: The file.

    Returns:
        The dictionary, with the preparation of pictures.

    Raises:
        RunError: If there is no such file, or it is not a complete dictionary of this format.

    Examples:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "dictionary.safetensors"
        >>> phi = torch.randn(64, 8, 4)
        >>> save_dictionary(path, Dictionary(phi, phi, Preparation(size=8), lam=2.0))
        >>> torch.equal(load_dictionary(path).phi, phi)
        True
    """
    return files.load_dictionary(path, read_preparation=_preparation, values=_VALUES)


def _preparation(parts: StoredParts) -> Preparation:
    size, channels = parts.count("size"), parts.count("channels")
    scale, cutoff, whiten = parts.positive("scale"), parts.positive("cutoff"), parts.choice("whiten", WHITENINGS)
    return Preparation(
        size, channels, whiten, scale, cutoff, _mixing(parts, whiten, channels), _zca(parts, whiten, size**2 * channels)
    )


def _zca(parts: StoredParts, whiten: str, length: int) -> ZCAWhitening | None:
    if whiten != "zca":
        if any(f"zca.{name}" in parts.tensors for name in _ZCA):
            raise RunError(
                f"{parts.path} must hold a whitening of patches only if whiten is 'zca'; got one with {whiten!r}"
            )
        return None
    shapes = {"mean": (length,), "matrix": (length, length), "inverse": (length, length)}
    return ZCAWhitening(**{name: parts.tensor(f"zca.{name}", shapes[name]) for name in _ZCA})


def _mixing(parts: StoredParts, whiten: str, channels: int) -> Tensor | None:
    if "mixing" not in parts.tensors:
        return None
    mixing = parts.tensor("mixing", (channels, channels))
    if whiten != "fourier" or channels == 1:
        raise RunError(f"{parts.path} must hold a mixing of channels only for colours whitened by 'fourier'; got one")
    _, info = torch.linalg.inv_ex(mixing.double())
    if int(info) != 0:
        raise RunError(f"the mixing of channels in {parts.path} must be invertible; got a singular matrix")
    return mixing
