"""Render a learning run as one HTML page."""

import html
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gramian.images.evaluation.record import LearningRecord
from gramian.images.page.gabors import gabor_section
from gramian.images.page.groups import MOST_DRAWN, groups_figure
from gramian.images.page.sample_code import sample_code
from gramian.images.page.turning import turning_section
from gramian.kernels import reference
from gramian.report import curves, pictures
from gramian.report.page import as_data, fill

__all__ = ["render_report"]

_MAPS = 8
_PIXELS = 1 << 21
"""Largest number of pixels of a picture of residuals."""


def render_report(record: LearningRecord, progress: Callable[[str, int, int], object] | None = None) -> str:
    """Render a learning run as an HTML page with all pictures inside.

    Args:
        record: Measurements of the run.
        progress: A function that is called repeatedly with the stage, its finished part, and its total.

    Returns:
        The text of the page, UTF-8. The same record gives the same text.
    """
    order = record.usage.argsort(descending=True)
    parts = (_numbers_of, _groups, _orthogonality, _training, _picture, _invariance, _use)
    values: dict[str, object] = {}
    for done, part in enumerate(parts):
        if progress is not None:
            progress("the page", done, len(parts))
        values |= part(record, order)
    if progress is not None:
        progress("the page", len(parts), len(parts))
    # A name that is not UTF-8 has lone surrogates, which a text file cannot hold.
    return fill("gramian.images.page", "learning.html", values).encode("utf-8", "backslashreplace").decode("utf-8")


def _numbers_of(record: LearningRecord, order: Tensor) -> dict[str, object]:  # noqa: ARG001
    _, m, n = record.phi.shape
    before, after = (float(reference.residual(phi).abs().max()) for phi in (record.initial_phi, record.phi))
    done, steps = record.steps
    last = record.metrics[-1] if record.metrics else None
    return {
        "title": html.escape(record.title),
        "summary": _summary(record),
        "numbers": _numbers(
            {
                f"{before:.1g} → {after:.0e}": "largest |ΦᵀΦ − I| within a group, before → after",
                f"{record.snr_active:.2f} / {record.snr_debiased:.2f} dB": f"SNR at {record.active} coefficients of "
                f"{record.patches} held-out patches, as inferred / after least squares",
                f"{last['active_groups']:.1f} of {m}" if last else "–": "groups active in a held-out patch",
                f"{100 * record.state.collapsed:.0f} %": "groups with two atoms of |cos| > 0.5",
                f"{last['seconds']:.0f} s" if last else "–": f"for {done} of {steps} steps",
            }
        ),
        "m": m,
        "n": n,
        "active": record.active,
        "patches": record.patches,
        "largest_before": f"{before:.2g}",
        "largest_after": f"{after:.0e}",
    }


def _groups(record: LearningRecord, order: Tensor) -> dict[str, object]:
    m = record.phi.shape[1]
    silent = int((record.usage == 0).sum())
    return {
        "atoms": groups_figure(record, order),
        "drawn": f" Drawn are the {MOST_DRAWN} most used of {m} groups." if m > MOST_DRAWN else "",
        "dead": f"{silent} groups were inactive on held-out patches; they come last."
        if silent
        else "Every group is in use.",
        "turning": turning_section(record, order),
        "gabor": gabor_section(record, order),
    }


