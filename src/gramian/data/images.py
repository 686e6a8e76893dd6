"""Natural images: those that installed packages ship, and the user's own."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import DataError

__all__ = [
    "HELD_OUT_NAMES",
    "GrayImage",
    "ImageFolder",
    "ImageSplit",
    "load_folder",
    "shipped_images",
    "split_held_out",
]

_SKIMAGE = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")
_SKLEARN = ("china", "flower")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_LUMINANCE = (0.2125, 0.7154, 0.0721)

HELD_OUT_NAMES = ("camera", "flower")
"""The shipped images that training never sees: one of people and buildings, one of plants."""


@dataclass(frozen=True)
class GrayImage:
    """A picture as grey values.

    Attributes:
        name: Name of the picture.
        pixels: Luminance [height, width] in [0, 1], float32.
    """

    name: str
    pixels: Float[Tensor, "height width"]


@dataclass(frozen=True)
class ImageFolder:
    """What a folder of pictures holds.

    Attributes:
        images: The pictures, sorted by name.
        skipped: Names of the files that look like pictures and cannot be read as such.
    """

    images: tuple[GrayImage, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class ImageSplit:
    """Pictures to learn from, and pictures that learning never sees."""

    train: tuple[GrayImage, ...]
    held_out: tuple[GrayImage, ...]


def shipped_images() -> tuple[GrayImage, ...]:
    """Load the natural images that scikit-image and scikit-learn ship, without any download.

    Returns:
        Twelve pictures, sorted by name.

    Examples:
        >>> images = shipped_images()
        >>> len(images), images[0].name
        (12, 'astronaut')
    """
    import skimage.data
    import sklearn.datasets

    raw = {name: np.asarray(getattr(skimage.data, name)()) for name in _SKIMAGE}
    raw.update({name: np.asarray(sklearn.datasets.load_sample_image(f"{name}.jpg")) for name in _SKLEARN})
    return tuple(GrayImage(name, _luminance(raw[name])) for name in sorted(raw))


def load_folder(path: Path) -> ImageFolder:
    """Load every picture of a folder; subfolders are not entered.

    Args:
        path: The folder. Files count as pictures by their suffix: bmp, gif, jpeg, jpg, png, tif, tiff or webp.

    Returns:
        The pictures and the names of unreadable files. Transparent pixels are laid on white, a turn that a camera noted
        is carried out, and of a moving picture the first frame is taken.

    Raises:
        DataError: If there is no such folder, or no readable picture in it.
    """
    from PIL import Image, ImageOps

    if not path.exists():
        raise DataError(f"images must be an existing folder; got {path}, which does not exist")
    if not path.is_dir():
        raise DataError(f"images must be a folder; got the file {path}; try its folder, {path.parent}")
    images: list[GrayImage] = []
    skipped: list[str] = []
    files = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in _SUFFIXES and entry.is_file())
    for file in files:
        try:
            with warnings.catch_warnings():
                # Pillow warns of a picture so large that it may be an attack; such a one is left out, and named.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file) as picture:
                    images.append(GrayImage(file.name, _luminance(_as_array(ImageOps.exif_transpose(picture)))))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError):
            skipped.append(file.name)
    if not images:
        found = f"{len(skipped)} that cannot be read" if skipped else "no file with such a suffix"
        raise DataError(f"{path} must hold at least one readable picture ({', '.join(_SUFFIXES)}); got {found}")
    return ImageFolder(tuple(images), tuple(skipped))


def split_held_out(images: tuple[GrayImage, ...], *, min_side: int) -> ImageSplit:
    """Set pictures aside that learning never sees.

    Of the shipped images those of `HELD_OUT_NAMES` are set aside; of any others every fifth, at least one. A single
    picture is cut: its lowest fifth is set aside.

    Args:
        images: All pictures.
        min_side: Smallest side that a picture may have, in pixels.

    Returns:
        Both parts; they share no pixel.

    Raises:
        DataError: If there is no picture, or one is too small.

    Examples:
        >>> split = split_held_out(shipped_images(), min_side=16)
        >>> len(split.train), [image.name for image in split.held_out]
        (10, ['camera', 'flower'])
    """
    if not images:
        raise DataError("there must be at least one picture; got none")
    names = {image.name for image in images}
    if set(HELD_OUT_NAMES) <= names and len(names) > len(HELD_OUT_NAMES):
        held_out = tuple(image for image in images if image.name in HELD_OUT_NAMES)
        train = tuple(image for image in images if image.name not in HELD_OUT_NAMES)
    elif len(images) == 1:
        (whole,) = images
        height, width = whole.pixels.shape
        if height < 2 * min_side:
            raise DataError(
                f"a single picture is cut in two, and must be at least {2 * min_side} pixels high; got {height} × "
                f"{width} (height × width) for {whole.name}; try a larger picture, more of them, or smaller patches"
            )
        cut = height - max(height // 5, min_side)
        train = (GrayImage(f"{whole.name} (upper part)", whole.pixels[:cut]),)
        held_out = (GrayImage(f"{whole.name} (lower part)", whole.pixels[cut:]),)
    else:
        chosen = set(range(4, len(images), 5)) or {len(images) - 1}
        held_out = tuple(image for index, image in enumerate(images) if index in chosen)
        train = tuple(image for index, image in enumerate(images) if index not in chosen)
    for image in (*train, *held_out):
        height, width = image.pixels.shape
        if min(height, width) < min_side:
            raise DataError(
                f"a picture must measure at least {min_side} × {min_side} pixels; got {height} × {width} (height × "
                f"width) for {image.name}; try larger pictures, more of them, or smaller patches"
            )
    return ImageSplit(train, held_out)


def _as_array(picture: Any) -> np.ndarray:
    from PIL import Image

    if picture.mode in ("I;16", "I;16B", "I;16L", "I", "F", "L", "1"):
        array = np.asarray(picture)
        return array.astype(np.float64) / 65535 if picture.mode.startswith("I") else array
    if picture.mode == "P" or "A" in picture.getbands():
        layered = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return np.asarray(picture.convert("RGB"))


def _luminance(array: np.ndarray) -> Float[Tensor, "height width"]:
    pixels = array.astype(np.float64)
    if array.dtype == np.uint8:
        pixels = pixels / 255
    if pixels.ndim == 3:
        pixels = pixels[..., :3] @ np.asarray(_LUMINANCE)
    if not np.isfinite(pixels).all():
        raise DataError("a picture must hold finite values; got NaN or infinite ones")
    return torch.from_numpy(np.clip(pixels, 0, 1).astype(np.float32))
