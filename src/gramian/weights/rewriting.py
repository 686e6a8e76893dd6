"""Orthogonalization of tensors in a file, with the rest of the file unchanged."""

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
from gramian.selection import Layouts, Selector, SkippedParameter
from gramian.selection.candidates import select_candidates
from gramian.typing import FLOATING_DTYPES
from gramian.weights.archive import rewrite_archive
from gramian.weights.arrays import rewrite_array
from gramian.weights.checkpoint import rewrite_checkpoint, sharing_memory
from gramian.weights.entries import Weights, candidates_of
from gramian.weights.files import SUFFIXES, open_weights
from gramian.weights.shards import check_shards, copy_with, rewrite_shards, same_file

__all__ = ["Rewritten", "orthogonalize_file"]

_DTYPES = frozenset(map(str, FLOATING_DTYPES))


@dataclass(frozen=True)
class Rewritten:
    """The result for one tensor.

    Attributes:
        name: Its name.
        shape: (l, m, n).
        steps: Number of steps.
        residual: Largest |X_jk| after them.
        distance: Frobenius distance from the old tensor.
        converged: Whether it is orthonormal to rounding.
    """

    name: str
    shape: tuple[int, int, int]
    steps: int
    residual: float
    distance: float
    converged: bool


def orthogonalize_file(
    source: Path,
    target: Path,
    *,
    select: Selector | None = None,
    exclude: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    rule: str | Rule = "proximal",
    penalty: str | Penalty = "l1",
    max_steps: int = 1000,
    force: bool = False,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> tuple[list[Rewritten], list[SkippedParameter]]:
    r"""Make tensors of a file orthonormal, and write them with the rest of the file unchanged.

    In safetensors only the bytes of the selected tensors differ, in NumPy archives only their members; a PyTorch file
    is rewritten from what `weights_only=True` reads. Tensors are read one at a time. No file is replaced before all
    results are written; then each is replaced atomically, the index of shards last. Other files stay unchanged.

    Args:
        source: A file of weights; see `open_weights`. ONNX files are only read.
        target: The file to write, or a folder for sharded safetensors. It may be `source` itself with `force`.
        select: Which tensors; by default matrices and convolutions, except those named like embeddings.
        exclude: Which are left out.
        layouts: Layouts by glob or regular expression of names, or one for all.
        rule: Name or `Rule`.
        penalty: Name or `Penalty`.
        max_steps: Largest number of steps for one tensor.
        force: Whether existing files may be replaced.
        progress: Wraps the names, to show progress.

    Returns:
        The result for each selected tensor; and the skipped tensors, each with its reason.

    Warns:
        UserWarning: If a tensor did not converge. Its last state is written.

    Raises:
        WeightsError: If `source` cannot be read, or is an ONNX file; or an output exists, is `source` under another
            name, has the wrong suffix, or cannot be written.
        DataError: If a selected tensor holds a NaN or an infinite entry.
        OptionError, LayoutError: As for `gramian.inspect`.

    Cost:
        That of `gramian.orthogonalize` for each tensor; memory for one tensor, except for PyTorch files.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "a.npz", w=np.random.default_rng(0).normal(size=(4, 16)), b=np.ones(4))
        >>> rewritten, skipped = orthogonalize_file(folder / "a.npz", folder / "b.npz")
        >>> rewritten[0].name, rewritten[0].shape, rewritten[0].converged, skipped[0].name, skipped[0].reason
        ('w', (16, 1, 4), True, 'b', 'of 1 axes')
        >>> np.allclose(np.load(folder / "b.npz")["w"] @ np.load(folder / "b.npz")["w"].T, np.eye(4))
        True
    """
    rule, penalty = as_rule(rule), as_penalty(penalty)
    if source.name.lower().endswith(SUFFIXES["onnx"]):
        raise WeightsError(
            f"weights are replaced in every kind of file except ONNX, which is only read; got {source.name}; try the "
            "weights that it was exported from, and export again"
        )
    weights = open_weights(source, unfinished=force and os.path.realpath(target) in _folders(source))
    selected, skipped = select_candidates(candidates_of(weights), select, layouts, exclude=exclude)
    by_name = {choice.candidate.name: choice for choice in selected}
    entries = [weights.entries[name] for name in by_name]
    unsuited = [
        SkippedParameter(entry.name, f"of dtype {entry.dtype}", entry.shape)
        for entry in entries
        if entry.dtype not in _DTYPES
    ]
    unsuited += sharing_memory(weights, [entry.name for entry in entries if entry.dtype in _DTYPES])
    skipped += unsuited
    names = [name for name in by_name if name not in {entry.name for entry in unsuited}]
    if not names:
        raise OptionError(
            f"at least one selected tensor must be of a floating-point dtype to be orthogonalized; got "
            f"{printable(unsuited[0].name)} {unsuited[0].reason}"
        )
    if weights.kind == "sharded":
        check_shards(weights, target, names, force=force)
    else:
        # With force a file may replace itself; under another name it is an input that would be lost.
        inputs = () if same_file(weights.path, target) else (weights.path,)
        suffixes = SUFFIXES[weights.kind]
        check_output(target, force=force, suffixes=suffixes, inputs=inputs, error=WeightsError)
    results: list[Rewritten] = []

    def compute(name: str) -> Tensor:
        layout = by_name[name].layout
        tensor = weights.read(name)
        where = f"{printable(name)} in {weights.entries[name].file}"
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = orthogonalize(tensor, layout=layout, rule=rule, penalty=penalty, max_steps=max_steps)
        except (DataError, DtypeError, ShapeError) as error:
            raise type(error)(f"{where}: {error}") from error
        for warning in caught:
            warnings.warn(f"{where}: {warning.message}", warning.category, stacklevel=2)
        if not result.converged and not caught:
            message = (
                f"{where} did not converge: after {result.steps} steps the largest |X_jk| is {result.residual:.1e}"
            )
            warnings.warn(message, stacklevel=2)
        shape = by_name[name].shape
        results.append(Rewritten(name, shape, result.steps, result.residual, result.distance, result.converged))
        return result.phi

    if weights.kind == "sharded":
        rewrite_shards(weights, target, names, compute, progress)
    else:
        writers = {
            "safetensors": _copy, "npz": rewrite_archive, "npy": rewrite_array, "pytorch": rewrite_checkpoint,
        }  # fmt: skip
        sweep_temporaries(Path(os.path.realpath(target)).parent)
        with atomic_path(target, error=WeightsError) as temporary:
            writers[weights.kind](weights, temporary, progress(names), compute)
    return results, [*skipped, *weights.skipped]


def _folders(source: Path) -> set[str]:
    """Return the folder of the source: the source itself if it is a folder, and its parent."""
    return {os.path.realpath(source), os.path.realpath(source.parent)}


def _copy(weights: Weights, target: Path, names: Iterable[str], compute: Callable[[str], Tensor]) -> None:
    copy_with(weights.path, target, names, compute)
