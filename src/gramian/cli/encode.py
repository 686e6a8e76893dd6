"""`gramian encode` and `gramian decode`: convert pictures or activations to files of codes, and back."""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from gramian.coding.features.file import FEATURES
from gramian.coding.files.checksum import stored_format
from gramian.coding.runs.folder import DICTIONARY
from gramian.errors import OptionError, RunError
from gramian.files import check_output, replace_file
from gramian.images import decode_picture, encode_picture, load_codes, load_dictionary, save_codes
from gramian.images.encoding import check_coding
from gramian.images.samples import load_images
from gramian.report.pictures import gray_picture, png

__all__ = ["decode_data", "encode_data"]

_SUFFIX = ".codes.safetensors"


def encode_data(
    dictionary: Path, data: Path, out: Path, of_pictures: dict[str, Any], of_activations: dict[str, Any], *, force: bool
) -> None:
    """Encode pictures or activations, by the kind of the dictionary.

    Args:
        dictionary: A dictionary file, or the folder of a run.
        data: What to encode.
        out: Where to write.
        of_pictures: Options for pictures that the user gave.
        of_activations: Options for activations that the user gave.
        force: Whether to replace existing files.

    Raises:
        OptionError: If the options are for the other kind.
    """
    path = _dictionary_file(dictionary)
    activations = _is_of_activations(path)
    others = of_pictures if activations else of_activations
    if others:
        kind = "activations" if activations else "pictures"
        raise OptionError(
            f"options must fit the dictionary, which is one of {kind}; got --{', --'.join(others)} as well; leave them "
            "out"
        )
    if activations:
        from gramian.cli.encode_activations import encode_store

        encode_store(path, data, out, **of_activations, force=force)
    else:
        options: dict[str, Any] = {"stride": None, "tol": 1e-4, **of_pictures}
        encode_images(path, data, out, **options, force=force)


def decode_data(dictionary: Path, codes: list[Path], out: Path, *, force: bool) -> None:
    """Reconstruct pictures or activations, by the kind of the dictionary."""
    path = _dictionary_file(dictionary)
    if _is_of_activations(path):
        from gramian.cli.encode_activations import decode_store

        decode_store(path, codes, out, force=force)
    else:
        decode_codes(path, codes, out, force=force)


def encode_images(dictionary: Path, images: Path, out: Path, *, stride: int | None, tol: float, force: bool) -> None:
    """Encode every picture into one file of codes.

    Raises:
        RunError: If the dictionary cannot be read, or a file exists already or cannot be written.
        DataError: If a picture cannot be used.
        OptionError: If the stride or the tolerance is out of range.
    """
    learned = load_dictionary(dictionary)
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
    learned = load_dictionary(dictionary)
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


def _dictionary_file(path: Path) -> Path:
    return path / DICTIONARY if path.is_dir() else path


def _is_of_activations(path: Path) -> bool:
    return stored_format(path) == FEATURES


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
