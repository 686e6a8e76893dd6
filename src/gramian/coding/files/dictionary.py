"""Dictionary files in the safetensors format, which hold all that encoding and further learning need."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from gramian.coding.files.checksum import read_checked, write_checked
from gramian.coding.inference import METHODS
from gramian.coding.priors import PRIORS
from gramian.errors import RunError
from gramian.typing import Phi

__all__ = ["LAYOUT", "Dictionary", "Preparation", "StoredParts", "load_dictionary", "save_dictionary"]

LAYOUT = "l m n -> l m n"
"""The layout of the tensor `phi` in a dictionary file, as an einops pattern."""

_FORMAT = "gramian-dictionary-2"
_METADATA = ("lam", "prior", "infer")
_REAL_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST_COUNT = 1 << 20
_LARGEST_NUMBER = 1e30


@runtime_checkable
class Preparation(Protocol):
    """The preparation of an application's samples, in a form that a dictionary file stores."""

    @property
    def length(self) -> int:
        """Length l of a sample."""
        ...

    def stored_tensors(self) -> Mapping[str, Tensor]:
        """Return the tensors to store, by name."""
        ...

    def stored_values(self) -> Mapping[str, Any]:
        """Return the values to store as JSON in the metadata, by name."""
        ...


P_co = TypeVar("P_co", bound=Preparation, covariant=True)


@dataclass(frozen=True)
class Dictionary(Generic[P_co]):
    """A learned dictionary, with the preparation and the coding of its samples.

    Attributes:
        phi: Φ[l, m, n].
        initial_phi: Φ before the first step.
        preparation: The preparation of samples.
        lam: Sparsity λ of inference.
        prior: Name of the prior.
        infer: Name of the inference method.
        state: The state of a `Learner`, to continue learning.
    """

    phi: Phi
    initial_phi: Phi
    preparation: P_co
    lam: float
    prior: str = "group_laplace"
    infer: str = "auto"
    state: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def step(self) -> int:
        """Number of learning steps so far."""
        return int(self.state["steps"]) if "steps" in self.state else 0

    def __repr__(self) -> str:
        l, m, n = self.phi.shape  # noqa: E741
        return (
            f"Dictionary(phi=[l={l}, m={m}, n={n}], lam={self.lam:g}, prior={self.prior!r}, infer={self.infer!r}, "
            f"step={self.step})"
        )


@dataclass(frozen=True, repr=False)
class StoredParts:
    """The tensors and metadata of a dictionary file, with a check for every part that is read.

    Attributes:
        path: The file, for messages.
        tensors: All tensors of the file.
        metadata: All metadata of the file, each value as JSON.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def value(self, name: str) -> Any:
        """Read a JSON value.

        Raises:
            RunError: If it is missing or not JSON.
        """
        try:
            return json.loads(self.metadata[name])
        except KeyError as error:
            raise RunError(f"{self.path} must store the {name} of its dictionary; got none") from error
        except (ValueError, RecursionError) as error:
            raise RunError(f"the {name} in {self.path} must be JSON; it cannot be read: {error}") from error

    def count(self, name: str) -> int:
        """Read a positive whole number.

        Raises:
            RunError: If it is anything else.
        """
        value = self.value(name)
        if type(value) is not int or not 1 <= value < _LARGEST_COUNT:
            raise RunError(f"the {name} in {self.path} must be a positive whole number; got {value!r:.80}")
        return value

    def positive(self, name: str) -> float:
        """Read a positive finite number.

        Raises:
            RunError: If it is anything else.
        """
        value = self.value(name)
        if type(value) not in (int, float) or not 0 < value <= _LARGEST_NUMBER:
            raise RunError(f"the {name} in {self.path} must be a positive finite number; got {value!r:.80}")
        return float(value)

    def choice(self, name: str, known: Collection[str]) -> str:
        """Read a value that must be one of the known names.

        Raises:
            RunError: If it is anything else.
        """
        value = self.value(name)
        if not isinstance(value, str) or value not in known:
            raise RunError(f"the {name} in {self.path} must be one of {', '.join(map(repr, known))}; got {value!r:.80}")
        return value

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a tensor of finite real numbers.

        Raises:
            RunError: If it is missing, or has another shape, another data type or numbers that are not finite.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.shape != shape:
            got = "none" if tensor is None else list(tensor.shape)
            raise RunError(f"{self.path} must hold {name} of shape {list(shape)}, to match its other parts; got {got}")
        if tensor.dtype not in _REAL_DTYPES:
            raise RunError(f"{name} in {self.path} must be real floating-point numbers; got {tensor.dtype}")
        if not bool(tensor.isfinite().all()):
            raise RunError(f"{name} in {self.path} must be finite; got NaN or infinite numbers")
        return tensor

    def counts(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read a tensor of whole numbers of at least 0.

        Raises:
            RunError: If it is missing or anything else.
        """
        counts = self.tensors[name]
        if counts.dtype != torch.int64 or counts.shape != shape or bool((counts < 0).any()):
            raise RunError(
                f"{name} in {self.path} must be whole numbers, at least 0, of shape {list(shape)}; got {counts.dtype} "
                f"{list(counts.shape)}, or negative numbers"
            )
        return counts


