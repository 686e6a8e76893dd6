"""Weights in files made orthonormal, and everything else in the file kept byte for byte."""

import contextlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gramian.errors import OptionError, WeightsError
from gramian.layout import Layout
from gramian.orthogonalize import orthogonalize
from gramian.penalties import Penalty
from gramian.rules import Rule
from gramian.training.policy import propose_by_shape
from gramian.training.selection import Layouts, Selector, choose_parameters
from gramian.weights.files import Weights, open_weights, tensor_bytes

__all__ = ["Rewritten", "orthogonalize_file"]

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Rewritten:
    """What was done to one tensor."""

    name: str
    shape: tuple[int, int, int]
    """(l, m, n)."""
    steps: int
    residual: float
    """Largest |X_jk| that is left."""
    distance: float
    """Frobenius distance from what it was."""
    converged: bool


def orthogonalize_file(
    source: Path,
    target: Path,
    *,
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    max_steps: int = 1000,
    force: bool = False,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> tuple[list[Rewritten], dict[str, str]]:
    r"""Make tensors of a file orthonormal, and write them with the rest of the file unchanged.

    In safetensors the bytes of the chosen tensors are all that differs; in NumPy archives their members; a PyTorch file
    is written anew from what `weights_only=True` reads. Tensors are read one at a time. Until all is done, `target` is
    not touched.

    Args:
        source: A file of weights; see `open_weights`.
        target: Where to write: a file, or a folder for sharded safetensors.
        select: Which tensors; by default those whose groups can be orthonormal by `propose_by_shape`.
        layouts: Layouts by glob or regular expression of names, or one for all.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        max_steps: Stop after as many steps in any case.
        force: Whether to replace `target`.
        progress: Wraps the names that are gone through.

    Returns:
        What was done to each tensor; and the reason for each that was left alone.

    Raises:
        WeightsError: If `source` cannot be read, or `target` exists or cannot be written.
        OptionError, LayoutError: As for `gramian.inspect`.

    Cost:
        That of `gramian.orthogonalize` for each tensor; memory for one tensor, but for PyTorch files.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "a.npz", w=np.random.default_rng(0).normal(size=(4, 16)), b=np.ones(4))
        >>> done, left = orthogonalize_file(folder / "a.npz", folder / "b.npz")
        >>> done[0].name, done[0].shape, done[0].converged, left
        ('w', (16, 1, 4), True, {'b': 'of 1 axes'})
        >>> np.allclose(np.load(folder / "b.npz")["w"] @ np.load(folder / "b.npz")["w"].T, np.eye(4))
        True
    """
    weights = open_weights(source)
    if target.resolve() in {source.resolve(), *(file.resolve() for file in weights.files)} and not force:
        raise WeightsError(f"{target} is what is read; try another -o, or --force to replace it")
    if target.exists() and not force:
        raise WeightsError(f"{target} exists already; try another -o, or --force to replace it")
    if not target.parent.is_dir():
        raise WeightsError(f"the folder of {target} must exist; got none")
    shapes = {name: entry.shape for name, entry in weights.entries.items()}
    proposals = {name: propose_by_shape(name, shape) for name, shape in shapes.items()}
    chosen, left = choose_parameters(shapes, weights.read, proposals, select, layouts)
    done: list[Rewritten] = []

    def made(name: str) -> Tensor:
        tensor = weights.read(name)
        layout, _ = chosen[name]
        if tensor.dtype not in _DTYPES:
            raise OptionError(f"{name} must be of a floating-point dtype to be orthogonalized; got {tensor.dtype}")
        result = orthogonalize(tensor, layout=layout, rule=rule, penalty=penalty, max_steps=max_steps)
        shape = layout.phi_shape(tuple(tensor.shape))
        done.append(Rewritten(name, shape, result.steps, result.residual, result.distance, result.converged))
        return result.phi

    names = progress(list(chosen))
    writers = {"safetensors": _safetensors, "sharded": _sharded, "npz": _archive, "pytorch": _pytorch}
    writers[weights.kind](weights, target, names, made)
    return done, left


@contextlib.contextmanager
def _beside(target: Path) -> Any:
    """Give a temporary path beside `target` that takes its place when all has gone well, and leaves no trace if not."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise WeightsError(f"{target} could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Give where the bytes of each tensor of a file of safetensors begin and end."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    start = 8 + length
    return {
        name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _overwrite(path: Path, places: dict[str, tuple[int, int]], name: str, tensor: Tensor) -> None:
    begin, end = places[name]
    content = tensor_bytes(tensor)
    if len(content) != end - begin:
        raise WeightsError(f"{name} must keep its {end - begin} bytes; got {len(content)}")
    with path.open("rb+") as file:
        file.seek(begin)
        file.write(content)


def _safetensors(weights: Weights, target: Path, names: Iterable[str], made: Callable[[str], Tensor]) -> None:
    places = _places(weights.path)
    with _beside(target) as temporary:
        shutil.copyfile(weights.path, temporary)
        for name in names:
            _overwrite(temporary, places, name, made(name))


def _sharded(weights: Weights, target: Path, names: Iterable[str], made: Callable[[str], Tensor]) -> None:
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        places: dict[Path, dict[str, tuple[int, int]]] = {}
        for file in (weights.path, *weights.files):
            shutil.copyfile(file, temporary / file.name)
        for name in names:
            file = weights.entries[name].file
            if file not in places:
                places[file] = _places(file)
            _overwrite(temporary / file.name, places[file], name, made(name))
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if target.exists():
            aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
            target.replace(aside / target.name)
            temporary.replace(target)
            shutil.rmtree(aside)
        else:
            temporary.replace(target)
    except OSError as error:
        raise WeightsError(f"{target} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _archive(weights: Weights, target: Path, names: Iterable[str], made: Callable[[str], Tensor]) -> None:
    with _beside(target) as temporary, zipfile.ZipFile(weights.path) as old, zipfile.ZipFile(temporary, "w") as new:
        chosen = set(names)
        for member in old.infolist():
            name = member.filename.removesuffix(".npy")
            # A copy, for writing sets where the member lies.
            with new.open(copy(member), "w", force_zip64=True) as file:
                if name in chosen:
                    np.lib.format.write_array(file, made(name).numpy(), allow_pickle=False)
                else:
                    with old.open(member) as kept:
                        shutil.copyfileobj(kept, file)


def _pytorch(weights: Weights, target: Path, names: Iterable[str], made: Callable[[str], Tensor]) -> None:
    loaded = torch.load(weights.path, map_location="cpu", weights_only=True)
    for name in names:
        # In place, so that whatever shares its memory (tied weights) still does.
        weights_in(loaded, name).data.copy_(made(name))
    with _beside(target) as temporary:
        torch.save(loaded, temporary)


def weights_in(loaded: Any, name: str) -> Tensor:
    """Find a tensor in nested mappings by its dotted name."""
    if isinstance(loaded, Tensor):
        return loaded
    for key, inner in loaded.items():
        if name == str(key):
            return inner
        if name.startswith(f"{key}.") and not isinstance(inner, Tensor):
            with contextlib.suppress(KeyError, AttributeError):
                return weights_in(inner, name[len(str(key)) + 1 :])
    raise KeyError(name)
