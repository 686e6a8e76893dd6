"""PyTorch files: what is in them by dotted names, which of it is weights, and how they are written anew."""

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
from gramian.weights.entries import Entry, Weights, distinct
from gramian.weights.training_state import OPTIMISER, slots_among, state_of_training

__all__ = ["open_checkpoint", "rewrite_checkpoint", "sharing_memory"]

_HARMLESS = {
    *("collections OrderedDict", "collections Counter", "_codecs encode", "builtins set", "builtins bytearray"),
    *("__builtin__ set", "__builtin__ bytearray"),
}
"""What `weights_only=True` loads, beside the names of torch and numpy that rebuild tensors."""

_OPERATIONS = 1 << 20
"""How far a pickle is read to name what is in it."""


def open_checkpoint(path: Path) -> Weights:
    """Open what `torch.save` has written, mapped from the disk, and tell weights from the state of training.

    Raises:
        WeightsError: If it holds objects other than tensors and plain values, no named tensor, or is damaged.
    """
    loaded = _load(path)
    tensors, left = _told_apart(loaded, path)
    if not tensors and not left:
        raise WeightsError(f"{path} must hold named tensors; got {type(loaded).__name__} without any")
    entries = {
        name: Entry(name, tuple(each.shape), path, str(each.dtype), each.detach()) for name, each in tensors.items()
    }
    return Weights(path, "pytorch", entries, (path,), lambda entry: entry.place, left, loaded)


def rewrite_checkpoint(weights: Weights, target: Path, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
    """Write a PyTorch file with some of its tensors made anew. They are changed in place: what is tied stays so.

    Args:
        weights: What was opened; its tensors are changed.
        target: Where to write.
        names: Which tensors are made anew.
        make: Makes one.

    Raises:
        OSError: If it cannot be written.
    """
    for name in names:
        weights.entries[name].place.copy_(make(name))
    with target.open("wb", buffering=0) as file:
        kept = _Writer(file)
        try:
            torch.save(weights.content, cast("IO[bytes]", kept))
        except RuntimeError as error:
            # torch says only that it could not write; the file knows why.
            if kept.failure is None:
                raise WeightsError(f"{weights.path} cannot be written anew: torch cannot save it") from error
            raise kept.failure from error


def sharing_memory(weights: Weights, names: Iterable[str]) -> dict[str, str]:
    """Find the tensors whose memory is that of one before them, and say which: tied weights are changed once."""
    shared: dict[str, str] = {}
    places: list[tuple[int, int, str]] = []
    for name in names if weights.kind == "pytorch" else ():
        begin = weights.entries[name].place.data_ptr()
        end = begin + _span(weights.entries[name].place) * weights.entries[name].place.element_size()
        owner = next((each for first, last, each in places if begin < last and first < end), None)
        if owner is None:
            places.append((begin, end, name))
        else:
            shared[name] = f"in the memory of {owner}"
    return shared


class _Writer(io.RawIOBase):
    """A file that remembers why it could not be written."""

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
            warnings.simplefilter("ignore")  # about formats, in words for who loads without weights_only
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
            f"{path} must hold tensors and plain values alone, because what else is pickled could run any code; got "
            f"{printable(objects)}; try torch.save(model.state_dict(), ...) where it was made"
        ) from error


def _objects_in(file: Any) -> str | None:
    """Name what a PyTorch file holds that is not loaded, None if that is nothing; nothing is executed."""
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
        # The legacy format is a row of pickles: a number, a version, facts of the system, and what was saved.
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
        rebuilding = module in {"torch", "torch._utils", "torch._tensor", "torch.nn.parameter", "torch.storage"}
        if named and named not in _HARMLESS and not rebuilding and not module.startswith("numpy"):
            return f"an object of {named.replace(' ', '.')}"
        if count > _OPERATIONS:
            break
    return None


def _told_apart(loaded: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give the weights by their names; and of everything else that holds tensors the reason why it is none."""
    leaves: list[tuple[str, Tensor | None, str | None]] = []
    seen: dict[int, str] = {}

    def walk(value: Any, name: str, reason: str | None) -> None:
        if isinstance(value, Tensor):
            leaves.append((name or "tensor", value, reason or _peculiarity(value, name, path)))
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
            said = str(key) if isinstance(key, (str, int, float, bytes, type(None))) else type(key).__name__
            walk(inner, f"{name}.{said}" if name else said, why)

    walk(loaded, "", state_of_training(None, loaded, None))
    names = distinct(name for name, _, _ in leaves)
    slots = slots_among(names)
    tensors: dict[str, Tensor] = {}
    left: dict[str, str] = {}
    for name, (_, tensor, reason) in zip(names, leaves, strict=True):
        why = reason or (OPTIMISER if name in slots else None)
        if why is None and tensor is not None:
            tensors[name] = tensor
        else:
            left[name] = why or ""
    return tensors, left


def _peculiarity(tensor: Tensor, name: str, path: Path) -> str | None:
    """Say what makes it impossible to rewrite a tensor in its place, None if nothing does.

    Raises:
        WeightsError: If it reaches beyond its memory.
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
            f"{printable(name)} of shape {list(tensor.shape)} in {path} must lie in its memory; got a tensor that "
            "reaches beyond it: the file is damaged"
        )
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and tensor.numel() and stride <= reach:
            return "with entries that share their memory"
        reach += (size - 1) * stride
    return None


def _span(tensor: Tensor) -> int:
    """Give from its first to its last entry how many entries a tensor spans in memory."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