def save_dictionary(path: Path, dictionary: Dictionary[Preparation]) -> None:
    """Write a dictionary atomically, with a checksum.

    Args:
        path: The file; an existing one is replaced.
        dictionary: The dictionary.

    Raises:
        RunError: If the file cannot be written.
    """
    preparation = dictionary.preparation
    values = {name: getattr(dictionary, name) for name in _METADATA} | dict(preparation.stored_values())
    tensors = {"phi": dictionary.phi, "initial_phi": dictionary.initial_phi, **preparation.stored_tensors()}
    tensors |= {f"state.{name}": tensor for name, tensor in dictionary.state.items() if name != "phi"}
    metadata = {"format": _FORMAT, "layout": LAYOUT, **{name: json.dumps(value) for name, value in values.items()}}
    write_checked(path, tensors, metadata)


P = TypeVar("P", bound=Preparation)


def load_dictionary(
    path: Path, *, read_preparation: Callable[[StoredParts], P], values: Collection[str]
) -> Dictionary[P]:
    """Read a dictionary and check it.

    Args:
        path: The file.
        read_preparation: A function that creates the preparation of the application from the parts of the file.
        values: The names of the values that the preparation stores.

    Raises:
        RunError: If the file does not exist, or is not a complete dictionary of this format and preparation.
    """
    known = ("format", "layout", *_METADATA, *values)
    parts = StoredParts(
        path, *read_checked(path, kind="dictionary", form=_FORMAT, command="gramian learn", known=known)
    )
    lam, prior, infer = parts.positive("lam"), parts.choice("prior", PRIORS), parts.choice("infer", METHODS)
    preparation = read_preparation(parts)
    length = preparation.length
    phi = parts.tensors.get("phi")
    if phi is None or phi.ndim != 3 or phi.shape[0] != length:
        got = "none" if phi is None else list(phi.shape)
        raise RunError(f"{path} must hold phi[l, m, n] with l = {length}, the length of its samples; got {got}")
    state = _learner_state(parts, *phi.shape)
    return Dictionary(
        phi=parts.tensor("phi", tuple(phi.shape)),
        initial_phi=parts.tensor("initial_phi", tuple(phi.shape)),
        preparation=preparation,
        lam=lam,
        prior=prior,
        infer=infer,
        state={"phi": phi, **state} if state else {},
    )


def _learner_state(parts: StoredParts, length: int, m: int, n: int) -> dict[str, Tensor]:
    names = [name for name in parts.tensors if name.startswith("state.")]
    for name, shape in (("lam", ()), ("aa", (m * n, m * n)), ("xa", (length, m * n))):
        if f"state.{name}" in names:
            parts.tensor(f"state.{name}", shape)
    for name, shape in (("steps", ()), ("idle", (m,))):
        if f"state.{name}" in names:
            parts.counts(f"state.{name}", shape)
    if "state.lam" in names and not 0 < float(parts.tensors["state.lam"]) <= _LARGEST_NUMBER:
        raise RunError(
            f"state.lam in {parts.path} must be a positive number; got {float(parts.tensors['state.lam']):g}"
        )
    return {name.removeprefix("state."): parts.tensors[name] for name in names}
