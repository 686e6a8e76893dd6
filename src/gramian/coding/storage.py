"""Dictionaries in files: safetensors with everything that is needed to encode, and to go on learning."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gramian.coding.methods import METHODS
from gramian.coding.prior import PRIORS
from gramian.coding.sealed import read_sealed, write_sealed
from gramian.data import WHITENINGS, Preparation, ZCAWhitening
from gramian.errors import RunError
from gramian.typing import Phi

__all__ = ["LAYOUT", "Dictionary", "load_dictionary", "save_dictionary"]

LAYOUT = "l m n -> l m n"
"""The layout of the tensor `phi` in a dictionary file, as an einops pattern."""

_FORMAT = "gramian-dictionary-2"
_ZCA = ("mean", "matrix", "inverse")
_NUMBERS = ("size", "channels", "whiten", "scale", "cutoff", "lam", "prior", "infer")
_REALS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST_SIDE = 1 << 20
_LARGEST_NUMBER = 1e30


@dataclass(frozen=True)
class Dictionary:
    """A learned dictionary, and how its samples were made and coded.

    Attributes:
        phi: Φ[l, m, n].
        initial_phi: Φ before the first step.
        preparation: How samples are made of pictures.
        lam: Sparsity λ that codes are inferred with.
        prior: Name of the prior.
        infer: Name of the inference method.
        state: What a `Learner` needs to go on.
    """

    phi: Phi
    initial_phi: Phi
    preparation: Preparation
    lam: float
    prior: str = "group_laplace"
    infer: str = "fista"
    state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def step(self) -> int:
        """How many learning steps were made."""
        return int(self.state["steps"]) if "steps" in self.state else 0


def save_dictionary(path: Path, dictionary: Dictionary) -> None:
    """Write a dictionary in one stroke.

    Raises:
        RunError: If the file cannot be written.
    """
    preparation = dictionary.preparation
    numbers: dict[str, Any] = {
        "size": preparation.size,
        "channels": preparation.channels,
        "whiten": preparation.whiten,
        "scale": preparation.scale,
        "cutoff": preparation.cutoff,
        "lam": dictionary.lam,
        "prior": dictionary.prior,
        "infer": dictionary.infer,
    }
    tensors: dict[str, Tensor] = {"phi": dictionary.phi, "initial_phi": dictionary.initial_phi}
    if preparation.mixing is not None:
        tensors["mixing"] = preparation.mixing
    if preparation.zca is not None:
        tensors |= {f"zca.{name}": getattr(preparation.zca, name) for name in _ZCA}
    tensors |= {f"state.{name}": tensor for name, tensor in dictionary.state.items() if name != "phi"}
    metadata = {"format": _FORMAT, "layout": LAYOUT, **{key: json.dumps(value) for key, value in numbers.items()}}
    write_sealed(path, tensors, metadata)


def load_dictionary(path: Path) -> Dictionary:
    """Read a dictionary and check it.

    Raises:
        RunError: If there is no such file, or it is not a whole dictionary of this format.

    Examples:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "dictionary.safetensors"
        >>> phi = torch.randn(64, 8, 4)
        >>> save_dictionary(path, Dictionary(phi, phi, Preparation(size=8), lam=2.0))
        >>> torch.equal(load_dictionary(path).phi, phi)
        True
    """
    tensors, metadata = read_sealed(
        path, kind="dictionary", form=_FORMAT, command="gramian learn", known=("format", "layout", *_NUMBERS)
    )
    numbers = _numbers(path, metadata)
    size, channels, whiten = numbers["size"], numbers["channels"], numbers["whiten"]
    length = size**2 * channels
    if "phi" not in tensors or tensors["phi"].ndim != 3 or tensors["phi"].shape[0] != length:
        got = list(tensors["phi"].shape) if "phi" in tensors else "none"
        raise RunError(f"{path} must hold phi[l, m, n] with l = {size}² pixels × {channels} channels; got {got}")
    phi = tensors["phi"]
    _, m, n = phi.shape
    shapes: dict[str, tuple[int, ...]] = {"phi": (length, m, n), "initial_phi": (length, m, n)}
    if whiten == "zca":
        shapes |= {"zca.mean": (length,), "zca.matrix": (length, length), "zca.inverse": (length, length)}
    if "mixing" in tensors:
        shapes["mixing"] = (channels, channels)
    for name, of_atoms in (("lam", ()), ("aa", (m * n, m * n)), ("xa", (length, m * n))):
        if f"state.{name}" in tensors:
            shapes[f"state.{name}"] = of_atoms
    for name, shape in shapes.items():
        _check_reals(path, tensors, name, shape)
    _check_whitening(path, whiten, tensors)
    state = {name.removeprefix("state."): tensors[name] for name in tensors if name.startswith("state.")}
    _check_counts(path, state, m)
    zca = ZCAWhitening(**{name: tensors[f"zca.{name}"] for name in _ZCA}) if whiten == "zca" else None
    return Dictionary(
        phi=phi,
        initial_phi=tensors["initial_phi"],
        preparation=Preparation(
            size, channels, whiten, numbers["scale"], numbers["cutoff"], tensors.get("mixing"), zca
        ),
        lam=numbers["lam"],
        prior=numbers["prior"],
        infer=numbers["infer"],
        state={"phi": phi, **state} if state else {},
    )


def _numbers(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the numbers and names among the metadata, each of its type and in its range."""
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        try:
            numbers[name] = json.loads(metadata[name])
        except KeyError as error:
            raise RunError(f"{path} must name the {name} of its dictionary; got none") from error
        except (ValueError, RecursionError) as error:
            raise RunError(f"the {name} in {path} must be JSON; it cannot be read: {error}") from error
    for name in ("size", "channels"):
        if type(numbers[name]) is not int or not 1 <= numbers[name] < _LARGEST_SIDE:
            raise RunError(f"the {name} in {path} must be a positive whole number; got {numbers[name]!r:.80}")
    for name in ("scale", "cutoff", "lam"):
        value = numbers[name]
        if type(value) not in (int, float) or not 0 < value <= _LARGEST_NUMBER:
            raise RunError(f"the {name} in {path} must be a positive finite number; got {value!r:.80}")
        numbers[name] = float(value)
    for name, known in (("whiten", WHITENINGS), ("prior", PRIORS), ("infer", METHODS)):
        if not isinstance(numbers[name], str) or numbers[name] not in known:
            raise RunError(
                f"the {name} in {path} must be one of {', '.join(map(repr, known))}; got {numbers[name]!r:.80}"
            )
    return numbers


