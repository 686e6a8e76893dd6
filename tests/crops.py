"""Small pictures to learn from: a run begins in a tenth of a second, not in one or two."""

from pathlib import Path

from PIL import Image

from gramian.images.samples import shipped_images

__all__ = ["save_crops"]


def save_crops(folder: Path, count: int = 6, side: int = 72) -> Path:
    """Cut squares out of natural images, and save them in a new folder."""
    folder.mkdir()
    for number, image in enumerate(shipped_images()[:count]):
        crop = image.pixels[60 : 60 + side, 60 : 60 + side]
        Image.fromarray((255 * crop).byte().numpy()).save(folder / f"{number}.png")
    return folder
