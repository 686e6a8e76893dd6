"""Pictures as codes, in files, and back."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gramian.coding.inference import check_stop
from gramian.coding.methods import METHODS
from gramian.coding.options import real_number, whole_number
from gramian.coding.prior import PRIORS, Codes, energy, group_norms, reconstruct
from gramian.coding.storage import Dictionary
from gramian.data import Picture, Samples
from gramian.errors import DataError, OptionError, RunError
from gramian.files import replace_file

__all__ = ["EncodedPicture", "check_coding", "decode_picture", "encode_picture", "load_codes", "save_codes"]

_FORMAT = "gramian-codes-1"
_AT_ONCE = 4096


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as codes of overlapping patches.

    Attributes:
        name: Name of the picture.
        codes: Codes of all patches, row by row, [count, m, n].
        samples: The patches, without their numbers: means, shape, stride.
        gap: Largest duality gap of a patch over its energy.
        dictionary: Which dictionary it was coded with: a digest of its atoms.
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
    """Code a picture, patch by patch.

    Args:
        picture: A picture with the channels of the dictionary.
        dictionary: A learned dictionary.
        stride: Distance between patches, pixels; default half a patch.
        tol: Relative duality gap at which a patch is done.
        max_iter: Most iterations.

    Returns:
        The codes, with what is needed to decode them.

    Raises:
        DataError: If the picture is smaller than a patch, or has other channels.
        OptionError: If the stride leaves gaps, or the tolerance is negative or no number.
    """
    check_coding(dictionary, [picture], stride=stride, tol=tol, max_iter=max_iter)
    size = dictionary.preparation.size
    samples = dictionary.preparation.samples(picture.pixels, stride=max(1, size // 2) if stride is None else stride)
    method = METHODS[dictionary.infer]
    parts = [
        method(x, dictionary.phi, lam=dictionary.lam, prior=dictionary.prior, tol=tol, max_iter=max_iter)
        for x in samples.x.to(dictionary.phi).split(_AT_ONCE)
    ]
    codes = torch.cat([part.codes for part in parts])
    total = energy(samples.x, dictionary.phi, codes, dictionary.lam, PRIORS[dictionary.prior]).total
    gap = torch.cat([part.gap for part in parts]) / total.clamp_min(torch.finfo(total.dtype).tiny)
    return EncodedPicture(picture.name, codes, samples, float(gap.clamp_min(0).max()), _digest(dictionary.phi))


def check_coding(
    dictionary: Dictionary,
    pictures: Sequence[Picture] = (),
    *,
    stride: int | None,
    tol: float,
    max_iter: int = 2000,
) -> None:
    """Check how pictures are to be coded, before any is.

    Raises:
        DataError: If one of the pictures is smaller than a patch.
        OptionError: If the stride leaves gaps or is no whole number, or the tolerance is negative or no number.
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
    """Give the picture that codes stand for, in [0, 1].

    Raises:
        RunError: If the codes were made with another dictionary, or are not those of a picture.
    """
    if encoded.dictionary != _digest(dictionary.phi):
        raise RunError(
            f"the codes of {encoded.name} must be decoded with the dictionary that made them, {encoded.dictionary}; "
            f"got {_digest(dictionary.phi)}"
        )
    codes, samples, channels = encoded.codes, encoded.samples, dictionary.preparation.channels
    if codes.shape[1:] != dictionary.phi.shape[1:] or {samples.means.shape[1:], samples.mean.shape} != {(channels,)}:
        raise RunError(
            f"the codes of {encoded.name} must be [count, m, n] with means of {channels} channels, as the dictionary "
            f"is; got {list(codes.shape)} with {list(samples.means.shape)} and {list(samples.mean.shape)}"
        )
    return dictionary.preparation.picture(reconstruct(dictionary.phi, codes), samples)


def save_codes(path: Path, encoded: EncodedPicture) -> None:
    """Write codes in one stroke.

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
    replace_file(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def load_codes(path: Path) -> EncodedPicture:
    """Read codes and check them.

    Raises:
        RunError: If there is no such file, or it does not hold whole codes.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise RunError(
                    f"{path} must hold codes of format {_FORMAT!r}; got {metadata.get('format')!r}; try a file that "
                    "gramian encode has written"
                )
            codes, means, mean = (file.get_tensor(name) for name in ("codes", "means", "mean"))
        shape = tuple(int(side) for side in json.loads(metadata["shape"]))
        samples = Samples(codes.new_zeros((len(codes), 0)), means, mean, shape, int(json.loads(metadata["stride"])))
        encoded = EncodedPicture(
            metadata["name"], codes, samples, float(json.loads(metadata["gap"])), metadata["dictionary"]
        )
    except FileNotFoundError as error:
        raise RunError(f"there must be codes at {path}; got no such file") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} must hold whole codes; it cannot be read: {error}") from error
    if codes.ndim != 3 or len(means) != len(codes) or len(shape) not in (2, 3):
        raise RunError(f"{path} must hold codes [count, m, n] of one picture; got {list(codes.shape)} and {shape}")
    return encoded


def _digest(phi: Tensor) -> str:
    return hashlib.sha256(phi.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
