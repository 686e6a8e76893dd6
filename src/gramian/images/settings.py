"""The settings that determine the result of a learning run on pictures, their checks, and their file."""

import json
import math
import reprlib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from gramian.coding.inference import METHODS
from gramian.coding.learning.options import UPDATES
from gramian.coding.priors import PRIORS
from gramian.coding.runs.dictionary_run import DictionaryOptions
from gramian.errors import OptionError, RunError
from gramian.images.samples import WHITENINGS
from gramian.penalties import PENALTIES
from gramian.rules import RULES

__all__ = ["RunSettings", "read_settings", "settings_text"]

_COUNTS = ("groups", "size", "steps", "batch", "iterations", "report_every", "patience", "spread")
_STRENGTHS = ("lam", "beta", "lr")
_NAMES: Mapping[str, Collection[str]] = {
    "whiten": WHITENINGS,
    "update": UPDATES,
    "prior": PRIORS,
    "infer": METHODS,
    "rule": RULES,
    "penalty": PENALTIES,
}
_LARGEST_COUNT = 2**63 - 1
_SEEDS = (-(2**63), 2**64 - 1)
"""Range of seeds that a generator of torch accepts."""
_LARGEST = 1e30
"""Bound of strengths, which are multiplied in float32: its range is 1e-38 to 3e38."""
_LONGEST_FILE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RunSettings(DictionaryOptions):
    """The settings of a run on pictures: those of any run, and those of the samples.

    Attributes:
        images: Folder of pictures, array of pictures or film; None for those that scikit-image and scikit-learn ship.
        colour: Whether to learn from colours instead of luminance.
        whiten: 'fourier', 'zca' or 'none'.
        patch: Side of a patch, pixels.

    Raises:
        OptionError: If a value has the wrong type, or is out of range.
    """

    images: str | None = None
    colour: bool = False
    whiten: str = "fourier"
    patch: int = 16

    def __post_init__(self) -> None:
        values = asdict(self)
        if not (self.images is None or (_is_text(self.images) and "\0" not in self.images)):
            raise OptionError(f"images must be a path as text, or None; got {_describe(self.images)}")
        if type(values["colour"]) is not bool:
            raise OptionError(f"colour must be True or False; got {_describe(self.colour)}")
        for name in _COUNTS:
            _check_whole(name, values[name], 1, _LARGEST_COUNT)
        _check_whole("patch", self.patch, 2, _LARGEST_COUNT, unit=" pixels", remedy="; try 16")
        _check_whole("seed", self.seed, *_SEEDS)
        for name in _STRENGTHS:
            _check_strength(name, values[name])
        for name, known in _NAMES.items():
            if not _is_text(values[name]) or values[name] not in known:
                raise OptionError(f"{name} must be one of {', '.join(known)}; got {_describe(values[name])}")
        if self.size > self.length:
            raise OptionError(
                f"a group can hold at most as many orthonormal atoms as a patch has numbers, {self.length}; got size "
                f"{self.size}; try smaller groups or larger patches"
            )
        if self.target_active is not None:
            _check_number("target_active", self.target_active)
            if not 0 < self.target_active <= self.groups:
                raise OptionError(
                    f"target_active must lie between 0 and the number of groups; got {_describe(self.target_active)}"
                )
        _check_device(self.device)

    @property
    def length(self) -> int:
        """Length l of a patch: pixels times channels."""
        return self.patch**2 * (3 if self.colour else 1)


def settings_text(settings: RunSettings) -> str:
    """Return the content of a file of settings."""
    return json.dumps(asdict(settings), indent=2) + "\n"


def read_settings(path: Path) -> RunSettings:
    """Read a file of settings and check every one.

    Raises:
        RunError: If there is no such file, or it does not hold the settings of a run.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "settings.json"
        >>> _ = path.write_text(settings_text(RunSettings(groups=8)))
        >>> read_settings(path).groups
        8
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
    except FileNotFoundError as error:
        raise RunError(f"there must be settings at {path}; got no such file") from error
    except OSError as error:
        raise RunError(f"{path} could not be read: {error.strerror or error}") from error
    if len(content) > _LONGEST_FILE:
        raise RunError(f"{path} must hold the settings of a run; got a file of more than {_LONGEST_FILE} bytes")
    try:
        stored: object = json.loads(content.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, too many digits, or nested too deep
        raise RunError(f"{path} must hold the settings of a run as JSON; it cannot be read: {error}") from error
    if not isinstance(stored, dict):
        raise RunError(f"{path} must hold the settings of a run as a JSON object; got {type(stored).__name__}")
    values: dict[str, Any] = {str(name): value for name, value in stored.items()}
    known = {field.name for field in fields(RunSettings)}
    missing, unknown = sorted(known - values.keys()), sorted(values.keys() - known)
    if missing:
        raise RunError(f"{path} must hold all settings of a run; {', '.join(missing)} missing")
    if unknown:
        raise RunError(
            f"{path} must hold only settings of this version of gramian; got {reprlib.repr(unknown)} as well"
        )
    try:
        return RunSettings(**values)
    except OptionError as error:
        raise RunError(f"{path} must hold the settings of a run: {error}") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_whole(name: str, value: object, least: int, most: int, *, unit: str = "", remedy: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} must be a whole number; got {_describe(value)}")
    if value < least:
        raise OptionError(f"{name} must be at least {least}{unit}; got {_describe(value)}{remedy}")
    if value > most:
        raise OptionError(f"{name} must be at most {most}{unit}; got {_describe(value)}{remedy}")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{name} must be a number; got {_describe(value)}")


def _check_strength(name: str, value: float) -> None:
    _check_number(name, value)
    if not (value > 0 and (isinstance(value, int) or math.isfinite(value))):
        raise OptionError(f"{name} must be a positive finite number; got {_describe(value)}")
    if not 1 / _LARGEST <= value <= _LARGEST:
        raise OptionError(f"{name} must lie between {1 / _LARGEST:g} and {_LARGEST:g}; got {_describe(value)}")


def _check_device(device: object) -> None:
    if not isinstance(device, str):
        raise OptionError(f"device must be a name such as 'cpu'; got {_describe(device)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about former device names, then raises
            torch.zeros(1, device=device).cpu()  # 'meta' has no storage
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        raise OptionError(
            f"device must be available to torch and have storage; got {_describe(device)}; try 'cpu'"
        ) from error


def _describe(value: object) -> str:
    """Format a value for a message: short, and with its type unless that is None, a number or text."""
    if isinstance(value, int) and value.bit_length() > 80:
        return f"a number of {value.bit_length()} bits"
    text = reprlib.repr(value)
    plain = value is None or (isinstance(value, int | float | str) and not isinstance(value, bool))
    return text if plain else f"{text} ({type(value).__name__})"
