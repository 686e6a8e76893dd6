"""Files of pictures, read with suspicion: whatever stands in one, it is an array of pixels or one clear error."""

import math
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy import ndarray

from gramian.errors import DataError, needs_extra, printable

__all__ = ["PictureValuesError", "as_pixels", "read_arrays", "read_frames", "read_picture"]

_MOST_PIXELS = 1 << 30
"""Pixels of all frames of a film; 4 GiB as they are held."""
_PACKED = 200
"""How many times larger an array may be than what it is packed in, once it is a large one."""
_LARGE = 1 << 28


def read_picture(path: Path) -> ndarray:
    """Read a picture: of a film the first frame.

    Args:
        path: Its file.

    Returns:
        Bytes, or numbers in [0, 1], [height, width] or [height, width, 3].

    Raises:
        DataError: If it cannot be read; `PictureValuesError`, if it can and its numbers have no known range.
    """
    return _frames(path, all_of_them=False)[0]


def read_frames(path: Path) -> list[ndarray]:
    """Read all frames of a picture, each as `read_picture` does.

    Raises:
        DataError: If it cannot be read, or is too large.
    """
    return _frames(path, all_of_them=True)


class PictureValuesError(DataError):
    """A picture can be read, but its numbers have no known range, or are not finite."""


def _frames(path: Path, *, all_of_them: bool) -> list[ndarray]:
    with needs_extra("gramian.data", "coding"):
        from PIL import Image, ImageOps, ImageSequence

    frames: list[ndarray] = []
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it mends; of a picture so large that it may be an attack it must not go on.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file) as film:
                pixels = 0
                for frame in ImageSequence.Iterator(film) if all_of_them else (film,):
                    pixels += frame.width * frame.height
                    if pixels > _MOST_PIXELS:
                        raise ValueError("more than 2³⁰ pixels in all its frames; try a part of it")
                    frames.append(_of_picture(ImageOps.exif_transpose(frame), path))
    except PictureValuesError:
        raise
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise DataError(f"{printable(path)} must be a picture that can be read; got {_reason(error)}") from error
    if not frames:
        raise DataError(f"{printable(path)} must be a picture that can be read; got no frame")
    return frames


def read_arrays(path: Path) -> list[ndarray]:
    """Read the arrays of a .npy or .npz file, without pickled objects.

    What a header promises is compared with what is there before any memory is taken.

    Raises:
        DataError: If they cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            return _archive(path)
        return [_array(lambda: path.open("rb"), path.stat().st_size)]
    except DataError:
        raise
    except Exception as error:  # NumPy's reader evaluates the header, and raises whatever comes of it
        raise DataError(
            f"{printable(path)} must be an array that can be read, without pickled objects; got {_reason(error)}"
        ) from error


def _archive(path: Path) -> list[ndarray]:
    arrays: list[ndarray] = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            promised = entry.file_size
            if promised > max(_LARGE, _PACKED * entry.compress_size):
                raise DataError(
                    f"{printable(path)} must hold arrays at most {_PACKED} times as large as the file; got "
                    f"{printable(entry.filename)} of {promised} bytes in {entry.compress_size}; try a file .npy"
                )
            arrays.append(_array(partial(archive.open, entry), promised))
    return arrays


def _array(stream: Callable[[], IO[bytes]], size: int) -> ndarray:
    """Read an array from a stream of as many bytes."""
    with stream() as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"a header of version {version[0]}.{version[1]}")
        header = np.lib.format
        shape, _, dtype = (header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0)(file)
    if math.prod(shape) * dtype.itemsize > size or any(isinstance(side, bool) or side < 0 for side in shape):
        raise ValueError(f"a header that promises the shape {list(shape)} in {size} bytes")
    with stream() as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def as_pixels(array: ndarray, name: str) -> ndarray:
    """Give pixels as float64 in [0, 1]: bytes are divided by 255, other numbers must be in [0, 1] already.

    A file of numbers that are not bytes does not say which of them is white, so none is guessed.

    Args:
        array: Pixels of any numbers.
        name: What they are called in messages.

    Raises:
        PictureValuesError: If they are not finite, or not in [0, 1].
    """
    if array.dtype == np.uint8:
        return array.astype(np.float64) / 255
    with np.errstate(all="ignore"):  # what is not finite is told below
        pixels = array.astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        what = "try (x - x.min()) / (x.max() - x.min())" if np.isfinite([low, high]).all() else "some are not finite"
        raise PictureValuesError(
            f"{printable(name)} must hold bytes, or finite numbers in [0, 1]; got {array.dtype} from {low:g} to "
            f"{high:g}; {what}"
        )
    return pixels


def _of_picture(picture: Any, path: Path) -> ndarray:
    from PIL import Image

    if picture.mode.startswith("I"):
        array = np.asarray(picture).astype(np.float64)
        if array.size and not (array.min() >= 0 and array.max() <= 65535):
            raise PictureValuesError(
                f"{printable(path)} must hold 8 or 16 bits for each pixel, or numbers in [0, 1]; got whole numbers "
                f"from {array.min():g} to {array.max():g}; try to save it with 16 bits"
            )
        return array / 65535
    if picture.mode in ("F", "1"):
        array = np.asarray(picture)
        as_pixels(array, path.name)
        return array
    if picture.mode == "L":
        return np.asarray(picture)
    if picture.mode == "P" or "A" in picture.getbands():
        layered = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return np.asarray(picture.convert("RGB"))


def _reason(error: Exception) -> str:
    """Say in one line what a library stumbled over."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnidentifiedImageError":
        return "a format that is not known"
    words = " ".join(printable(error).split())[:200]
    return words or type(error).__name__
