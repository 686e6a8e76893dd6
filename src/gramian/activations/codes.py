"""Files of codes of activations: encode any number of samples, read the codes of some of them, and decode them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from gramian.activations.samples.preparation import Preparation
from gramian.activations.store.reader import Activations
from gramian.activations.store.tensors import Header, map_tensor, read_header, require_checksum, write_rows
from gramian.coding.encoders import SparseCodes
from gramian.coding.encoders.iterative import inferred
from gramian.coding.features.estimator import BlockFeatures
from gramian.coding.files.checksum import digest
from gramian.coding.inference import block_omp
from gramian.errors import DataError, RunError, printable
from gramian.files import atomic_path

__all__ = ["CODES", "ActivationCodes", "decode_activations", "encode_activations", "open_codes"]

CODES = "gramian-activation-codes-1"
"""The format of a file of codes, in its metadata."""

_PART = 1024
"""Samples that are encoded or decoded at once."""

_DTYPES = {"ends": torch.int64, "groups": torch.int32, "values": torch.float32}

Progress = Callable[[int], object]
"""A function that is called with the number of samples so far."""


@dataclass(frozen=True, repr=False)
class ActivationCodes:
    """The codes of activations in a file; only the requested samples are read.

    Attributes:
        path: The file.
        samples: Number of samples.
        n_groups: Number of groups m.
        size: Dimension n of a group.
        dictionary: Digest of the dictionary.
        unexplained: Fraction of Σ‖x‖² of the prepared samples that the codes leave unexplained.
        header: The header of the file.
    """

    path: Path
    samples: int
    n_groups: int
    size: int
    dictionary: str
    unexplained: float
    header: Header

    def __len__(self) -> int:
        return self.samples

    def __repr__(self) -> str:
        return (
            f"ActivationCodes(samples={self.samples}, m={self.n_groups}, n={self.size}, active={self.active:.3g}, "
            f"unexplained={self.unexplained:.2%})"
        )

    @property
    def active(self) -> float:
        """Mean number of active groups of a sample."""
        return self.header.tensors["groups"].shape[0] / self.samples

    def __getitem__(self, rows: Sequence[int] | slice | Int[Tensor, " rows"]) -> SparseCodes:
        """Read the codes of samples, in units of the scale of the dictionary.

        Raises:
            IndexError: If there is no such sample.
            DataError: If the file is damaged.
        """
        indices = np.arange(self.samples)[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        if indices.ndim != 1 or (len(indices) and not (indices.min() >= 0 and indices.max() < self.samples)):
            raise IndexError(f"rows must be numbers from 0 to {self.samples - 1}; got others, or more than one axis")
        ends, groups, values = (self._array(name) for name in _DTYPES)
        last = ends[indices]
        first = np.where(indices > 0, ends[np.maximum(indices - 1, 0)], 0)
        counts = last - first
        if len(indices) and not (counts.min() >= 0 and first.min() >= 0 and last.max() <= len(groups)):
            raise DataError(f"{printable(self.path)} must count the groups of each sample; got a damaged file")
        slots = np.arange(counts.max() if len(indices) else 0)
        used = slots < counts[:, None]
        places = np.where(used, first[:, None] + slots, 0)
        numbers = np.zeros(used.shape, np.int64)
        coefficients = np.zeros((*used.shape, self.size), np.float32)
        numbers[used], coefficients[used] = groups[places[used]], values[places[used]]
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < self.n_groups):
            raise DataError(f"{printable(self.path)} must number groups from 0 to {self.n_groups - 1}; got others")
        return SparseCodes(torch.from_numpy(numbers), torch.from_numpy(coefficients), self.n_groups)

    def verify(self) -> None:
        """Read the whole file, and check it against its checksum.

        Raises:
            RunError: If it was changed or damaged.
        """
        require_checksum(self.path, self.header)

    def _array(self, name: str) -> ndarray:
        return map_tensor(self.header.tensors[name])


def encode_activations(
    features: BlockFeatures,
    activations: Activations,
    path: Path,
    *,
    infer: bool = False,
    progress: Progress | None = None,
) -> ActivationCodes:
    """Encode activations, and write their codes to a file, part by part.

    Args:
        features: The learned features, for example from `BlockFeatures.load` with the file in the folder of a run.
        activations: The samples.
        path: The file; an existing one is replaced when all samples are encoded.
        infer: If true, infer codes by block orthogonal matching pursuit, which ends at `active` groups or, with 'fdr',
            at the false discovery rate; otherwise encode in one pass, by the encoder.
        progress: Called after each part.

    Returns:
        The codes in the file.

    Raises:
        DataError: If the samples do not have the length of those that the features were learned from, or cannot be
            read.
        RunError: If the file cannot be written.

    Cost:
        Memory for 1024 samples and their codes. The file takes 8 bytes for each sample and 4 + 4n for each active
        group; twice as much while it is written.

    Examples:
        >>> import tempfile
        >>> from gramian.activations import open_activations
        >>> x = torch.randn(200, 8)
        >>> features = BlockFeatures(n_groups=6, group_size=2, active=2, steps=20).fit(x)
        >>> path = Path(tempfile.mkdtemp()) / "codes.safetensors"
        >>> codes = encode_activations(features, open_activations(x), path)
        >>> codes[:5]
        SparseCodes(samples=5, m=6, n=2, active=2)
    """
    check_length(features, activations)
    preparation = _preparation(features)
    power = error = 0.0
    end = 0

    def parts() -> Iterator[Mapping[str, Tensor]]:
        nonlocal power, error, end
        for start in range(0, len(activations), _PART):
            x = preparation.prepare(activations[start : start + _PART]).to(features.module_.frames)
            codes = _inferred(features, x) if infer else features.module_.encode_all(x)
            power += float(x.double().square().sum())
            error += float((x - _decoded(features, codes)).double().square().sum())
            ends, columns, values = codes.entries()
            n = codes.values.shape[2]
            yield {
                "ends": end + ends[1:].cpu() // n,
                "groups": (columns[::n] // n).to(torch.int32).cpu(),
                "values": values.view(-1, n).float().cpu(),
            }
            end += int(ends[-1]) // n
            if progress is not None:
                progress(min(start + _PART, len(activations)))

    def metadata() -> Mapping[str, str]:
        return {
            "format": CODES, "dictionary": digest(features.phi_), "n_groups": json.dumps(features.module_.idle.numel()),
            "unexplained": json.dumps(error / power if power else 0.0),
        }  # fmt: skip

    write_rows(path, parts(), metadata)
    return open_codes(path)


def open_codes(path: Path) -> ActivationCodes:
    """Open a file of codes without reading them.

    Args:
        path: The file.

    Returns:
        The codes, which are read on request.

    Raises:
        DataError: If there is no such file, or it is not a complete file of safetensors.
        RunError: If it does not hold codes of activations.
    """
    header = read_header(path)
    if header.metadata.get("format") != CODES:
        raise RunError(
            f"{printable(path)} must hold codes of activations, of format {CODES!r}; got "
            f"{header.metadata.get('format')!r:.80}; try a file that gramian encode wrote"
        )
    shapes = {name: header.tensors[name].shape for name in _DTYPES if name in header.tensors}
    dtypes = {name: header.tensors[name].dtype for name in shapes}
    values = shapes.get("values", ())
    expected = {"ends": shapes.get("ends", ())[:1], "groups": values[:1], "values": values}
    if dtypes != _DTYPES or shapes != expected or len(values) != 2 or not all((*expected["ends"], values[1])):
        raise RunError(
            f"{printable(path)} must hold ends [samples], groups [active] and values [active, n]; got others"
        )
    ends = map_tensor(header.tensors["ends"])
    m, unexplained = (_number(path, header, name) for name in ("n_groups", "unexplained"))
    if type(m) is not int or m < 1 or ends[-1] != values[0]:
        raise RunError(f"{printable(path)} must count its groups; got {m!r:.80}, and {values[0]} that are active")
    dictionary = header.metadata.get("dictionary", "")
    return ActivationCodes(path, len(ends), m, values[1], dictionary, float(unexplained), header)


def decode_activations(
    features: BlockFeatures, codes: ActivationCodes, path: Path, *, progress: Progress | None = None
) -> None:
    """Reconstruct activations from their codes, and write them as an array `.npy` [samples, l], part by part.

    Args:
        features: The features that encoded the samples.
        codes: The codes.
        path: The file; an existing one is replaced.
        progress: Called after each part.

    Raises:
        RunError: If the codes belong to another dictionary, or the file cannot be written.
        DataError: If the file of codes is damaged.
    """
    if codes.dictionary != digest(features.phi_):
        raise RunError(
            f"the codes in {printable(codes.path)} must be decoded with the dictionary that encoded them, "
            f"{codes.dictionary:.80}; got {digest(features.phi_)}"
        )
    length, preparation = len(features.phi_), _preparation(features)
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(codes), length)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(codes), _PART):
            part, frames = codes[start : start + _PART], features.module_.frames
            part = part._replace(groups=part.groups.to(frames.device), values=part.values.to(frames))
            x = preparation.restore(_decoded(features, part).double().cpu())
            file.write(x.to(torch.float32).contiguous().numpy().astype("<f4", copy=False).data)
            if progress is not None:
                progress(min(start + _PART, len(codes)))


def check_length(features: BlockFeatures, activations: Activations) -> None:
    """Check that samples have the length of those that features were learned from.

    Raises:
        DataError: If they do not.
    """
    if activations.length != len(features.phi_):
        raise DataError(
            f"activations must have the length {len(features.phi_)} of those that the dictionary was learned from; got "
            f"{activations.length}; try the same layer"
        )


def _preparation(features: BlockFeatures) -> Preparation:
    return Preparation(torch.as_tensor(features.mean_), features.scale_)


def _inferred(features: BlockFeatures, x: Tensor) -> SparseCodes:
    rule: dict[str, Any] = {"fdr": features.rate} if features.select == "fdr" else {"active": features.active}
    frames = features.module_.frames.detach()
    return inferred(x, frames, partial(block_omp, **rule), lam=1.0, prior="group_l0", max_iter=500, tol=1e-4)


@torch.no_grad()
def _decoded(features: BlockFeatures, codes: SparseCodes) -> Tensor:
    return features.module_.decode(codes)


def _number(path: Path, header: Header, name: str) -> Any:
    try:
        value = json.loads(header.metadata[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise RunError(f"{printable(path)} must name the {name} of its codes; got none") from error
    if type(value) not in (int, float) or not value >= 0:
        raise RunError(f"the {name} in {printable(path)} must be a number, at least 0; got {value!r:.80}")
    return value
