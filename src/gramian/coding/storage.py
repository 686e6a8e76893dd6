"""Dictionaries in files: safetensors with everything that is needed to encode, and to go on learning."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gramian.coding.methods import as_method
from gramian.coding.prior import PRIORS
from gramian.data import WHITENINGS, Preparation, ZCAWhitening
from gramian.errors import OptionError, RunError
from gramian.files import replace_file
from gramian.typing import Phi

__all__ = ["LAYOUT", "Dictionary", "load_dictionary", "save_dictionary"]

LAYOUT = "l m n -> l m n"
"""The layout of the tensor `phi` in a dictionary file, as an einops pattern."""

_FORMAT = "gramian-dictionary-2"
_ZCA = ("mean", "matrix", "inverse")


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
    replace_file(path, save({name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}, metadata))


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
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise RunError(
                    f"{path} must be a dictionary of format {_FORMAT!r}; got {metadata.get('format')!r}; "
                    "try a dictionary.safetensors that gramian learn has written"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        numbers: dict[str, Any] = {
            name: json.loads(text) for name, text in metadata.items() if name not in ("format", "layout")
        }
        zca = {name: tensors.pop(f"zca.{name}") for name in _ZCA} if "zca.mean" in tensors else None
        preparation = Preparation(
            size=int(numbers["size"]),
            channels=int(numbers["channels"]),
            whiten=str(numbers["whiten"]),
            scale=float(numbers["scale"]),
            cutoff=float(numbers["cutoff"]),
            mixing=tensors.get("mixing"),
            zca=None if zca is None else ZCAWhitening(**zca),
        )
        phi = tensors["phi"]
        state = {name.removeprefix("state."): tensors[name] for name in tensors if name.startswith("state.")}
        dictionary = Dictionary(
            phi=phi,
            initial_phi=tensors["initial_phi"],
            preparation=preparation,
            lam=float(numbers["lam"]),
            prior=str(numbers["prior"]),
            infer=str(numbers["infer"]),
            state={"phi": phi, **state} if state else {},
        )
    except FileNotFoundError as error:
        raise RunError(f"there must be a dictionary at {path}; got no such file") from error
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} must be a whole dictionary file; it cannot be read: {error}") from error
    _check(path, dictionary)
    return dictionary


def _check(path: Path, dictionary: Dictionary) -> None:
    phi, preparation = dictionary.phi, dictionary.preparation
    length = preparation.size**2 * preparation.channels
    if phi.ndim != 3 or phi.shape[0] != length or dictionary.initial_phi.shape != phi.shape:
        raise RunError(
            f"{path} must hold phi[l, m, n] with l = {preparation.size}² pixels × {preparation.channels} channels, and "
            f"initial_phi of the same shape; got {list(phi.shape)} and {list(dictionary.initial_phi.shape)}"
        )
    if not bool(phi.isfinite().all()) or not (preparation.scale > 0 and dictionary.lam > 0):
        raise RunError(f"{path} must hold finite atoms, a positive scale and a positive λ; it does not")
    try:
        as_method(dictionary.infer)
    except OptionError as error:
        raise RunError(f"{path} cannot be used here: {error}") from error
    for name, known in ((dictionary.prior, PRIORS), (preparation.whiten, WHITENINGS)):
        if name not in known:
            raise RunError(f"{path} must name one of {', '.join(map(repr, known))}; got {name!r}")
    whitening = preparation.zca
    if (preparation.whiten == "zca") != (whitening is not None) or (
        whitening is not None and whitening.matrix.shape != (length, length)
    ):
        raise RunError(f"{path} must hold the whitening of its samples, of {length} numbers each; it does not")
