"""Weights in files made orthonormal, and everything else in the file kept byte for byte."""

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gramian.errors import DataError, DtypeError, OptionError, ShapeError, WeightsError, printable
from gramian.files import atomic_path, check_output, sweep_temporaries
from gramian.layout import Layout
from gramian.orthogonalize import orthogonalize
from gramian.penalties import Penalty, as_penalty
from gramian.rules import Rule, as_rule
from gramian.training.selection import Layouts, Selector, choose_parameters
from gramian.weights.archive import rewrite_archive
from gramian.weights.checkpoint import rewrite_checkpoint, sharing_memory
from gramian.weights.entries import Weights, proposals_of
from gramian.weights.files import SUFFIXES, open_weights
from gramian.weights.shards import check_shards, copy_with, rewrite_shards, same_file

__all__ = ["Rewritten", "orthogonalize_file"]

_DTYPES = ("torch.float64", "torch.float32", "torch.bfloat16", "torch.float16")


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
    is written anew from what `weights_only=True` reads. Tensors are read one at a time. Until all is done, nothing is
    replaced; then each file is, in one stroke, the index of shards last. Nothing else in a folder is touched.

    Args:
        source: A file of weights; see `open_weights`.
        target: Where to write: a file, or a folder for sharded safetensors. It may be `source` itself with `force`.
        select: Which tensors; by default those whose groups can be orthonormal by `propose_by_shape`.
        layouts: Layouts by glob or regular expression of names, or one for all.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        max_steps: Stop after as many steps in any case.
        force: Whether files that are written may replace those that stand there.
        progress: Wraps the names that are gone through.

    Returns:
        What was done to each tensor, and whether it converged; and the reason for each that was left alone.

    Warns:
        UserWarning: If a tensor did not converge, which is written as far as it came.

    Raises:
        WeightsError: If `source` cannot be read, or a file that is written exists, is `source` under another name, has
            not the suffix of its kind, or cannot be written.
        DataError: If a chosen tensor holds a NaN or an infinite entry.
        OptionError, LayoutError: As for `gramian.inspect`.

    Cost:
        That of `gramian.orthogonalize` for each tensor; memory for one tensor, but for PyTorch files.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "a.npz", w=np.random.default_rng(0).normal(size=(4, 16)), b=np.ones(4))
        >>> done, left = orthogonalize_file(folder / "a.npz", folder / "b.npz")
        >>> done[0].name, done[0].shape, done[0].converged, left
        ('w', (16, 1, 4), True, {'b': 'of 1 axes'})
        >>> np.allclose(np.load(folder / "b.npz")["w"] @ np.load(folder / "b.npz")["w"].T, np.eye(4))
        True
    """
    rule, penalty = as_rule(rule), as_penalty(penalty)
    weights = open_weights(source, unfinished=force and os.path.realpath(target) in _folders(source))
    shapes = {name: entry.shape for name, entry in weights.entries.items()}
    chosen, left = choose_parameters(shapes, weights.read, proposals_of(weights), select, layouts)
    for name in chosen:
        if weights.entries[name].dtype not in _DTYPES:
            left[name] = f"of dtype {weights.entries[name].dtype}"
    left |= sharing_memory(weights, [name for name in chosen if name not in left])
    names = [name for name in chosen if name not in left]
    if not names:
        first = next(iter(chosen))
        raise OptionError(
            f"at least one selected tensor must be of a floating-point dtype to be orthogonalized; got "
            f"{printable(first)} {left[first]}"
        )
    if weights.kind == "sharded":
        check_shards(weights, target, names, force=force)
    else:
        # A file may be replaced in its own place (by force); under another name it is an input that would be lost.
        inputs = () if same_file(weights.path, target) else (weights.path,)
        suffixes = SUFFIXES[weights.kind]
        check_output(target, force=force, suffixes=suffixes, inputs=inputs, error=WeightsError)
    done: list[Rewritten] = []

    def make(name: str) -> Tensor:
        layout, _ = chosen[name]
        tensor = weights.read(name)
        where = f"{printable(name)} in {weights.entries[name].file}"
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = orthogonalize(tensor, layout=layout, rule=rule, penalty=penalty, max_steps=max_steps)
        except (DataError, DtypeError, ShapeError) as error:
            raise type(error)(f"{where}: {error}") from error
        for each in caught:
            warnings.warn(f"{where}: {each.message}", each.category, stacklevel=2)
        if not result.converged and not caught:
            message = (
                f"{where} did not converge: after {result.steps} steps the largest |X_jk| is {result.residual:.1e}"
            )
            warnings.warn(message, stacklevel=2)
        shape = layout.phi_shape(tuple(tensor.shape))
        done.append(Rewritten(name, shape, result.steps, result.residual, result.distance, result.converged))
        return result.phi

    if weights.kind == "sharded":
        rewrite_shards(weights, target, names, make, progress)
    else:
        writers = {"safetensors": _copy, "npz": rewrite_archive, "pytorch": rewrite_checkpoint}
        sweep_temporaries(Path(os.path.realpath(target)).parent)
        with atomic_path(target, error=WeightsError) as temporary:
            writers[weights.kind](weights, temporary, progress(names), make)
    return done, {**left, **weights.left}


def _folders(source: Path) -> set[str]:
    """Give the folder of the source, which may be what was named or lies around it."""
    return {os.path.realpath(source), os.path.realpath(source.parent)}


def _copy(weights: Weights, target: Path, names: Iterable[str], make: Callable[[str], Tensor]) -> None:
    copy_with(weights.path, target, names, make)
