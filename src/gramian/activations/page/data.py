"""The data of the page: columns of numbers as text, and samples, in one block of JSON that is safe in HTML."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gramian.activations.evaluation.record import FeatureRecord

__all__ = ["as_json", "curves_of", "packed"]

_REACH = 32_767
"""Largest coordinate of a point, in the type that the page stores."""

_DTYPES = {"float32": "f4", "int16": "i2", "int32": "i4", "uint8": "u1", "uint16": "u2"}

_CURVES = ("unexplained", "active_groups", "unused", "residual", "snr", "energy", "lam")
"""Metrics of a run that are drawn, the most important first."""


def as_json(value: Any) -> str:
    r"""Return JSON in ASCII that is safe in an element `script`: no character in it can end or begin an element.

    Raises:
        ValueError: If a number is not finite.

    Examples:
        >>> as_json({"text": "</script> & \ud800 é"})
        '{"text":"\\u003c/script\\u003e \\u0026 \\ud800 \\u00e9"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def packed(record: FeatureRecord) -> tuple[dict[str, Any], Tensor]:
    """Return the measurements of all features as columns, and the indices of the samples that they refer to.

    Args:
        record: Measurements of the features.

    Returns:
        The columns, each with its type and its bytes in base64, and the samples, ascending; points refer to them by
        position.
    """
    points = record.points
    samples, places = points.sample.unique(return_inverse=True)
    m = record.shape[1]
    counts = points.starts.diff()
    limit = torch.zeros(m).scatter_reduce_(
        0, torch.arange(m).repeat_interleave(counts), points.position.abs().amax(dim=1), "amax"
    )
    scale = limit.clamp_min(1e-30).repeat_interleave(counts)
    loudest = record.largest.repeat_interleave(counts)
    tallest = record.histogram.amax(dim=1, keepdim=True).clamp_min(1)
    narrow = "uint16" if len(samples) <= 1 << 16 else "int32"
    columns = {
        "frequency": _column(record.frequency, "float32"),
        "strength": _column(record.strength, "float32"),
        "largest": _column(record.largest, "float32"),
        "dimension": _column(record.dimension, "float32"),
        "share": _column(record.share, "float32"),
        "circularity": _column(record.circularity, "float32"),
        "histogram": _column(255 * record.histogram / tallest, "uint8"),
        "tallest": _column(tallest, "int32"),
        "near": _column(record.nearest.index, "int32"),
        "overlap": _column(record.nearest.overlap, "float32"),
        "smallest": _column(record.nearest.smallest, "float32"),
        "furthest": _column(record.nearest.largest, "float32"),
        "together": _column(record.together.index, "int32"),
        "conditional": _column(record.together.conditional, "float32"),
        "lift": _column(record.together.lift, "float32"),
        "starts": _column(points.starts, "int32"),
        "listed": _column(points.listed, "uint8"),
        "limit": _column(limit, "float32"),
        "position": _column(points.position / scale[:, None] * _REACH, "int16"),
        "amplitude": _column(65_535 * points.strength / loudest, "uint16"),
        "sample": _column(places, narrow),
    }
    length, _, n = record.shape
    sizes = {
        "m": m,
        "n": n,
        "l": length,
        "samples": record.samples,
        "bins": record.histogram.shape[1],
        "neighbours": record.nearest.index.shape[1],
        "partners": record.together.index.shape[1],
    }
    return {"sizes": sizes, "columns": columns}, samples


def curves_of(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Return the curves of a run: the steps, and each drawn metric that its rows have."""
    names = [name for name in _CURVES if any(name in row for row in metrics)]
    return {name: [_finite(row.get(name)) for row in metrics] for name in ("step", *names)}


def _finite(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _column(values: Tensor, dtype: str) -> list[str]:
    array = values.numpy()
    if not dtype.startswith("float"):
        array = np.round(array)
    encoded = base64.b64encode(np.ascontiguousarray(array.astype(f"<{_DTYPES[dtype]}")).tobytes())
    return [dtype, encoded.decode("ascii")]
