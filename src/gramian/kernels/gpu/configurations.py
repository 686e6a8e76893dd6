"""The configurations of device code: candidates of tiles and warps, the one in use, and the file of measured ones.

A launcher names a function, a class of shapes and a few candidates, of which the first is the default. The file, which
`gramian.kernels.tune` writes, is read once, at the first launch. A configuration in it is used only if it is one of the
candidates, so a damaged file cannot change what is computed.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gramian.errors import RunError
from gramian.files import replace_file
from gramian.typing import Phi

__all__ = [
    "Configuration",
    "Query",
    "TrialError",
    "configuration",
    "forget",
    "is_trial",
    "path",
    "queries",
    "save",
    "shape_class",
    "trial",
]

Configuration = dict[str, int]
"""Constants of a function, with `num_warps` and `num_stages`."""

_FORMAT = 1
_EXACT = 64
"""Groups up to this size are each a class, because the columns of a tile depend on n."""

_queries: ContextVar[list["Query"] | None] = ContextVar("queries", default=None)
_trial: ContextVar[Mapping[str, Configuration] | None] = ContextVar("trial", default=None)
_in_use: dict[tuple[torch.device, str], Configuration] = {}


class TrialError(Exception):
    """A configuration that is tried does not compile, or does not fit the device."""


class Query(NamedTuple):
    """A launcher's question which configuration to use."""

    key: str
    """The function, its dtype and the class of shapes."""
    candidates: Sequence[Configuration]
    """The default first."""


def shape_class(phi: Phi) -> str:
    """Describe the dtype, the shape and the memory order of Φ, with sizes rounded up to powers of two."""
    return _describe(phi.dtype, phi.shape, rows=phi.stride(2) == 1)


@lru_cache(maxsize=4096)
def _describe(dtype: torch.dtype, shape: tuple[int, int, int], *, rows: bool) -> str:
    length, m, n = (1 << max(0, size - 1).bit_length() for size in shape)
    exact = shape[2]
    members = str(exact) if exact <= _EXACT else f"{n}{'' if exact % 16 == 0 else ' unaligned'}"
    return f"{str(dtype)[6:]} l={length} m={m} n={members} {'rows' if rows else 'columns'}"


def configuration(key: str, device: torch.device, candidates: Callable[[], Sequence[Configuration]]) -> Configuration:
    """Return the configuration of a launch: the one that is tried, the measured one, or the default.

    Args:
        key: The function, its dtype and the class of shapes.
        device: The device of the launch.
        candidates: Returns all configurations that may be used, the default first.
    """
    asked, tried = _queries.get(), _trial.get()
    if asked is not None and all(query.key != key for query in asked):
        asked.append(Query(key, candidates()))
    if tried is not None:
        return tried.get(key) or candidates()[0]
    found = _in_use.get((device, key))
    if found is None:
        among = candidates()
        measured = _measured(device).get(key)
        found = _in_use[device, key] = next((each for each in among if each == measured), among[0])
    return found


@contextmanager
def queries() -> Generator[list[Query]]:
    """Record the queries of the launches within a `with` block, each once."""
    asked: list[Query] = []
    token = _queries.set(asked)
    try:
        yield asked
    finally:
        _queries.reset(token)


@contextmanager
def trial(configurations: Mapping[str, Configuration]) -> Generator[None]:
    """Use some configurations, and the default for all other keys, within a `with` block."""
    token = _trial.set(configurations)
    try:
        yield
    finally:
        _trial.reset(token)


def is_trial() -> bool:
    """Tell whether a configuration is tried, so that a failure must be told and not mended."""
    return _trial.get() is not None


def path() -> Path:
    """Return the path of the file: gramian/gpu.json in the folder $XDG_CACHE_HOME, which is ~/.cache by default."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(folder).expanduser() / "gramian" / "gpu.json"


def save(device: torch.device, found: Mapping[str, Configuration]) -> Path:
    """Add measured configurations of a device to the file, and use them from now on.

    Raises:
        RunError: If the file cannot be written.
    """
    target, name = path(), _name(device)
    devices = {}
    with suppress(ValueError):
        devices = _read(target)
    entry = devices.get(name, {})
    known = entry["configurations"] if entry.get("versions") == _versions() else {}
    devices[name] = {"versions": _versions(), "configurations": {**known, **found}}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise RunError(f"the folder {target.parent} could not be created: {failure.strerror or failure}") from failure
    replace_file(target, json.dumps({"format": _FORMAT, "devices": devices}, indent=1, sort_keys=True).encode())
    forget()
    return target


def forget() -> None:
    """Forget what was read, so that the file is read again."""
    _in_use.clear()
    _content.cache_clear()


def _measured(device: torch.device) -> dict[str, Any]:
    """Return the configurations of a device in the file."""
    return _content().get(_name(device), {}) if device.type == "cuda" else {}


@cache
def _content() -> dict[str, dict[str, Any]]:
    """Read the configurations of every device, with a warning if there are some that cannot be used."""
    try:
        devices = _read(path())
    except ValueError as error:
        warnings.warn(f"{error}, so it is ignored; gramian.kernels.tune replaces it", RuntimeWarning, stacklevel=4)
        return {}
    current = {name: each for name, each in devices.items() if each["versions"] == _versions()}
    if len(current) < len(devices):
        warnings.warn(
            f"{path()} has configurations for other versions of gramian or Triton, which are ignored; "
            "gramian.kernels.tune replaces them",
            RuntimeWarning,
            stacklevel=4,
        )
    return {name: each["configurations"] for name, each in current.items()}


def _read(source: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of the file, none if there is no file.

    Raises:
        ValueError: If it is not such a file.
    """
    try:
        content = json.loads(source.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{source} must be a file of configurations; got {type(error).__name__}") from error
    devices = content.get("devices") if isinstance(content, dict) and content.get("format") == _FORMAT else None
    if not isinstance(devices, dict) or not all(
        isinstance(each, dict) and isinstance(each.get("configurations"), dict) and "versions" in each
        for each in devices.values()
    ):
        raise ValueError(f"{source} must be a file of configurations in format {_FORMAT}; got another content")
    return devices


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _versions() -> dict[str, str]:
    """Return the version of Triton, and a digest of the device code and of its launchers."""
    import triton

    folder, digest = Path(__file__).parent, hashlib.sha256()
    for source in sorted([*folder.glob("*.py"), *(folder / "triton_code").glob("*.py")]):
        digest.update(source.read_bytes())
    return {"triton": triton.__version__, "device code": digest.hexdigest()[:16]}
