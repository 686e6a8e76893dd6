"""The settings that determine the result of a learning run on activations, their checks, and their file."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from gramian.coding.features.options import FeatureOptions
from gramian.coding.runs.run import RunOptions
from gramian.errors import OptionError, RunError, printable
from gramian.options import real_number, whole_number

__all__ = ["FeatureSettings", "check_device", "read_settings", "settings_text"]

_COUNTS = ("groups", "size", "active", "steps", "batch", "report_every")
_SEEDS = (-(2**63), 2**63 - 1)
_LONGEST_FILE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(RunOptions, FeatureOptions):
    """The settings of a run on activations: those of the loop, of the features, and of the samples.

    Attributes:
        store: Folder of a store, or a file `.npy` or `.safetensors`.
        layer: The layer of the store; None if it has only one.
        centre: Whether to subtract the mean of the activations.
        warm_up: Number of steps over which the learning rate rises from 0 to its cosine schedule.

    Raises:
        OptionError: If a value has the wrong type, or is out of range.
    """

    store: str
    layer: str | None = None
    centre: bool = True
    warm_up: int = 0
    groups: int = 512
    batch: int = 512
    steps: int = 4000
    lr: float = 3e-3
    active: int = 16

    def __post_init__(self) -> None:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("encoder", "select"):
            if not _is_text(values[name]):
                raise OptionError(f"{name} must be a name; got {values[name]!r:.80}")
        super().__post_init__()
        if not (values["infer"] is None or _is_text(values["infer"])):
            raise OptionError(f"infer must be a name, or None; got {values['infer']!r:.80}")
        if not _is_text(values["store"]) or not (values["layer"] is None or _is_text(values["layer"])):
            raise OptionError(f"store and layer must be text; got {values['store']!r:.80} and {values['layer']!r:.80}")
        if type(values["centre"]) is not bool:
            raise OptionError(f"centre must be True or False; got {values['centre']!r:.80}")
        for name in _COUNTS:
            whole_number(values[name], name=name)
        whole_number(values["warm_up"], name="warm_up", least=0)
        seed = whole_number(values["seed"], name="seed", least=None)
        if not _SEEDS[0] <= seed <= _SEEDS[1]:
            raise OptionError(f"seed must be at most 63 bits; got {seed.bit_length()}; try seed=0")
        real_number(values["lr"], name="lr", attempt="3e-3")
        if self.active > self.groups:
            raise OptionError(
                f"the number of active groups must be at most that of groups, {self.groups}; got {self.active}"
            )
        check_device(values["device"])


def check_device(device: Any) -> None:
    """Check that torch can use a device.

    Raises:
        OptionError: If it cannot.
    """
    try:
        torch.zeros(1, device=device).cpu()  # 'meta' has no storage
    except (RuntimeError, AssertionError, ImportError, ValueError, TypeError) as error:
        raise OptionError(
            f"device must be available to torch and have storage; got {device!r:.80}; try 'cpu'"
        ) from error


def settings_text(settings: FeatureSettings) -> str:
    """Return the content of a file of settings."""
    return json.dumps(asdict(settings), indent=2) + "\n"


def read_settings(path: Path) -> FeatureSettings:
    """Read a file of settings and check every one.

    Raises:
        RunError: If there is no such file, or it does not hold the settings of a run on activations.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "settings.json"
        >>> _ = path.write_text(settings_text(FeatureSettings(store="activations", groups=32)))
        >>> read_settings(path).groups
        32
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
        if len(content) > _LONGEST_FILE:
            raise ValueError(f"more than {_LONGEST_FILE} bytes")
        stored: Any = json.loads(content.decode())
    except FileNotFoundError as error:
        raise RunError(f"there must be settings at {printable(path)}; got no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)[:200]
        raise RunError(f"{printable(path)} must hold the settings of a run as JSON; got {reason}") from error
    known = {field.name for field in fields(FeatureSettings)}
    if not isinstance(stored, dict) or stored.keys() != known:
        names = sorted(known ^ stored.keys()) if isinstance(stored, dict) else []
        got = f"other names: {', '.join(map(repr, names[:6]))}" if names else "no object"
        raise RunError(f"{printable(path)} must hold the settings of a run on activations, and no others; got {got}")
    try:
        return FeatureSettings(**stored)
    except OptionError as error:
        raise RunError(f"{printable(path)} must hold the settings of a run: {error}") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str)
