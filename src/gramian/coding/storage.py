"""Dictionaries in files: safetensors with everything that is needed to encode."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gramian.errors import RunError
from gramian.files import replace_file
from gramian.typing import Phi

__all__ = ["LAYOUT", "Dictionary", "load_dictionary", "save_dictionary"]

LAYOUT = "l m n -> l m n"
"""The layout of the tensor `phi` in a dictionary file, as an einops pattern."""

_FORMAT = "gramian-dictionary-1"


@dataclass(frozen=True)
class Dictionary:
    """A learned dictionary and how its samples were made.

    Attributes:
        phi: Φ[l, m, n].
        initial_phi: Φ before the first step.
        step: How many learning steps were made.
        patch_size: Side of the square patches, in pixels: l = patch_size².
        cutoff: Cut-off of the Fourier whitening of images, in cycles per pixel.
        scale: What whitened patches were divided by, to have unit variance.
    """

    phi: Phi
    initial_phi: Phi
    step: int
    patch_size: int
    cutoff: float
    scale: float


def save_dictionary(path: Path, dictionary: Dictionary) -> None:
    """Write a dictionary in one stroke.

    Raises:
        RunError: If the file cannot be written.
    """
    numbers = {key: value for key, value in asdict(dictionary).items() if key not in ("phi", "initial_phi")}
    metadata = {"format": _FORMAT, "layout": LAYOUT, **{key: json.dumps(value) for key, value in numbers.items()}}
    tensors = {"phi": dictionary.phi.contiguous(), "initial_phi": dictionary.initial_phi.clone()}
    replace_file(path, save(tensors, metadata))


def load_dictionary(path: Path) -> Dictionary:
    """Read a dictionary and check it.

    Raises:
        RunError: If there is no such file, or it is not a whole dictionary of this format.

    Examples:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "dictionary.safetensors"
        >>> phi = torch.randn(64, 8, 4)
        >>> save_dictionary(path, Dictionary(phi, phi, step=0, patch_size=8, cutoff=0.4, scale=1.0))
        >>> torch.equal(load_dictionary(path).phi, phi)
        True
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise RunError(
                    f"{path} must be a dictionary of format {_FORMAT!r}; got {metadata.get('format')!r}; "
                    "try a dictionary.safetensors that gramian learn has written"
                )
            dictionary = Dictionary(
                phi=file.get_tensor("phi"),
                initial_phi=file.get_tensor("initial_phi"),
                step=int(metadata["step"]),
                patch_size=int(metadata["patch_size"]),
                cutoff=float(metadata["cutoff"]),
                scale=float(metadata["scale"]),
            )
    except FileNotFoundError as error:
        raise RunError(f"there must be a dictionary at {path}; got no such file") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(f"{path} must be a whole dictionary file; it cannot be read: {error}") from error
    if dictionary.phi.ndim != 3 or dictionary.phi.shape[0] != dictionary.patch_size**2:
        raise RunError(
            f"{path} must hold phi[l, m, n] with l = {dictionary.patch_size}² pixels; got {list(dictionary.phi.shape)}"
        )
    return dictionary
