"""Write the page of features: an overview, a list, and the subspace of each feature."""

import html
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gramian.activations.evaluation import Encoder, FeatureRecord, feature_record
from gramian.activations.evaluation.points import Points
from gramian.activations.page.contexts import readable, sample_table
from gramian.activations.page.data import as_json, curves_of, packed
from gramian.activations.page.thumbnails import thumbnails
from gramian.activations.samples.order import ShuffledOrder
from gramian.activations.samples.preparation import Preparation
from gramian.activations.store.places import Place
from gramian.activations.store.reader import Activations
from gramian.errors import ShapeError
from gramian.files import replace_file
from gramian.options import whole_number
from gramian.report.page import fill, text_of
from gramian.typing import Phi

__all__ = ["write_features_page"]

_PACKAGE = "gramian.activations.page"
_SCRIPTS = ("data.js", "drawing.js", "feature.js", "features.js")
_BATCH = 512


def write_features_page(
    path: Path | str,
    phi: Phi,
    encode: Encoder,
    activations: Activations,
    *,
    preparation: Preparation | None = None,
    held_out: bool = True,
    samples: int = 16_384,
    metrics: Sequence[Mapping[str, float]] = (),
    settings: Mapping[str, object] | None = None,
    title: str = "Features of activations",
    pictures: Path | None = None,
    progress: Callable[[str, int, int], object] | None = None,
    seed: int = 0,
) -> FeatureRecord:
    """Measure features on activations, preferably held-out ones, and write a page that shows them.

    The page is one HTML file without references to other files. It has an overview and a list of all features that
    is searched and sorted in the browser; for each feature it shows samples in its principal plane, tokens in context
    or patches of pictures at all angles in the plane, amplitudes, the nearest features and those that are active with
    it. With 4,096 features it has about 8 MB.

    Args:
        path: The file to write; an existing file is replaced.
        phi: The dictionary Φ[l, m, n], with orthonormal groups.
        encode: Returns the sparse codes of prepared samples [batch, l], at most 512 at a time.
        activations: Activations; the page shows their origin if the store has it.
        preparation: Preparation of samples for `encode`; by default fitted to these activations.
        held_out: Whether training saw none of these activations; the page says so.
        samples: Number of samples to encode, drawn at random without replacement; at most 65,536.
        metrics: Rows of metrics of the run, for its curves.
        settings: Settings that the page lists.
        title: Title of the page.
        pictures: The folder to which names of pictures are relative, for thumbnails; by default the one that the store
            names. Pictures that cannot be read are shown by name.
        progress: A function that is called repeatedly with the stage, its finished part, and its total.
        seed: Seed of the selection of samples.

    Returns:
        The measurements.

    Raises:
        ShapeError: If the dictionary does not fit the activations, or codes do not fit the dictionary.
        OptionError: If an option is out of range.
        DataError: If activations cannot be read.
        RunError: If the file cannot be written.

    Cost:
        That of `gramian.activations.evaluation.feature_record`, and reading the samples.

    Examples:
        >>> import tempfile, torch
        >>> from gramian.activations import open_activations
        >>> from gramian.coding import BlockFeatures, ManifoldSum
        >>> x = ManifoldSum(16, n_factors=8, active=2).draw(2000, seed=0).x
        >>> model = BlockFeatures(n_groups=16, group_size=3, active=2, steps=100).fit(x)
        >>> prepared = Preparation(torch.tensor(model.mean_).float(), model.scale_)
        >>> page = Path(tempfile.mkdtemp()) / "features.html"
        >>> record = write_features_page(
        ...     page, model.phi_, model.module_.encode, open_activations(x), preparation=prepared, samples=1000
        ... )
        >>> record.active, page.stat().st_size < 300_000
        (2.0, True)
    """
    if phi.ndim != 3 or len(phi) != activations.length:
        raise ShapeError(
            f"phi must be Φ[l, m, n] with l = {activations.length}, the length of the activations; got "
            f"{list(phi.shape)}"
        )
    count = min(whole_number(samples, name="samples"), len(activations), 1 << 16)
    if preparation is None:
        preparation = Preparation.fit(activations)
    rows = ShuffledOrder(len(activations), seed=seed).rows(0, count).sort().values

    def batches() -> Iterator[Tensor]:
        for start in range(0, count, _BATCH):
            if progress is not None:
                progress("encoding", start, count)
            yield preparation.prepare(activations[rows[start : start + _BATCH]])
        if progress is not None:
            progress("encoding", count, count)

    record = feature_record(batches(), phi, encode, seed=seed)
    data, needed = packed(record)
    places = activations.places(rows[needed])
    manifest = activations.manifest
    data["table"] = sample_table(places, kind="rows" if manifest is None else manifest.places)
    data["curves"] = curves_of(metrics)
    data["pictures"] = _thumbnails(places, record.points, _folder(activations, pictures))
    text = fill(
        _PACKAGE,
        "features.html",
        _values(record, data, title, {**_about(activations), **(settings or {})}, held_out=held_out),
    )
    replace_file(Path(path), text.encode("utf-8", "backslashreplace"))
    return record


