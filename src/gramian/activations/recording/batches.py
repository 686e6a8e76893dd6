"""Batches of inputs of a network, and the samples and places in the outputs of its modules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from gramian.activations.store.places import Places
from gramian.errors import OptionError, ShapeError

__all__ = ["AXES", "Batch", "as_batch", "check_axes", "run_model", "samples_of"]

AXES: Mapping[int, str] = {2: "b l", 3: "b p l", 4: "b l h w"}
"""The axes of an output, by the number of axes: batch, positions (or height and width), and length of a sample."""


@dataclass(frozen=True)
class Batch:
    """The inputs of one call of a network, and what is known of their positions.

    Attributes:
        inputs: A tensor, a sequence of positional arguments, or a mapping of keyword arguments.
        keep: Which positions give samples [batch, positions], such as an attention mask; None for all.
        contexts: The text or the name of each document; None if unknown.
        spans: Start and end of each token in its text [batch, positions, 2]; None for other inputs.
        patches: Rows and columns of patches, which are the last positions of outputs [batch, positions, l]; None
            without patches.
        only_patches: Whether to leave out the positions before the first patch, such as a class token.
    """

    inputs: Any
    keep: Bool[Tensor, "batch positions"] | None = None
    contexts: Sequence[str] | None = None
    spans: Int[Tensor, "batch positions 2"] | None = None
    patches: tuple[int, int] | None = None
    only_patches: bool = False


def as_batch(inputs: Any) -> Batch | None:
    """Turn inputs into a batch; the `attention_mask` of a mapping marks padding.

    Args:
        inputs: Inputs, a batch, or a function without arguments that returns one of them, or None for no batch.
    """
    if not isinstance(inputs, nn.Module) and callable(inputs):
        inputs = inputs()
    if inputs is None or isinstance(inputs, Batch):
        return inputs
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return Batch(inputs, keep=mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None)


def check_axes(axes: str | None) -> str | None:
    """Check the names of axes.

    Raises:
        OptionError: If they are not b and l once each, with p, or with h and w.
    """
    if axes is None or sorted(axes.split()) in (["b", "l"], ["b", "l", "p"], ["b", "h", "l", "w"]):
        return axes
    raise OptionError(
        "axes must name each axis once: b (batch), l (length of a sample), and p (positions) or h w (height and "
        f"width); got {axes!r}; try 'b p l' or 'b l h w'"
    )


def run_model(model: nn.Module, batch: Batch, *, device: torch.device | None) -> None:
    """Call a network with the inputs of a batch, on a device.

    Raises:
        OptionError: If the inputs are of another kind.
    """
    inputs = _moved(batch.inputs, device)
    if isinstance(inputs, Mapping):
        model(**inputs)
    elif isinstance(inputs, tuple | list):
        model(*inputs)
    elif isinstance(inputs, Tensor):
        model(inputs)
    else:
        raise OptionError(
            f"a batch must be a tensor, a tuple of arguments, a mapping of arguments or a Batch; got "
            f"{type(inputs).__name__}"
        )


def samples_of(
    outputs: Mapping[str, Sequence[Tensor]], batch: Batch, *, first_document: int, axes: str | None = None
) -> tuple[dict[str, Tensor], Places, int]:
    """Divide the outputs of modules into samples, one for each position that is kept.

    Args:
        outputs: The outputs of each module, by its name; one for each call.
        batch: The batch.
        first_document: Number of the first document of the batch.
        axes: The axes of outputs, such as 'b h w l'; by default those in `AXES`.

    Returns:
        The samples [samples, l] of each module, their places, and the number of documents.

    Raises:
        ShapeError: If a module was not called exactly once, or its output has other axes than the batch.
    """
    samples: dict[str, Tensor] = {}
    places: Places | None = None
    documents, arranged_by = 0, ""
    for name, calls in outputs.items():
        if len(calls) != 1:
            raise ShapeError(
                f"the module {name!r} must be called once for each batch; got {len(calls)} calls; try a module around "
                "it"
                if calls
                else f"the module {name!r} must be called for each batch; got no call; try another module"
            )
        x, grid = _arranged(calls[0], name, axes)
        grid = _patches(batch, x.shape[1]) if grid is None else (*grid, 0)
        keep = _kept(x, grid, batch, name)
        if places is None:
            documents, arranged_by = len(x), name
            places = _places(keep, grid, batch, first_document)
        elif len(places) != int(keep.sum()) or documents != len(x):
            raise ShapeError(
                f"modules in one store must have the same positions; got {len(places)} of {arranged_by!r} and "
                f"{int(keep.sum())} of {name!r} in a batch; try one store for each"
            )
        samples[name] = x[keep.to(x.device)]
    if places is None:
        raise ShapeError("at least one module must be recorded; got none")
    return samples, places, documents


def _arranged(output: Tensor, name: str, axes: str | None) -> tuple[Tensor, tuple[int, int] | None]:
    """Return an output as [batch, positions, l], and its height and width if it has them."""
    names = (AXES.get(output.ndim, "") if axes is None else axes).split()
    if len(names) != output.ndim or not output.numel() or not output.is_floating_point():
        raise ShapeError(
            f"the output of {name!r} must have the axes {axes or ' or '.join(map(repr, AXES.values()))} and real "
            f"numbers; got {output.dtype} {list(output.shape)}; try another module, or axes='b p l'"
        )
    order = [names.index(axis) for axis in ("b", "p", "h", "w", "l") if axis in names]
    x = output.permute(order)
    grid = (x.shape[1], x.shape[2]) if "h" in names else None
    return x.reshape(x.shape[0], -1, x.shape[-1]), grid


def _patches(batch: Batch, positions: int) -> tuple[int, int, int] | None:
    """Return rows, columns, and number of positions before the first patch; None if there are fewer positions."""
    if batch.patches is None or positions == 1:
        return None
    rows, columns = batch.patches
    before = positions - rows * columns
    return (rows, columns, before) if before >= 0 else None


def _kept(x: Tensor, grid: tuple[int, int, int] | None, batch: Batch, name: str) -> Tensor:
    """Return which positions of an output give samples."""
    count, positions = x.shape[:2]
    keep = torch.ones(count, positions, dtype=torch.bool)
    if batch.keep is not None and grid is None and positions > 1:
        keep = batch.keep.bool().cpu()
    if keep.shape != (count, positions):
        raise ShapeError(
            f"the output of {name!r} must have the positions of its inputs, {list(keep.shape)}; got "
            f"{[count, positions]}; try another module, or axes='p b l'"
        )
    if grid is not None and batch.only_patches:
        keep[:, : grid[2]] = False
    return keep


def _places(keep: Tensor, grid: tuple[int, int, int] | None, batch: Batch, first_document: int) -> Places:
    rows, positions = keep.nonzero(as_tuple=True)
    contexts: dict[int, str] = {}
    if batch.contexts is not None:
        contexts = {first_document + number: context for number, context in enumerate(batch.contexts)}
    spans = batch.spans
    if spans is not None and spans.shape[:2] != keep.shape:  # an output for the whole text
        spans = torch.full((*keep.shape, 2), -1)
    return Places(first_document + rows, positions, None if spans is None else spans[rows, positions], grid, contexts)


def _moved(value: Any, device: torch.device | None) -> Any:
    if isinstance(value, Tensor):
        return value if device is None else value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_moved(item, device) for item in value]
    return value
