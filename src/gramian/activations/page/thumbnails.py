"""Small versions of the pictures that samples come from."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gramian.activations.recording.pictures import PICTURE_SUFFIXES
from gramian.errors import DataError, needs_extra
from gramian.picture_files import as_pixels, read_picture

__all__ = ["thumbnails"]

_SIDE = 128
"""Longest side of a thumbnail, in pixels."""

_BYTES = 5_000_000
"""Bytes of all thumbnails together, as text."""


def thumbnails(names: Mapping[int, str], folder: Path, grids: Mapping[int, tuple[int, int]]) -> dict[str, str]:
    """Return small versions of the pictures that can be read and fit into the page.

    A picture is cropped at its centre to the proportions of its grid of patches, as networks do. A file outside the
    folder is not read.

    Args:
        names: Names of pictures relative to the folder by document, in order of importance.
        folder: The folder, or the only picture itself.
        grids: Rows and columns of patches by document.

    Returns:
        Pictures as data URIs by document.
    """
    root = folder.resolve()
    result: dict[str, str] = {}
    size = 0
    for document, name in names.items():
        try:
            path = (root / name).resolve() if root.is_dir() else root
            inside = path.is_relative_to(root) and (path != root or root.name == name)
            if not inside or path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
                continue
            picture = _small(path, grids.get(document))
        except (DataError, OSError, ValueError):
            continue
        size += len(picture)
        if size > _BYTES:
            break
        result[str(document)] = picture
    return result


def _small(path: Path, grid: tuple[int, int] | None) -> str:
    with needs_extra("gramian.activations", "coding"):
        from PIL import Image

    pixels = read_picture(path)
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * as_pixels(pixels, path.name)).astype(np.uint8)
    picture = Image.fromarray(pixels).convert("RGB")
    if grid is not None:
        rows, columns = grid
        unit = min(picture.height / rows, picture.width / columns)
        width, height = columns * unit, rows * unit
        left, top = (picture.width - width) / 2, (picture.height - height) / 2
        picture = picture.crop((round(left), round(top), round(left + width), round(top + height)))
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
