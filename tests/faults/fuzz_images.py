"""A fuzzer of files of pictures and arrays: mutated ones are read, or refused by a `GramianError`, and nothing else.

    python -m tests.faults.fuzz_images --seconds 60 --seed 0

Each file is a function of the seed and of its number. What goes wrong is told with the command that does it again.
"""

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from gramian.errors import GramianError
from gramian.images.samples import load_images

__all__ = ["FoundError", "run"]

_SLOW = 20.0
"""Seconds after which a file counts as one that hangs the reader."""


class FoundError(Exception):
    """A file made the reader raise something else than a `GramianError`, or give what is no picture."""


def run(seconds: float, seed: int, *, first: int = 0) -> int:
    """Read mutated files for some time.

    Args:
        seconds: For how long.
        seed: Seed of the files.
        first: Number of the file to begin with.

    Returns:
        How many files were read.

    Raises:
        FoundError: At the first one that goes wrong.
    """
    until = time.monotonic() + seconds
    whole = _whole_files()
    number = first
    with tempfile.TemporaryDirectory() as folder:
        while number == first or time.monotonic() < until:
            random = np.random.default_rng([seed, number])
            suffix, content = whole[int(random.integers(len(whole)))]
            path = Path(folder) / f"a{suffix}"
            path.write_bytes(_mutated(content, random))
            began = time.monotonic()
            wrong = _wrong(path, colour=bool(random.integers(2)), in_folder=bool(random.integers(2)))
            if time.monotonic() - began > _SLOW:
                wrong = wrong or f"{time.monotonic() - began:.0f} s to read it"
            path.unlink()
            if wrong:
                raise FoundError(
                    f"seed {seed}, number {number}: {suffix} file: {wrong}; again: python -m tests.faults.fuzz_images "
                    f"--seconds 0 --seed {seed} --first {number}"
                )
            number += 1
    return number - first


def _wrong(path: Path, *, colour: bool, in_folder: bool) -> str:
    """Say what goes wrong, nothing if nothing does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = load_images(path.parent if in_folder else path, colour=colour)
    except GramianError as error:
        text = str(error)
        if "\n" in text or (path.name not in text and path.parent.name not in text):
            return f"an error of several lines, or one without the file's name: {text!r}"
        return ""
    except Exception as error:  # noqa: BLE001 RUF100
        return f"{type(error).__name__}: {error}"
    for image in loaded.images:
        good = image.pixels.isfinite().all() and image.pixels.min() >= 0 and image.pixels.max() <= 1
        if not good or image.pixels.ndim != (3 if colour else 2):
            return f"pixels of shape {list(image.pixels.shape)} that are not in [0, 1]"
    return ""


def _mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Change bytes, cut, repeat, or put numbers that are large where sizes may stand."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 6))):
        # Headers are where it matters: every other change is near the beginning.
        reach = len(changed) if random.integers(2) else min(len(changed), 200)
        if reach == 0:
            break
        place = int(random.integers(reach))
        kind = int(random.integers(6))
        if kind == 0:
            changed[place] = int(random.integers(256))
        elif kind == 1:
            changed[place] ^= 1 << int(random.integers(8))
        elif kind == 2:
            del changed[place : place + int(random.integers(1, 64))]
        elif kind == 3:
            changed[place:place] = changed[place : place + int(random.integers(1, 64))]
        elif kind == 4:
            changed[place : place + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0")[
                int(random.integers(3))
            ]
        elif random.integers(8) == 0:
            del changed[place:]
    return bytes(changed)


def _whole_files() -> list[tuple[str, bytes]]:
    grey = np.random.default_rng(0).integers(0, 256, (24, 31), dtype=np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    unit = (grey / 255).astype(np.float32)

    def picture(array: np.ndarray, kind: str, **options: object) -> bytes:
        return _content(lambda file: Image.fromarray(array).save(file, kind, **options))

    frames = [Image.fromarray(np.roll(grey, k)) for k in range(3)]
    return [
        (".png", picture(grey, "png")),
        (".png", picture(colours, "png")),
        (".png", picture(grey.astype(np.uint16) * 257, "png")),
        (".png", _content(lambda file: Image.fromarray(colours).convert("P").save(file, "png"))),
        (".jpg", picture(grey, "jpeg")),
        (".jpg", picture(colours, "jpeg")),
        (".tif", picture(unit, "tiff")),
        (".tif", picture(colours, "tiff", compression="tiff_lzw")),
        (".tif", _content(lambda file: frames[0].save(file, "tiff", save_all=True, append_images=frames[1:]))),
        (".gif", _content(lambda file: frames[0].save(file, "gif", save_all=True, append_images=frames[1:]))),
        (".bmp", picture(colours, "bmp")),
        (".npy", _content(lambda file: np.save(file, unit))),
        (".npy", _content(lambda file: np.save(file, np.stack(3 * [grey])))),
        (".npz", _content(lambda file: np.savez(file, first=unit, second=grey))),
        (".npz", _content(lambda file: np.savez_compressed(file, first=colours[None]))),
    ]


def _content(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description="Read mutated pictures and arrays.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the file to begin with")
    options = parser.parse_args()
    print(f"{run(options.seconds, options.seed, first=options.first)} files of pictures and arrays: nothing found")


if __name__ == "__main__":
    main()
