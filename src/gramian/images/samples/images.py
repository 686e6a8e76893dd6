"""Load natural images: those in installed packages, and the user's folders, arrays and films."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import DataError, needs_extra, printable
from gramian.picture_files import PictureValuesError, as_pixels, read_arrays, read_frames, read_picture

__all__ = [
    "HELD_OUT_NAMES",
    "ImageSplit",
    "LoadedImages",
    "Picture",
    "load_images",
    "shipped_images",
    "split_held_out",
]

_SKIMAGE = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")
_SKLEARN = ("china", "flower")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_LUMINANCE = (0.2125, 0.7154, 0.0721)

HELD_OUT_NAMES = ("camera", "flower")
"""The shipped images that are held out of training: one of people and buildings, one of plants."""


@dataclass(frozen=True)
class Picture:
    """The pixels of a picture.

    Attributes:
        name: Name of the picture.
        pixels: Luminance [height, width], or red, green and blue [height, width, 3], in [0, 1], float32.
    """

    name: str
    pixels: Float[Tensor, "height width *channels"]


@dataclass(frozen=True)
class LoadedImages:
    """The pictures of a folder, an array or a film.

    Attributes:
        images: The pictures, in order; those of a folder sorted by name.
        skipped: Names of the files with the suffix of a picture that cannot be read.
        sequence: Whether the pictures are successive frames of one film.
    """

    images: tuple[Picture, ...]
    skipped: tuple[str, ...] = ()
    sequence: bool = False


@dataclass(frozen=True)
class ImageSplit:
    """The pictures for training and the held-out pictures."""

    train: tuple[Picture, ...]
    held_out: tuple[Picture, ...]


def shipped_images(*, colour: bool = False) -> tuple[Picture, ...]:
    """Load the natural images that scikit-image and scikit-learn ship, without a download.

    Args:
        colour: Whether to load colours; then only the six colour pictures are returned.

    Returns:
        Twelve pictures, or six, sorted by name.

    Examples:
        >>> images = shipped_images()
        >>> len(images), images[0].name
        (12, 'astronaut')
    """
    with needs_extra("gramian.images", "coding"):
        import skimage.data
        import sklearn.datasets

    raw = {name: np.asarray(getattr(skimage.data, name)()) for name in _SKIMAGE}
    raw.update({name: np.asarray(sklearn.datasets.load_sample_image(f"{name}.jpg")) for name in _SKLEARN})
    return tuple(
        Picture(name, _pixels(raw[name], name, colour=colour))
        for name in sorted(raw)
        if raw[name].ndim == 3 or not colour
    )


def load_images(path: Path, *, colour: bool = False) -> LoadedImages:
    """Load all pictures of a folder or of an array, or all frames of a film.

    Args:
        path: A folder, whose files count as pictures by their suffix (bmp, gif, jpeg, jpg, png, tif, tiff, webp;
            subfolders are not entered); a file .npy or .npz with an array [height, width], [count, height, width] or
            [count, height, width, 3]; or one picture file, of which all frames are loaded.
        colour: Whether to load colours instead of luminance.

    Returns:
        The pictures and the names of unreadable files. Pixels must be bytes, 16-bit numbers or numbers in [0, 1]; other
        numbers raise an error, because their white is not defined. Transparent pixels are blended with white, EXIF
        rotations are applied, and a film in a folder contributes its first frame.

    Raises:
        DataError: If the path does not exist, holds no readable picture, or has numbers of another range.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "film.npy"
        >>> np.save(path, np.zeros((5, 32, 48), dtype=np.uint8))
        >>> film = load_images(path)
        >>> len(film.images), film.images[0].pixels.shape, film.sequence
        (5, torch.Size([32, 48]), True)
    """
    try:
        folder, file = path.is_dir(), path.is_file()
        # A folder without search permission lists its files, but is_file raises for each of them.
        listed = sorted(path.iterdir()) if folder else []
        entries = [entry for entry in listed if _is_picture(entry) and entry.is_file()]
    except OSError as error:
        raise DataError(
            f"images must be readable; got {printable(path, most=1000)}: {error.strerror or error}"
        ) from error
    if folder:
        return _folder(path, entries, colour=colour)
    if not file:
        there = "which is not a file" if os.path.lexists(path) else "which does not exist"
        raise DataError(f"images must be an existing folder or file; got {printable(path)}, {there}")
    if path.suffix.lower() in (".npy", ".npz"):
        return _array_file(path, colour=colour)
    if _is_picture(path):
        return _sequence(path.name, read_frames(path), colour=colour)
    raise DataError(
        f"images must be a folder, an array (.npy, .npz) or a picture ({', '.join(_SUFFIXES)}); got {printable(path)}; "
        "of a film in another format, try: mkdir frames; ffmpeg -i FILM frames/%05d.png"
    )


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _folder(path: Path, files: Sequence[Path], *, colour: bool) -> LoadedImages:
    images: list[Picture] = []
    skipped: list[str] = []
    for file in files:
        try:
            images.append(Picture(printable(file.name), _pixels(read_picture(file), file.name, colour=colour)))
        except PictureValuesError:
            raise
        except DataError:
            skipped.append(printable(file.name))
    if not images:
        content = f"{len(skipped)} that cannot be read" if skipped else "no file with such a suffix"
        raise DataError(
            f"{printable(path)} must hold at least one readable picture ({', '.join(_SUFFIXES)}); got {content}"
        )
    return LoadedImages(tuple(images), tuple(skipped))


def _array_file(path: Path, *, colour: bool) -> LoadedImages:
    pictures: list[np.ndarray] = []
    for array in read_arrays(path):
        last = array.shape[-1] if array.ndim else 0
        if (
            array.dtype.kind not in "uif"
            or not (array.ndim in (2, 3) or (array.ndim == 4 and last == 3))
            or not array.size
        ):
            raise DataError(
                f"{printable(path)} must hold numbers [height, width], [count, height, width] or [count, height, "
                f"width, 3]; got {array.dtype.kind if array.dtype.names else array.dtype} {list(array.shape)}"
            )
        # Three axes are a series of grey pictures; a single colour picture has four axes: [1, h, w, 3].
        pictures += [array] if array.ndim == 2 else list(array)
    if not pictures:
        raise DataError(f"{printable(path)} must hold at least one array; got none")
    return _sequence(path.name, pictures, colour=colour)


def _sequence(name: str, arrays: Sequence[np.ndarray], *, colour: bool) -> LoadedImages:
    name = printable(name)
    names = [f"{name}[{index}]" for index in range(len(arrays))] if len(arrays) > 1 else [name]
    pixels = (_pixels(array, picture_name, colour=colour) for picture_name, array in zip(names, arrays, strict=True))
    images = tuple(Picture(picture_name, values) for picture_name, values in zip(names, pixels, strict=True))
    return LoadedImages(images, sequence=len(images) > 1)


def split_held_out(images: tuple[Picture, ...], *, min_side: int, sequence: bool = False) -> ImageSplit:
    """Split pictures into those for training and those held out.

    Held out are the shipped images of `HELD_OUT_NAMES`, or else every fifth picture and at least one. For a film it is
    the last fifth, because successive frames are similar. A single picture is divided, and its lowest fifth is held
    out.

    Args:
        images: All pictures.
        min_side: Smallest side that a picture may have, in pixels.
        sequence: Whether the pictures are frames of one film.

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
        height, width = whole.pixels.shape[:2]
        if height < 2 * min_side:
            raise DataError(
                f"a single picture is cut in two, and must be at least {2 * min_side} pixels high; got {height} × "
                f"{width} (height × width) for {whole.name}; try a larger picture, more of them, or smaller patches"
            )
        cut = height - max(height // 5, min_side)
        train = (Picture(f"{whole.name} (upper part)", whole.pixels[:cut]),)
        held_out = (Picture(f"{whole.name} (lower part)", whole.pixels[cut:]),)
    elif sequence:
        cut = len(images) - max(1, len(images) // 5)
        train, held_out = images[:cut], images[cut:]
    else:
        held_out_indices = set(range(4, len(images), 5)) or {len(images) - 1}
        held_out = tuple(image for index, image in enumerate(images) if index in held_out_indices)
        train = tuple(image for index, image in enumerate(images) if index not in held_out_indices)
    for image in (*train, *held_out):
        height, width = image.pixels.shape[:2]
        if min(height, width) < min_side:
            raise DataError(
                f"a picture must measure at least {min_side} × {min_side} pixels; got {height} × {width} (height × "
                f"width) for {image.name}; try larger pictures, more of them, or smaller patches"
            )
    return ImageSplit(train, held_out)


def _pixels(array: np.ndarray, name: str, *, colour: bool) -> Float[Tensor, "height width *channels"]:
    pixels = as_pixels(array, name)
    if pixels.ndim == 2 and colour:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    elif pixels.ndim == 3:
        pixels = pixels[..., :3] if colour else pixels[..., :3] @ np.asarray(_LUMINANCE)
    return torch.from_numpy(np.clip(pixels, 0, 1).astype(np.float32))
