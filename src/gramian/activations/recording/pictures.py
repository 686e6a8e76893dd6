"""Batches of pictures for a network that sees pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from torch import Tensor, nn

from gramian.activations.recording.batches import Batch
from gramian.activations.recording.texts import batched
from gramian.errors import DataError, printable
from gramian.picture_files import as_pixels, read_picture

__all__ = ["PICTURE_SUFFIXES", "PictureNetwork"]

PICTURE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class PictureNetwork:
    """A network and the preparation of its pictures.

    Attributes:
        model: The network.
        transform: Turns pictures, bytes [height, width, 3], into inputs of the network.
        grid: Rows and columns of the patches of inputs; None for networks without patches.
        skipped: Pictures that could not be read.
    """

    model: nn.Module
    transform: Callable[[Sequence[ndarray]], Any]
    grid: Callable[[Any], tuple[int, int] | None]
    skipped: list[Path] = field(default_factory=list[Path])

    def batches(
        self, files: Sequence[Path], *, size: int, root: Path, special: bool = False
    ) -> Iterator[Callable[[], Batch | None]]:
        """Yield functions that read a batch of pictures.

        Args:
            files: The pictures.
            size: Number of pictures in a batch.
            root: The folder to which the names of pictures are relative.
            special: Whether to keep positions that are not patches, such as a class token.
        """
        for batch in batched(files, size):
            yield lambda batch=batch: self._batch(batch, root, special=special)

    def _batch(self, files: Sequence[Path], root: Path, *, special: bool) -> Batch | None:
        pictures: list[ndarray] = []
        names: list[str] = []
        for file in files:
            try:
                pictures.append(_rgb(file))
                names.append(printable(file.relative_to(root) if file != root else file.name))
            except DataError:
                self.skipped.append(file)
        if not pictures:
            return None
        inputs = self.transform(pictures)
        return Batch(inputs, contexts=names, patches=self.grid(inputs), only_patches=not special)


def pixels_of(inputs: Any) -> Tensor:
    """Return the tensor of pictures [batch, channels, height, width] in the inputs of a network."""
    return inputs["pixel_values"] if isinstance(inputs, Mapping) else inputs


def _rgb(path: Path) -> ndarray:
    """Read a picture as bytes [height, width, 3]."""
    pixels = read_picture(path)
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * as_pixels(pixels, path.name)).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., :3])
