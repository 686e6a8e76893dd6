"""`gramian encode` and `gramian decode`: convert pictures to files of codes, and back."""

import contextlib
import math
import os
from pathlib import Path

from rich.console import Console

from gramian.errors import RunError
from gramian.files import check_output, replace_file
from gramian.images import Dictionary, decode_picture, encode_picture, load_codes, load_dictionary, save_codes
from gramian.images.encoding import check_coding
from gramian.images.samples import load_images
from gramian.report.pictures import gray_picture, png

__all__ = ["decode_codes", "encode_images"]

_SUFFIX = ".codes.safetensors"


def encode_images(dictionary: Path, images: Path, out: Path, *, stride: int | None, tol: float, force: bool) -> None:
    """Encode every picture into one file of codes.

    Raises:
        RunError: If the dictionary cannot be read, or a file exists already or cannot be written.
        DataError: If a picture cannot be used.
        OptionError: If the stride or the tolerance is out of range.
    """
    learned = _dictionary(dictionary)
    check_coding(learned, stride=stride, tol=tol)
    loaded = load_images(images, colour=learned.preparation.channels == 3)
    check_coding(learned, loaded.images, stride=stride, tol=tol)
    names = [f"{picture.name}{_SUFFIX}" for picture in loaded.images]
    targets = _targets(out, names, suffix=_SUFFIX, force=force, inputs=[dictionary, images])
    console = Console(highlight=False)
    for name in loaded.skipped:
        console.print(f"[yellow]skipped, not readable:[/] {name}")
    for path, picture in zip(targets, loaded.images, strict=True):
        encoded = encode_picture(picture, learned, stride=stride, tol=tol)
        save_codes(path, encoded)
        console.print(
            f"{path}: {len(encoded.codes)} patches, {encoded.active:.1f} of {encoded.codes.shape[1]} groups active, "
            + (f"gap at most {encoded.gap:.1e}" if math.isfinite(encoded.gap) else "least energy not certified"),
            soft_wrap=True,
        )


def decode_codes(dictionary: Path, codes: list[Path], out: Path, *, force: bool) -> None:
    """Reconstruct a picture from every file of codes.

    Raises:
        RunError: If a file cannot be read, exists already or cannot be written, or has codes of another dictionary.
    """
    learned = _dictionary(dictionary)
    paths = [path for place in codes for path in (sorted(place.glob(f"*{_SUFFIX}")) if place.is_dir() else [place])]
    if not paths:
        raise RunError(f"there must be codes to decode; got no *{_SUFFIX} in {', '.join(map(str, codes))}")
    encoded = [load_codes(path) for path in paths]
    pictures = [png(gray_picture(decode_picture(codes, learned))) for codes in encoded]
    names = [path.name.removesuffix(_SUFFIX).removesuffix(".png") for path in paths]
    targets = _targets(out, [f"{name}.png" for name in names], suffix=".png", force=force, inputs=[dictionary, *paths])
    for target, picture in zip(targets, pictures, strict=True):
        replace_file(target, picture)
        print(target)


def _dictionary(path: Path) -> Dictionary:
    return load_dictionary(path / "dictionary.safetensors" if path.is_dir() else path)


def _targets(folder: Path, names: list[str], *, suffix: str, force: bool, inputs: list[Path]) -> list[Path]:
    """Create the folder and check that no file overwrites another; remove the new folder if the check fails."""
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise RunError(f"file names in {folder} must be unique; got {', '.join(duplicates)} more than once")
    new_folders = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"the folder {folder} could not be created: {error.strerror or error}") from error
    targets = [folder / name for name in names]
    try:
        for target in targets:
            check_output(target, force=force, suffixes=[suffix], inputs=inputs)
    except RunError:
        with contextlib.suppress(OSError):
            for parent in new_folders:
                parent.rmdir()
        raise
    return targets
