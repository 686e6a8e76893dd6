"""PyTorch files: list tensors by dotted names, separate weights from the state of training, and rewrite files."""

import io
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from gramian.errors import WeightsError, printable
from gramian.selection import SkippedParameter
from gramian.torch_internals import REBUILDING_MODULES
from gramian.weights.entries import Entry, Weights, distinct
from gramian.weights.training_state import OPTIMISER, slots_among, state_of_training

__all__ = ["open_checkpoint", "rewrite_checkpoint", "sharing_memory"]

_HARMLESS = {
    *("collections OrderedDict", "collections Counter", "_codecs encode", "builtins set", "builtins bytearray"),
    *("__builtin__ set", "__builtin__ bytearray"),
}
"""Names that `weights_only=True` allows besides those of torch and numpy that rebuild tensors."""

_OPERATIONS = 1 << 20
"""Pickle operations that are read to name an object in a file."""


def open_checkpoint(path: Path) -> Weights:
    """Open a file of `torch.save`, mapped from the disk, and separate weights from the state of training.

    Raises:
        WeightsError: If it holds objects other than tensors and plain values, holds no named tensor, or is damaged.
    """
    loaded = _load(path)
    tensors, skipped = _separate(loaded, path)
    if not tensors and not skipped:
        raise WeightsError(f"{path} must hold named tensors; got {type(loaded).__name__} without any")
    entries = {
        name: Entry(name, tuple(tensor.shape), path, str(tensor.dtype), tensor.detach())
        for name, tensor in tensors.items()
    }
    return Weights(path, "pytorch", entries, (path,), lambda entry: entry.place, tuple(skipped), loaded)


def rewrite_checkpoint(weights: Weights, target: Path, names: Iterable[str], compute: Callable[[str], Tensor]) -> None:
    """Replace some tensors of a PyTorch file in memory and write it; tied tensors stay tied.

    Args:
        weights: The opened file; its tensors are changed.
        target: Where to write.
        names: Which tensors are replaced.
        compute: Computes the new tensor for a name.

    Raises:
        OSError: If it cannot be written.
    """
    for name in names:
        weights.entries[name].place.copy_(compute(name))
    with target.open("wb", buffering=0) as file:
        writer = _Writer(file)
        try:
            torch.save(weights.content, cast("IO[bytes]", writer))
        except RuntimeError as error:
            # torch reports only that writing failed; the writer has the cause.
            if writer.failure is None:
                raise WeightsError(f"{weights.path} cannot be rewritten: torch cannot save it") from error
            raise writer.failure from error


def sharing_memory(weights: Weights, names: Iterable[str]) -> list[SkippedParameter]:
    """Return the tensors that share memory with an earlier one, as skipped: tied weights are changed once."""
    shared: list[SkippedParameter] = []
    places: list[tuple[int, int, str]] = []
    for name in names if weights.kind == "pytorch" else ():
        begin = weights.entries[name].place.data_ptr()
        end = begin + _span(weights.entries[name].place) * weights.entries[name].place.element_size()
        owner = next((earlier for first, last, earlier in places if begin < last and first < end), None)
        if owner is None:
            places.append((begin, end, name))
        else:
            shared.append(SkippedParameter(name, f"in the memory of {owner}", weights.entries[name].shape))
    return shared


class _Writer(io.RawIOBase):
    """A file that stores the error of a failed write."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            while len(rest):
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.failure = self.failure or error
            raise
        return size


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:
        with path.open("rb") as file:
            objects = _objects_in(file)
        if objects is None:
            raise WeightsError(
                f"{path} must be a whole PyTorch file; got one that is damaged or of another kind"
            ) from error
        raise WeightsError(
            f"{path} must hold only tensors and plain values, because other pickled objects could run any code; got "
            f"{printable(objects)}; try torch.save(model.state_dict(), ...) where it was saved"
        ) from error


def _objects_in(file: Any) -> str | None:
    """Return the name of an object that `weights_only=True` refuses, or None; nothing is executed."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
                if any(name.endswith("/constants.pkl") for name in names):
                    return "a TorchScript archive"
                (member,) = (name for name in names if name.endswith("/data.pkl"))
                with archive.open(member) as pickled:
                    return _first_object(pickled)
        file.seek(0)
        # The legacy format is a sequence of pickles: a number, a version, facts of the system, and the saved object.
        return next(filter(None, (_first_object(file) for _ in range(4))), None)
    except Exception:  # it is damaged
        return None


def _first_object(file: Any) -> str | None:
    strings: list[str] = []
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if operation.name in {"GLOBAL", "INST"}:
            named = str(argument)
        elif operation.name == "STACK_GLOBAL":
            named = " ".join(strings[-2:])
        else:
            if isinstance(argument, str):
                strings = [*strings[-1:], argument]
            named = ""
        module = named.partition(" ")[0]
        rebuilding = module in REBUILDING_MODULES
        if named and named not in _HARMLESS and not rebuilding and not module.startswith("numpy"):
            return f"an object of {named.replace(' ', '.')}"
        if count > _OPERATIONS:
            break
    return None


def _separate(loaded: Any, path: Path) -> tuple[dict[str, Tensor], list[SkippedParameter]]:
    """Return the weights by name, and everything else that holds tensors with the reason why it is skipped."""
    leaves: list[tuple[str, Tensor | None, str | None]] = []
    seen: dict[int, str] = {}

    def walk(value: Any, name: str, reason: str | None) -> None:
        if isinstance(value, Tensor):
            leaves.append((name or "tensor", value, reason or _unwritable_reason(value, name, path)))
            return
        if not isinstance(value, (Mapping, list, tuple)) or not value:
            return
        if id(value) in seen:
            leaves.append((name, None, f"the same as {seen[id(value)] or 'all of it'}"))
            return
        seen[id(value)] = name
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in parts:
            why = reason or state_of_training(key, inner, value)
            if why is None and not isinstance(value, Mapping):
                why = "in a list, without a name"
            part = str(key) if isinstance(key, (str, int, float, bytes, type(None))) else type(key).__name__
            walk(inner, f"{name}.{part}" if name else part, why)

    walk(loaded, "", state_of_training(None, loaded, None))
    names = distinct(name for name, _, _ in leaves)
    slots = slots_among(names)
    tensors: dict[str, Tensor] = {}
    skipped: list[SkippedParameter] = []
    for name, (_, tensor, reason) in zip(names, leaves, strict=True):
        why = reason or (OPTIMISER if name in slots else None)
        if why is None and tensor is not None:
            tensors[name] = tensor
        else:
            skipped.append(SkippedParameter(name, why or "", None if tensor is None else tuple(tensor.shape)))
    return tensors, skipped


def _unwritable_reason(tensor: Tensor, name: str, path: Path) -> str | None:
    """Return why a tensor cannot be replaced; None if it can.

    Raises:
        WeightsError: If it extends beyond its memory.
    """
    if type(tensor) not in {Tensor, nn.Parameter, nn.Buffer}:
        return f"of type {type(tensor).__name__}"
    if tensor.is_meta:
        return "without numbers, on the meta device"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else f"of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return "quantized"
    if (tensor.storage_offset() + _span(tensor)) * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise WeightsError(
            f"{printable(name)} of shape {list(tensor.shape)} in {path} must lie within its memory; got a tensor that "
            "extends beyond it: the file is damaged"
        )
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and tensor.numel() and stride <= reach:
            return "with entries that share their memory"
        reach += (size - 1) * stride
    return None


def _span(tensor: Tensor) -> int:
    """Return how many entries a tensor spans in memory, from its first to its last."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