def _check_reals(path: Path, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != shape:
        got = "none" if tensor is None else list(tensor.shape)
        raise RunError(f"{path} must hold {name} of shape {list(shape)}, as its other parts are; got {got}")
    if tensor.dtype not in _REALS:
        raise RunError(f"{name} in {path} must be real floating-point numbers; got {tensor.dtype}")
    if not bool(tensor.isfinite().all()):
        raise RunError(f"{name} in {path} must be finite; got NaN or infinite numbers")


def _check_whitening(path: Path, whiten: str, tensors: Mapping[str, Tensor]) -> None:
    if whiten != "zca" and any(f"zca.{name}" in tensors for name in _ZCA):
        raise RunError(f"{path} must hold the whitening of patches for 'zca' alone; got one, and {whiten!r}")
    mixing = tensors.get("mixing")
    if mixing is None:
        return
    if whiten != "fourier" or len(mixing) == 1:
        raise RunError(f"{path} must hold the mixing of channels for colours whitened by 'fourier' alone; got one")
    _, info = torch.linalg.inv_ex(mixing.double())
    if int(info) != 0:
        raise RunError(f"the mixing of channels in {path} must be one that can be undone; got a singular matrix")


def _check_counts(path: Path, state: Mapping[str, Tensor], m: int) -> None:
    for name, shape in (("steps", ()), ("idle", (m,))):
        counts = state.get(name)
        if counts is None:
            continue
        if counts.dtype != torch.int64 or counts.shape != shape or bool((counts < 0).any()):
            raise RunError(
                f"state.{name} in {path} must be whole numbers, at least 0, of shape {list(shape)}; got {counts.dtype} "
                f"{list(counts.shape)}, or negative ones"
            )
    lam = state.get("lam")
    if lam is not None and not 0 < float(lam) <= _LARGEST_NUMBER:
        raise RunError(f"state.lam in {path} must be a positive number; got {float(lam):g}")
