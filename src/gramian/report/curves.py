"""Draw curves as SVG that is readable on light and dark pages."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from gramian.coding import within_group_cosines
from gramian.errors import needs_extra
from gramian.typing import Phi

__all__ = ["RESIDUAL_EDGES", "cosine_histogram", "phase_curves", "residual_histogram", "training_curves"]

RESIDUAL_EDGES = np.logspace(-9, 2, 56)
"""Edges of the bins of |X_jk|."""

_INK = "#7a7a7a"
_COLOURS = ("#3b82c4", "#d9663a", "#4a9b6e")


def training_curves(metrics: Sequence[Mapping[str, float]]) -> str:
    """Draw the terms of the energy, the residual, the active groups and the SNR over the steps."""
    figure, axes = _figure(2, 2, width=9.6, height=4.8)
    steps = [row["step"] for row in metrics]
    panels: tuple[tuple[str, tuple[tuple[str, str], ...], bool], ...] = (
        ("energy of a held-out patch", (("reconstruction", "reconstruction"), ("sparsity", "sparsity")), False),
        ("orthogonality", (("orthogonality", "L/β = Σ |X|"), ("residual", "largest |X|")), True),
        ("active groups of a held-out patch", (("active_groups", ""),), False),
        ("SNR of whole codes of held-out patches, dB", (("snr", ""),), False),
    )
    for axis, (title, series, logarithmic) in zip(axes, panels, strict=True):
        for (key, label), colour in zip(series, _COLOURS, strict=False):
            values = np.asarray([row[key] for row in metrics], dtype=float)
            if logarithmic:
                values = np.where(values > 0, values, np.nan)
                axis.set_yscale("log" if np.isfinite(values).any() else "linear")
            axis.plot(steps, values, color=colour, label=label, marker="." if len(steps) < 3 else None, linewidth=1.6)
        if len(series) > 1:
            axis.legend(frameon=False, labelcolor=_INK, fontsize=8)
        axis.set_title(title, color=_INK, fontsize=9, loc="left")
    for axis in axes[2:]:
        axis.set_xlabel("step", color=_INK, fontsize=8)
    return _svg(figure)


def cosine_histogram(before: Phi, after: Phi) -> str:
    """Draw histograms of the |cos| of angles within groups, before and after learning, on a logarithmic axis."""
    figure, (axis,) = _figure(1, 1, width=5.6, height=2.4)
    edges = np.logspace(-9, 0, 46)
    for phi, colour, label in ((before, _COLOURS[1], "before learning"), (after, _COLOURS[0], "after learning")):
        cosines = within_group_cosines(phi).flatten().numpy()
        axis.hist(np.clip(cosines, edges[0], 1), bins=edges, color=colour, alpha=0.75, label=label)
    axis.set_xscale("log")
    axis.set_xlabel("|cos| of the angle between two atoms of a group", color=_INK, fontsize=8)
    axis.set_ylabel("pairs", color=_INK, fontsize=8)
    axis.legend(frameon=False, labelcolor=_INK, fontsize=8)
    return _svg(figure)


def residual_histogram(lengths: Int64[ndarray, " bins"], angles: Int64[ndarray, " bins"]) -> str:
    """Draw histograms of |X_jj| and of |X_jk|, j ≠ k, on a logarithmic axis."""
    figure, (axis,) = _figure(1, 1, width=5.6, height=3.0)
    # In percent, because there are n entries |X_jj| and n(n − 1)/2 entries |X_jk|.
    for counts, colour, label in (
        (angles, _COLOURS[0], "two vectors, |⟨p, q⟩|"),
        (lengths, _COLOURS[1], "one vector, |‖p‖² − 1|"),
    ):
        if counts.sum():
            axis.stairs(100 * counts / counts.sum(), RESIDUAL_EDGES, fill=True, color=colour, alpha=0.7, label=label)
    axis.set_xscale("log")
    axis.set_xlim(RESIDUAL_EDGES[0], max(1.0, RESIDUAL_EDGES[1:][(lengths + angles) > 0].max(initial=1.0)))
    axis.set_xlabel("|X_jk|", color=_INK, fontsize=8)
    axis.set_ylabel("% of them", color=_INK, fontsize=8)
    axis.legend(frameon=False, labelcolor=_INK, fontsize=8)
    return _svg(figure)


def phase_curves(
    phases: Float[Tensor, " phases"], amplitude: Float[Tensor, " phases"], coefficient: Float[Tensor, " phases"]
) -> str:
    """Draw a group's amplitude and one of its coefficients over the phase of a grating."""
    figure, (axis,) = _figure(1, 1, width=5.2, height=2.8)
    degrees = np.rad2deg(phases.numpy())
    axis.plot(degrees, amplitude.numpy(), color=_COLOURS[0], label="amplitude of the group", linewidth=2)
    axis.plot(degrees, coefficient.numpy(), color=_COLOURS[1], label="its strongest |coefficient|", linewidth=1.6)
    axis.set_ylim(bottom=0)
    axis.set_xticks([0, 90, 180, 270, 360])
    axis.set_xlabel("phase of the grating, degrees", color=_INK, fontsize=8)
    axis.legend(frameon=False, labelcolor=_INK, fontsize=8, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
    return _svg(figure)


def _figure(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, list[Any]]:
    with needs_extra("gramian.report", "coding"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.tick_params(colors=_INK, labelsize=8)
        axis.grid(color=_INK, alpha=0.18, linewidth=0.6)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_INK)
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt and no date, so that the same run gives the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gramian", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