def _values(
    record: FeatureRecord, data: Mapping[str, Any], title: str, settings: Mapping[str, object], *, held_out: bool
) -> dict[str, object]:
    length, m, n = record.shape
    bits = record.description
    dimension = record.mean_dimension
    saved = f"; {bits.gaussian:.0f} without a dictionary" if math.isfinite(bits.gaussian) else ""
    known = math.isfinite(dimension)
    numbers = [
        (f"{100 * record.unexplained:.3g} %", "of the variance unexplained"),
        (f"{record.active:.1f} of {m}", "features active in a sample"),
        (f"{100 * record.dead:.3g} %", "of the features dead"),
        (
            f"{bits.total:.0f} bits",
            f"describe a sample: {bits.support:.0f} for which features, {bits.codes:.0f} for their codes{saved}",
        ),
        (f"{dimension:.2f} of {n}" if known else "–", "dimensions used by a feature"),
        (f"{100 * dimension / n:.0f} %" if known else "–", "utilisation of the dimensions"),
    ]
    return {
        "title": _escaped(title),
        "summary": f"{m} features, each a subspace of {n} dimensions in a space of {length}, measured on "
        f"{record.samples} {'held-out samples' if held_out else 'samples, including those of training'}.",
        "numbers": "".join(
            f'<div class="number"><b>{html.escape(value)}</b><span>{html.escape(words)}</span></div>'
            for value, words in numbers
        ),
        "n": n,
        "m": m,
        "pairs": record.together.samples,
        "distortion": f"{bits.distortion:.3g}",
        "settings": _settings(settings),
        "page_style": text_of(_PACKAGE, "features.css"),
        "data": as_json(data),
        "script": "\n".join(text_of(_PACKAGE, name) for name in _SCRIPTS),
    }


def _settings(settings: Mapping[str, object]) -> str:
    rows = "".join(f"<tr><td>{_escaped(name)}</td><td>{_escaped(value)}</td></tr>" for name, value in settings.items())
    table = f'<section id="details"><h2>Settings</h2><div class="card wide"><table>{rows}</table></div></section>'
    return table if rows else ""


def _escaped(text: object) -> str:
    return html.escape(readable(str(text)))


def _about(activations: Activations) -> dict[str, object]:
    manifest = activations.manifest
    if manifest is None:
        return {}
    return {"network": manifest.model, "layer": activations.layer, "positions": manifest.places}


def _folder(activations: Activations, pictures: Path | None) -> Path | None:
    """Return the folder of the pictures of a store, if it is of pictures."""
    manifest = activations.manifest
    if manifest is None or manifest.places != "patches":
        return None
    inputs = manifest.settings.get("inputs")
    return Path(inputs) if pictures is None and isinstance(inputs, str) else pictures


def _thumbnails(places: Sequence[Place], points: Points, folder: Path | None) -> dict[str, str]:
    """Return small versions of the pictures, those that are listed most often first."""
    if folder is None:
        return {}
    counts = points.starts.diff()
    rank = torch.arange(len(points.sample)) - points.starts[:-1].repeat_interleave(counts)
    listed = rank < points.listed.repeat_interleave(counts)
    index = points.sample.unique(return_inverse=True)[1]
    uses = Counter({place.document: 0 for place in places})
    uses.update(places[place].document for place in index[listed].tolist())
    names = {place.document: place.context for place in places if place.context}
    grids = {place.document: place.grid for place in places if place.grid is not None}
    ordered = {document: names[document] for document, _ in uses.most_common() if document in names}
    return thumbnails(ordered, folder, grids)
