"""Encode pictures, store their codes in files, and decode them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.energy import energy
from gramian.coding.files.checksum import digest, read_checked, write_checked
from gramian.coding.inference import METHODS, check_stop
from gramian.coding.model import Codes, group_norms, reconstruct
from gramian.coding.priors import PRIORS
from gramian.errors import DataError, OptionError, RunError
from gramian.images.dictionary import Dictionary
from gramian.images.samples import Picture, Samples
from gramian.options import real_number, whole_number

__all__ = ["EncodedPicture", "check_coding", "decode_picture", "encode_picture", "load_codes", "save_codes"]

_FORMAT = "gramian-codes-1"
_METADATA = ("name", "dictionary", "shape", "stride", "gap")
_AXES = {"codes": 3, "means": 2, "mean": 1}
_LARGEST_SIDE = 1 << 24
_LONGEST_NAME = 1000
_BATCH = 4096


@dataclass(frozen=True)
class EncodedPicture:
    """The codes of the overlapping patches of a picture.

    Attributes:
        name: Name of the picture.
        codes: Codes of all patches, row by row, [count, m, n].
        samples: Means, shape and stride of the patches, without their pixels if loaded from a file.
        gap: Largest duality gap of a patch over its energy; infinite if the method has none.
        dictionary: Digest of the atoms of the dictionary.
    """

    name: str
    codes: Codes
    samples: Samples
    gap: float
    dictionary: str

    @property
    def active(self) -> float:
        """Mean number of active groups of a patch."""
        return float((group_norms(self.codes) > 0).sum(dim=1).double().mean())


def encode_picture(
    picture: Picture, dictionary: Dictionary, *, stride: int | None = None, tol: float = 1e-4, max_iter: int = 2000
) -> EncodedPicture:
    """Encode a picture patch by patch.

    Args:
        picture: A picture with the channels of the dictionary.
        dictionary: A learned dictionary.
        stride: Distance between patches, pixels; by default half a patch.
        tol: Relative duality gap at which a patch has converged.
        max_iter: Largest number of iterations.

    Returns:
        The codes, with means, shape and stride for decoding.

    Raises:
        DataError: If the picture is smaller than a patch, or has another number of channels.
        OptionError: If the stride leaves gaps, or the tolerance is negative or not a number.
    """
    check_coding(dictionary, [picture], stride=stride, tol=tol, max_iter=max_iter)
    size = dictionary.preparation.size
    samples = dictionary.preparation.samples(picture.pixels, stride=max(1, size // 2) if stride is None else stride)
    method = METHODS[dictionary.infer]
    parts = [
        method(x, dictionary.phi, lam=dictionary.lam, prior=dictionary.prior, tol=tol, max_iter=max_iter)
        for x in samples.x.to(dictionary.phi).split(_BATCH)
    ]
    codes = torch.cat([part.codes for part in parts])
    total = energy(samples.x, dictionary.phi, codes, dictionary.lam, PRIORS[dictionary.prior]).total
    gap = torch.cat([part.gap for part in parts]) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return EncodedPicture(picture.name, codes, samples, float(gap.clamp_min(0).max()), digest(dictionary.phi))


def check_coding(
    dictionary: Dictionary,
    pictures: Sequence[Picture] = (),
    *,
    stride: int | None,
    tol: float,
    max_iter: int = 2000,
) -> None:
    """Check pictures and options before encoding.

    Raises:
        DataError: If one of the pictures is smaller than a patch.
        OptionError: If the stride leaves gaps or is not a whole number, or the tolerance is negative or not a number.
    """
    check_stop(max_iter, real_number(tol, name="tol", zero=True, attempt="1e-4"))
    size = dictionary.preparation.size
    if stride is not None and whole_number(stride, name="stride") > size:
        raise OptionError(f"stride must be at most the patch's side {size}, to leave no gaps; got {stride}")
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        if min(height, width) < size:
            raise DataError(
                f"a picture must be at least as large as a patch, {size} × {size}; got {height} × {width} (height × "
                f"width) for {picture.name}"
            )


def decode_picture(encoded: EncodedPicture, dictionary: Dictionary) -> Float[Tensor, "height width *channels"]:
    """Reconstruct a picture from its codes, in [0, 1].

    Args:
        encoded: The codes of a picture.
        dictionary: The dictionary that encoded it.

    Returns:
        The picture, [height, width] or [height, width, channels].

    Raises:
        RunError: If the codes belong to another dictionary, or have wrong shapes.
    """
    if encoded.dictionary != digest(dictionary.phi):
        raise RunError(
            f"the codes of {encoded.name} must be decoded with the dictionary that encoded them, {encoded.dictionary}; "
            f"got {digest(dictionary.phi)}"
        )
    codes, samples, channels = encoded.codes, encoded.samples, dictionary.preparation.channels
    if codes.shape[1:] != dictionary.phi.shape[1:] or {samples.means.shape[1:], samples.mean.shape} != {(channels,)}:
        raise RunError(
            f"the codes of {encoded.name} must be [count, m, n] with means of {channels} channels, as the dictionary "
            f"is; got {list(codes.shape)} with {list(samples.means.shape)} and {list(samples.mean.shape)}"
        )
    return dictionary.preparation.picture(reconstruct(dictionary.phi, codes), samples)


def save_codes(path: Path, encoded: EncodedPicture) -> None:
    """Write codes to a file, atomically.

    Args:
        path: The file; an existing one is replaced.
        encoded: The codes.

    Raises:
        RunError: If the file cannot be written.
    """
    metadata = {
        "format": _FORMAT,
        "name": encoded.name,
        "dictionary": encoded.dictionary,
        "shape": json.dumps(encoded.samples.shape),
        "stride": json.dumps(encoded.samples.stride),
        "gap": json.dumps(encoded.gap),
    }
    tensors = {"codes": encoded.codes, "means": encoded.samples.means, "mean": encoded.samples.mean}
    write_checked(path, tensors, metadata)


def load_codes(path: Path) -> EncodedPicture:
    """Read codes and check them.

    Args:
        path: The file.

    Returns:
        The codes, with means, shape and stride for decoding, but without pixels.

    Raises:
        RunError: If there is no such file, or it does not hold complete codes.
    """
    tensors, metadata = read_checked(
        path, kind="codes", form=_FORMAT, command="gramian encode", known=("format", *_METADATA)
    )
    for name, axes in _AXES.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.ndim != axes or not tensor.is_floating_point():
            got = "none" if tensor is None else f"{tensor.dtype} of shape {list(tensor.shape)}"
            raise RunError(f"{path} must hold {name}, real numbers on {axes} axes; got {got}")
        if not bool(tensor.double().isfinite().all()):
            raise RunError(f"{name} in {path} must be finite; got NaN or infinite numbers")
    codes, means, mean = (tensors[name] for name in _AXES)
    if len(means) != len(codes) or means.shape[1:] != mean.shape:
        raise RunError(
            f"{path} must hold codes [count, m, n] of one picture, means [count, channels] and their mean [channels]; "
            f"got {list(codes.shape)}, {list(means.shape)} and {list(mean.shape)}"
        )
    shape, stride, gap = _numbers(path, metadata)
    samples = Samples(codes.new_zeros((len(codes), 0)), means, mean, shape, stride)
    return EncodedPicture(metadata["name"], codes, samples, gap, metadata["dictionary"])


def _numbers(path: Path, metadata: Mapping[str, str]) -> tuple[tuple[int, ...], int, float]:
    """Read the shape of the picture, the stride and the gap from the metadata."""
    read: dict[str, Any] = {}
    for name in _METADATA:
        if name not in metadata:
            raise RunError(f"{path} must name the {name} of its codes; got none")
    if not re.fullmatch("[0-9a-f]{16}", metadata["dictionary"]) or len(metadata["name"]) > _LONGEST_NAME:
        raise RunError(f"{path} must name a picture and the digest of a dictionary; got other or longer texts")
    for name in ("shape", "stride", "gap"):
        try:
            read[name] = json.loads(metadata[name])
        except (ValueError, RecursionError) as error:
            raise RunError(f"the {name} in {path} must be JSON; it cannot be read: {error}") from error
    shape, stride, gap = read["shape"], read["stride"], read["gap"]
    if not (isinstance(shape, list) and len(shape) in (2, 3) and all(map(_is_side, shape)) and _is_side(stride)):
        raise RunError(
            f"{path} must name the shape of a picture, [height, width] or [height, width, channels], and a stride, in "
            f"whole numbers; got {shape!r:.80} and {stride!r:.80}"
        )
    if type(gap) is not float or not gap >= 0:
        raise RunError(f"the gap in {path} must be a number, at least 0; got {gap!r:.80}")
    return tuple(shape), stride, gap


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value < _LARGEST_SIDE
