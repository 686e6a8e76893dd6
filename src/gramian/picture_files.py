"""Read untrusted files of pictures: return an array of pixels, or raise one clear error."""

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

_MAX_PIXELS = 1 << 30
"""Largest number of pixels of all frames of a film; 4 GiB in memory."""
_MAX_COMPRESSION = 200
"""Largest compression ratio of a large array."""
_LARGE = 1 << 28
"""Bytes from which an array counts as large."""


def read_picture(path: Path) -> ndarray:
    """Read a picture, or the first frame of a film.

    Args:
        path: File of the picture.

    Returns:
        Bytes, or numbers in [0, 1], [height, width] or [height, width, 3].

    Raises:
        DataError: If the file cannot be read; `PictureValuesError` if its numbers have no known range.
    """
    return _frames(path, all_frames=False)[0]


def read_frames(path: Path) -> list[ndarray]:
    """Read all frames of a film, each like `read_picture`.

    Raises:
        DataError: If the file cannot be read, or is too large.
    """
    return _frames(path, all_frames=True)


class PictureValuesError(DataError):
    """The numbers of a readable picture have no known range, or are not finite."""


def _frames(path: Path, *, all_frames: bool) -> list[ndarray]:
    with needs_extra("gramian.images", "coding"):
        from PIL import Image, ImageOps, ImageSequence

    frames: list[ndarray] = []
    try:
        with warnings.catch_warnings():
            # Ignore warnings about repaired files, but raise for decompression bombs.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file) as film:
                pixels = 0
                for frame in ImageSequence.Iterator(film) if all_frames else (film,):
                    pixels += frame.width * frame.height
                    if pixels > _MAX_PIXELS:
                        raise ValueError("more than 2³⁰ pixels in all its frames; try a part of it")
                    frames.append(_of_picture(ImageOps.exif_transpose(frame), path))
    except PictureValuesError:
        raise
    except Exception as error:  # Pillow's readers raise errors of any type
        raise DataError(f"{printable(path)} must be a picture that can be read; got {_reason(error)}") from error
    if not frames:
        raise DataError(f"{printable(path)} must be a picture that can be read; got no frame")
    return frames


def read_arrays(path: Path) -> list[ndarray]:
    """Read the arrays of a .npy or .npz file, without pickled objects.

    The size in the header is compared with the size of the file before memory is allocated.

    Raises:
        DataError: If the arrays cannot be read.
    """
    try:
        if zipfile.is_zipfile(path):
            return _archive(path)
        return [_array(lambda: path.open("rb"), path.stat().st_size)]
    except DataError:
        raise
    except Exception as error:  # NumPy's reader evaluates the header, and raises errors of any type
        raise DataError(
            f"{printable(path)} must be an array that can be read, without pickled objects; got {_reason(error)}"
        ) from error


def _archive(path: Path) -> list[ndarray]:
    arrays: list[ndarray] = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            size = entry.file_size
            if size > max(_LARGE, _MAX_COMPRESSION * entry.compress_size):
                raise DataError(
                    f"{printable(path)} must hold arrays at most {_MAX_COMPRESSION} times as large as the file; got "
                    f"{printable(entry.filename)} of {size} bytes in {entry.compress_size}; try a file .npy"
                )
            arrays.append(_array(partial(archive.open, entry), size))
    return arrays


def _array(stream: Callable[[], IO[bytes]], size: int) -> ndarray:
    """Read an array from a stream of `size` bytes."""
    with stream() as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"a header of version {version[0]}.{version[1]}")
        header = np.lib.format
        shape, _, dtype = (header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0)(file)
    if math.prod(shape) * dtype.itemsize > size or any(isinstance(side, bool) or side < 0 for side in shape):
        raise ValueError(f"a header that declares the shape {list(shape)} in {size} bytes")
    with stream() as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def as_pixels(array: ndarray, name: str) -> ndarray:
    """Convert pixels to float64 in [0, 1]: divide bytes by 255; other numbers must be in [0, 1].

    A file of other numbers does not say which value is white.

    Args:
        array: Pixels of any dtype.
        name: Name of the picture in messages.

    Raises:
        PictureValuesError: If numbers that are not bytes are not finite, or not in [0, 1].
    """
    if array.dtype == np.uint8:
        return array.astype(np.float64) / 255
    with np.errstate(all="ignore"):  # numbers that are not finite raise below
        pixels = array.astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        remedy = "try (x - x.min()) / (x.max() - x.min())" if np.isfinite([low, high]).all() else "some are not finite"
        raise PictureValuesError(
            f"{printable(name)} must hold bytes, or finite numbers in [0, 1]; got {array.dtype} from {low:g} to "
            f"{high:g}; {remedy}"
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
    """Return the message of a library's error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error).__name__ == "UnidentifiedImageError":
        return "an unknown format"
    words = " ".join(printable(error).split())[:200]
    return words or type(error).__name__
