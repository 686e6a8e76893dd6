"""The manifest of a store: what its samples are, and which shards hold them."""

import json
import re
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gramian.activations.store.places import KINDS
from gramian.activations.store.statistics import Statistics
from gramian.coding.files.checksum import CHECKSUM
from gramian.errors import DataError, printable
from gramian.files import replace_file

__all__ = [
    "DTYPES",
    "FORMAT",
    "MANIFEST",
    "Layer",
    "Manifest",
    "Shard",
    "read_manifest",
    "shard_name",
    "write_manifest",
]

MANIFEST = "manifest.json"
FORMAT = "gramian-activations-1"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""The dtypes in which samples are stored."""

_SHARD = re.compile(r"activations-\d{5,}\.safetensors")
_LARGEST_FILE = 1 << 28


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"activations-{number:05d}.safetensors"


@dataclass(frozen=True)
class Shard:
    """A file of samples.

    Attributes:
        file: Its name in the folder of the store.
        samples: Number of samples.
        batches: Number of batches of inputs that it holds.
        documents: Number of documents of these batches.
        bytes: Size of the file.
        checksum: Checksum of its content.
    """

    file: str
    samples: int
    batches: int
    documents: int
    bytes: int
    checksum: str


@dataclass(frozen=True)
class Layer:
    """The samples of one module: their length l, mean and scale."""

    length: int
    mean: tuple[float, ...]
    scale: float

    def statistics(self, samples: int) -> Statistics:
        """Return mean and scale as tensors."""
        return Statistics(samples, torch.tensor(self.mean, dtype=torch.float64), self.scale)


@dataclass(frozen=True)
class Manifest:
    """The description of a store.

    Attributes:
        model: Name of the network, or the path of its files.
        dtype: 'float32' or 'bfloat16'.
        places: What positions count: 'tokens', 'patches' or 'rows'.
        settings: Options of the capture, in JSON; an interrupted capture continues only with the same options.
        layers: Length, mean and scale of the samples of each module, by its name.
        shards: The files, in order.
        complete: Whether the capture has reached its end.
    """

    model: str
    dtype: str
    places: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    layers: dict[str, Layer] = field(default_factory=dict[str, Layer])
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def samples(self) -> int:
        """Number of samples of each layer."""
        return sum(shard.samples for shard in self.shards)

    @property
    def batches(self) -> int:
        """Number of batches of inputs so far."""
        return sum(shard.batches for shard in self.shards)

    @property
    def documents(self) -> int:
        """Number of documents so far."""
        return sum(shard.documents for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a store atomically.

    Raises:
        RunError: If the file cannot be written.
    """
    content = {"format": FORMAT, **asdict(manifest), "samples": manifest.samples}
    content[CHECKSUM] = _checksum(content)
    replace_file(folder / MANIFEST, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a store and check it.

    Raises:
        DataError: If the folder holds no store, or its manifest is damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"a file of more than {_LARGEST_FILE} bytes")
        content: Any = json.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise DataError(
            f"{printable(folder)} must be a store of activations; got no {MANIFEST} there; try a folder that gramian "
            "capture wrote"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)[:200]
        raise DataError(f"{printable(path)} must be the manifest of a store; it cannot be read: {reason}") from error
    form = content.get("format") if isinstance(content, dict) else None
    if form != FORMAT:
        raise DataError(
            f"{printable(path)} must be the manifest of a store, of format {FORMAT!r}; got {form!r:.80}; try a folder "
            "that gramian capture wrote"
        )
    if content.get(CHECKSUM) != _checksum(content):
        raise DataError(f"{printable(path)} must match its checksum; got a file that was changed or damaged")
    try:
        manifest = _manifest(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{printable(path)} must be a whole manifest; got {printable(error)[:200]}") from error
    return manifest


def _manifest(content: dict[str, Any]) -> Manifest:
    layers = {
        name: Layer(int(layer["length"]), tuple(map(float, layer["mean"])), float(layer["scale"]))
        for name, layer in content["layers"].items()
    }
    shards = tuple(Shard(**shard) for shard in content["shards"])
    if content["dtype"] not in DTYPES or content["places"] not in KINDS:
        raise ValueError(f"dtype {content['dtype']!r} and places {content['places']!r}")
    if not layers or not shards or any(len(layer.mean) != layer.length for layer in layers.values()):
        raise ValueError("no layer, no shard, or a mean of another length")
    for shard in shards:
        if not _SHARD.fullmatch(shard.file):  # a name never leads out of the folder
            raise ValueError(f"a shard of the name {shard.file!r:.80}")
        if min(shard.samples, shard.batches, shard.bytes) < 1 or shard.documents < 0:
            raise ValueError(f"{shard.file} without samples")
    return Manifest(
        str(content["model"]), content["dtype"], content["places"], dict(content["settings"]), layers, shards,
        bool(content["complete"]),
    )  # fmt: skip


def _checksum(content: dict[str, Any]) -> str:
    others = {name: value for name, value in content.items() if name != CHECKSUM}
    return f"crc32:{zlib.crc32(json.dumps(others, sort_keys=True).encode()):08x}"
