"""Networks of timm and torchvision, with weights from a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from torch import Tensor, nn

from gramian.activations.recording.pictures import PictureNetwork
from gramian.errors import DataError, OptionError, needs_extra, printable
from gramian.weights import open_weights
from gramian.weights.entries import cause

__all__ = ["load_architecture"]

_PREFIXES = ("state_dict.", "model.", "module.", "model_state_dict.", "state_dict_ema.")
"""Prefixes that training programs add to the names of weights."""

_COUNTERS = "num_batches_tracked"


def load_architecture(arch: str, weights: Path, *, device: str = "cpu") -> PictureNetwork:
    """Create a network of timm or torchvision, and load its weights from a file.

    Nothing is downloaded. Nothing in the file is executed: PyTorch files are read with `weights_only=True`.

    Args:
        arch: `timm:NAME` or `torchvision:NAME`.
        weights: A file of weights: `.safetensors`, `.pth`, `.pt`, `.bin`, `.ckpt` or `.npz`.
        device: Device of the network.

    Raises:
        OptionError: If there is no such network.
        DataError: If the file does not hold all weights of the network, in the same shapes.
        WeightsError: If the file cannot be read.
        MissingExtraError: If timm or torchvision is not installed.
    """
    library, _, name = arch.partition(":")
    makers = {"timm": _timm, "torchvision": _torchvision}
    if library not in makers or not name:
        raise OptionError(f"--arch must be timm:NAME or torchvision:NAME; got {arch!r}; try --arch timm:resnet18")
    with needs_extra(f"--arch {library}", "activations"):
        make = makers[library]()
    try:
        model, transform = make(name)
    except Exception as error:  # the libraries raise errors of any type
        raise OptionError(f"--arch must name a network of {library}; got {name!r}: {cause(error)}") from error
    _load(model, weights, arch)
    model = model.to(device)

    def transformed(pictures: Sequence[ndarray]) -> Tensor:
        from PIL import Image

        return torch.stack([transform(Image.fromarray(picture)) for picture in pictures])

    return PictureNetwork(model, transformed, lambda _: _grid(model))


def _timm() -> Callable[[str], tuple[nn.Module, Callable[[Any], Tensor]]]:
    import timm  # pyright: ignore[reportMissingImports]
    import timm.data  # pyright: ignore[reportMissingImports]

    def make(name: str) -> tuple[nn.Module, Callable[[Any], Tensor]]:
        model = timm.create_model(name, pretrained=False)
        return model, timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    return make


def _torchvision() -> Callable[[str], tuple[nn.Module, Callable[[Any], Tensor]]]:
    import torchvision.models  # pyright: ignore[reportMissingImports]

    def make(name: str) -> tuple[nn.Module, Callable[[Any], Tensor]]:
        model = torchvision.models.get_model(name, weights=None)
        return model, torchvision.models.get_model_weights(name).DEFAULT.transforms()

    return make


def _load(model: nn.Module, path: Path, arch: str) -> None:
    stored = open_weights(path)
    expected = {name for name in model.state_dict() if not name.endswith(_COUNTERS)}
    prefix = _prefix(set(stored.entries), expected)
    missing = sorted(name for name in expected if prefix + name not in stored.entries)
    if missing:
        raise DataError(
            f"{printable(path)} must hold the weights of {arch}; {len(missing)} of {len(expected)} are missing: "
            f"{', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}; try another --arch"
        )
    try:
        model.load_state_dict({name: stored.read(prefix + name) for name in expected}, strict=False)
    except RuntimeError as error:
        raise DataError(f"{printable(path)} must hold weights of the shapes of {arch}; got {cause(error)}") from error


def _prefix(stored: set[str], expected: set[str]) -> str:
    """Return the prefix of the names of weights in a file: the candidate for which most names exist."""
    candidates = ["", *_PREFIXES, *(first + second for first in _PREFIXES for second in _PREFIXES)]
    return max(candidates, key=lambda prefix: sum(prefix + name in stored for name in expected))


def _grid(model: Any) -> tuple[int, int] | None:
    """Return rows and columns of the patches of a vision transformer of timm or torchvision."""
    size = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if isinstance(size, tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    image, patch = getattr(model, "image_size", None), getattr(model, "patch_size", None)
    return (image // patch, image // patch) if isinstance(image, int) and isinstance(patch, int) else None
