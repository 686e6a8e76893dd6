"""Files of tensors that tell whether they are whole: safetensors, with a checksum over everything that they hold."""

import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gramian.errors import RunError
from gramian.files import replace_file

__all__ = ["CHECKSUM", "read_sealed", "sealed", "write_sealed"]

CHECKSUM = "checksum"
"""The name of the checksum in the metadata of a file."""

_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, MemoryError)
"""What readers of safetensors raise for a file that is none, or whose tensors torch does not know."""


def write_sealed(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata in one stroke, with their checksum.

    Raises:
        RunError: If the file cannot be written.
    """
    stored = {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
    replace_file(path, save(stored, sealed(stored, metadata)))


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Give metadata with the checksum of it and of tensors.

    It is the CRC-32 of all names, types, shapes and numbers, so it finds damage, as of a disk or a copy, and not what
    somebody has changed on purpose. A file read by other means may be written again without it.

    Cost:
        About 0.35 s per gigabyte.

    Examples:
        >>> sealed({"phi": torch.ones(3)}, {"format": "example"})
        {'format': 'example', 'checksum': '"crc32:d55c6ced"'}
    """
    return {**metadata, CHECKSUM: json.dumps(f"crc32:{_crc32(tensors, metadata):08x}")}


def read_sealed(
    path: Path, *, kind: str, form: str, command: str, known: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of tensors and check that it is whole.

    Args:
        path: The file.
        kind: What it holds, in one word.
        form: Its format, as its metadata name it.
        command: The command that writes such files.
        known: The metadata of files that were written before there were checksums.

    Returns:
        The tensors, and the metadata but for the checksum.

    Raises:
        RunError: If there is no such file, it is of another format, cannot be read, or was changed since it was
            written.
    """
    try:
        with path.open("rb") as opened:
            # The library opens files by names in UTF-8 alone; the descriptor has a name in any case.
            name = str(path) if _is_utf8(path) else f"/dev/fd/{opened.fileno()}"
            with safe_open(name, framework="pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    except FileNotFoundError as error:
        raise RunError(f"there must be a {kind} file at {path}; got no such file") from error
    except OSError as error:
        raise RunError(f"{path} must be a whole {kind} file; it cannot be read: {error.strerror or error}") from error
    except _UNREADABLE as error:
        raise RunError(f"{path} must be a whole {kind} file; it cannot be read: {error}") from error
    if metadata.get("format") != form:
        raise RunError(
            f"{path} must be a {kind} file of format {form!r}; got {metadata.get('format')!r:.80}; try a file that "
            f"{command} has written"
        )
    checksum = metadata.pop(CHECKSUM, None)
    if checksum is None:
        if metadata.keys() != set(known):
            raise RunError(
                f"{path} must be a {kind} file with the metadata {', '.join(sorted(known))}; got others or fewer, and "
                f"no checksum; try a file that {command} has written"
            )
    elif checksum != sealed(tensors, metadata)[CHECKSUM]:
        raise RunError(
            f"{path} must be as {command} has written it; its checksum says that it was changed or damaged since; try "
            "a copy of it"
        )
    return tensors, metadata


def _crc32(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    crc = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        crc = zlib.crc32(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode(), crc)
        if tensor.numel():
            crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