def _orthogonality(record: LearningRecord, order: Tensor) -> dict[str, object]:
    most_used = order[:MOST_DRAWN]
    side = max(1, math.isqrt(_PIXELS // len(most_used)))
    sizes = [pictures.residual_sizes(phi, most_used, side=side) for phi in (record.initial_phi, record.phi)]
    blocks = [pictures.residual_picture(each) for each in sizes]
    return {
        "residual_before": as_data(pictures.png(blocks[0])),
        "residual_after": as_data(pictures.png(blocks[1])),
        "histogram": curves.cosine_histogram(record.initial_phi, record.phi) if record.phi.shape[2] > 1 else "",
    }


def _training(record: LearningRecord, order: Tensor) -> dict[str, object]:  # noqa: ARG001
    return {"curves": curves.training_curves(record.metrics)}


def _picture(record: LearningRecord, order: Tensor) -> dict[str, object]:
    picture = record.held_out
    limit = 4.0 * float(picture.whitened.std())
    height, width = picture.original.shape[:2]
    part = f" (its upper left {height} × {width} pixels)" if (height, width) != picture.whole else ""
    return {
        "name": html.escape(picture.name) + part,
        "maps": _maps(record, order),
        "picture_active": f"{picture.active_groups:.1f}",
        "picture_snr": f"{picture.snr:.1f}",
        "original": as_data(pictures.png(pictures.gray_picture(picture.original))),
        "reconstruction": as_data(pictures.png(pictures.gray_picture(picture.reconstruction))),
        "whitened": as_data(pictures.png(pictures.signed_picture(picture.whitened, limit=limit))),
        "whitened_reconstruction": as_data(
            pictures.png(pictures.signed_picture(picture.whitened_reconstruction, limit=limit))
        ),
    }


def _invariance(record: LearningRecord, order: Tensor) -> dict[str, object]:  # noqa: ARG001
    return {
        "phase": curves.phase_curves(record.phase.phases, record.phase.amplitude, record.phase.coefficient),
        "controls": _controls(record),
        "inferred": html.escape(
            f"λ = {record.lam:.4g}, prior {record.settings['prior']}, by {record.settings['infer']}"
        ),
    }


def _use(record: LearningRecord, order: Tensor) -> dict[str, object]:  # noqa: ARG001
    return {
        "settings": _rows({**record.settings, "λ after learning": f"{record.lam:.6g}"}),
        "versions": _rows(record.versions),
        "code": html.escape(sample_code(record)),
    }


def _summary(record: LearningRecord) -> str:
    length, m, n = record.phi.shape
    done, steps = record.steps
    stopped = "" if done >= steps else f" It was stopped at step {done} of {steps}, and can be resumed."
    return (
        f"A dictionary of {m} groups of {n} atoms of {record.patch} × {record.patch} pixels ({length} numbers), "
        f"learned from images with a prior that switches whole groups on and off, and with orthonormal groups."
        f"{stopped}"
    )


def _numbers(numbers: Mapping[str, str]) -> str:
    return "".join(
        f'<div class="number"><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>'
        for value, text in numbers.items()
    )


def _maps(record: LearningRecord, order: Tensor) -> str:
    most_used = order[:_MAPS].tolist()
    amplitudes, directions = record.held_out.amplitudes, record.held_out.directions
    largest = float(
        torch.quantile(amplitudes[most_used].flatten()[:: max(1, amplitudes[most_used].numel() // 100_000)], 0.995)
    )
    cells: list[str] = []
    for group in most_used:
        atoms = pictures.atoms_picture(record.phi[:, [group], :], columns=1, channels=record.channels)
        size = pictures.amplitude_picture(amplitudes[group], largest=largest)
        cells += ["<figure>", _crisp(f"the atoms of group {group}", atoms), _crisp(f"amplitude of group {group}", size)]
        if record.phi.shape[2] > 1:
            hue = pictures.direction_picture(amplitudes[group], directions[group], largest=largest)
            cells.append(_crisp(f"direction of group {group}", hue))
        cells.append(f"<figcaption>group {group}</figcaption></figure>")
    return "".join(cells)


def _crisp(text: str, pixels: pictures.Pixels) -> str:
    return f'<img class="crisp" alt="{text}" src="{as_data(pictures.png(pixels))}">'


def _controls(record: LearningRecord) -> str:
    rows = [("variation over phase (smaller is more invariant)", record.phase.variation)]
    rows += [
        (f"correlation under a shift of {pixels} pixel{'s' if pixels > 1 else ''}", control)
        for pixels, control in record.shift.items()
    ]
    return "".join(
        f'<tr><td>{text}</td><td class="n">{control.learned:.2f}</td><td class="n">{control.random_groups:.2f}</td>'
        f'<td class="n">{control.single:.2f}</td></tr>'
        for text, control in rows
    )


def _rows(table: Mapping[str, object]) -> str:
    return "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>" for name, value in table.items()
    )
