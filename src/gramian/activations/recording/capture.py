"""Run a network over inputs, and store the outputs of some of its modules."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gramian.activations.recording.batches import Batch, as_batch, check_axes, run_model, samples_of
from gramian.activations.recording.hooks import evaluating, matching_modules, recorded_outputs
from gramian.activations.store.manifest import DTYPES, Manifest
from gramian.activations.store.places import KINDS, Places
from gramian.activations.store.writer import SHARD_BYTES, StoreWriter, open_writer
from gramian.errors import OptionError
from gramian.options import whole_number

__all__ = ["capture"]


def capture(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layer: str | Sequence[str],
    store: Path | str,
    dtype: str | torch.dtype = "float32",
    places: str = "rows",
    axes: str | None = None,
    max_samples: int | None = None,
    device: str | torch.device | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
    shard_bytes: int | None = None,
    progress: Callable[[StoreWriter], object] | None = None,
) -> Manifest:
    r"""Run a network over batches, and write the outputs of modules to a store, shard by shard.

    Forward hooks record the modules, and are always removed; the network runs in evaluation mode without gradients, and
    the mode of every module is restored. An interrupted capture leaves complete shards. With `resume` and the same
    arguments it continues after the last one; the store has the same bytes as without the interruption if the network
    computes the same numbers.

    Args:
        model: The network, on its device.
        batches: Inputs of the network: tensors, tuples of arguments, mappings of arguments, or `Batch` objects with
            the text or the name of each document. The `attention_mask` of a mapping leaves out padding. A function
            without arguments that returns inputs is called only if they are needed, after a resume.
        layer: A glob of module names, or several. All selected modules must have the same positions.
        store: Folder of the store, new or empty.
        dtype: 'float32' or 'bfloat16', in which samples are stored.
        places: What positions count: 'tokens', 'patches' or 'rows'.
        axes: The axes of outputs: b (batch), p (positions) or h and w (height, width), l (length of a sample);
            by default 'b l', 'b p l' or 'b l h w', by the number of axes.
        max_samples: Largest number of samples; by default all.
        device: Device to which inputs are moved; by default that of the first parameter.
        name: Name of the network in the manifest; by default its class.
        settings: Further settings that must be the same when a capture continues, in JSON, such as the batch size.
        resume: Whether to continue the store.
        force: Whether to replace the store in the folder.
        shard_bytes: Size of a shard; by default 64 MiB.
        progress: A function that is called after each batch, with the writer.

    Returns:
        The manifest of the complete store.

    Raises:
        OptionError: If an option is out of range, or `layer` matches no module.
        RunError: If the folder holds something else, cannot be written, or was captured with other settings.
        ShapeError: If the output of a module does not fit the batch.
        DataError: If a module returns no tensor or a number that is not finite, or there is no sample.

    Cost:
        The forward pass. The memory of one batch, and about three times `shard_bytes`.

    Examples:
        >>> import tempfile
        >>> from gramian.activations import open_activations
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        >>> path = Path(tempfile.mkdtemp()) / "store"
        >>> capture(model, torch.randn(5, 10, 3), layer="1", store=path).samples
        50
        >>> open_activations(path)
        Activations(50 samples of '1' of length 8, 1 parts)
    """
    if places not in KINDS:
        raise OptionError(f"places must be one of {', '.join(map(repr, KINDS))}; got {places!r}")
    limit = None if max_samples is None else whole_number(max_samples, name="max_samples")
    shard_bytes = SHARD_BYTES if shard_bytes is None else whole_number(shard_bytes, name="shard_bytes")
    modules = matching_modules(model, layer)
    check_axes(axes)
    known = {"layers": list(modules), "axes": axes, "max_samples": limit, "shard_bytes": shard_bytes}
    description = Manifest(
        name or type(model).__name__, _dtype_name(dtype), places, _as_json({**known, **(settings or {})})
    )
    target = _device(model) if device is None else torch.device(device)
    with open_writer(Path(store), description, resume=resume, force=force, shard_bytes=shard_bytes) as writer:
        if writer.manifest.complete:
            return writer.manifest
        with evaluating(model), recorded_outputs(modules) as outputs:
            for inputs in islice(batches, writer.manifest.batches, None):
                if limit is not None and writer.samples >= limit:
                    break
                batch = as_batch(inputs)
                if batch is None:
                    writer.skip_batch()
                    continue
                run_model(model, batch, device=target)
                _add(writer, outputs, batch, axes=axes, limit=limit)
                for calls in outputs.values():
                    calls.clear()
                if progress is not None:
                    progress(writer)
        return writer.finish()


def _add(writer: StoreWriter, outputs: Mapping[str, Any], batch: Batch, *, axes: str | None, limit: int | None) -> None:
    samples, places, documents = samples_of(outputs, batch, first_document=writer.documents, axes=axes)
    room = len(places) if limit is None else limit - writer.samples
    if room < len(places):
        samples = {name: x[:room] for name, x in samples.items()}
        places: Places = places[:room]
    writer.add(samples, places, documents=documents)


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as they are read from a manifest, with lists for tuples."""
    try:
        return json.loads(json.dumps(settings, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise OptionError(f"settings must be values of JSON; got {error}; try text and numbers") from error


def _device(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return None if parameter is None else parameter.device


def _dtype_name(dtype: str | torch.dtype) -> str:
    name = dtype if isinstance(dtype, str) else str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(map(repr, DTYPES))}; got {name!r}; try 'float32'")
    return name
