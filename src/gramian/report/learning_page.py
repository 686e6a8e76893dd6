"""A learning run as one page."""

import html
from collections.abc import Mapping

import torch
from torch import Tensor

from gramian.kernels import dense
from gramian.report import curves, pictures
from gramian.report.gabors import gabor_section
from gramian.report.page import as_data, fill
from gramian.report.record import LearningRecord
from gramian.report.turning import turning_section

__all__ = ["render_report"]

_MAPS = 8


def render_report(record: LearningRecord) -> str:
    """Draw a learning run as an HTML page with all pictures inside.

    Args:
        record: What was measured.

    Returns:
        The text of the page, UTF-8. The same record gives the same text.
    """
    _, m, n = record.phi.shape
    order = record.usage.argsort(descending=True)
    silent = int((record.usage == 0).sum())
    before, after = (float(dense.residual(phi).abs().max()) for phi in (record.initial_phi, record.phi))
    picture = record.held_out
    limit = 4.0 * float(picture.whitened.std())
    done, steps = record.steps
    values = {
        "title": html.escape(record.title),
        "summary": _summary(record),
        "numbers": _numbers(
            {
                f"{before:.1g} → {after:.0e}": "largest |ΦᵀΦ − I| within a group, before → after",
                f"{record.snr_active:.2f} / {record.snr_debiased:.2f} dB": f"held-out SNR at {record.active} "
                "coefficients, as inferred / after least squares",
                f"{record.metrics[-1]['active_groups']:.1f} of {m}" if record.metrics else "–": "groups active in a "
                "held-out patch",
                f"{100 * record.state.collapsed:.0f} %": "groups with two atoms of |cos| > 0.5",
                f"{record.metrics[-1]['seconds']:.0f} s" if record.metrics else "–": f"for {done} of {steps} steps",
            }
        ),
        "m": m,
        "n": n,
        "atoms": as_data(pictures.png(pictures.atoms_picture(record.phi, order, channels=record.channels))),
        "dead": f"{silent} groups were silent on held-out patches; they stand last."
        if silent
        else "Every group is in use.",
        "turning": turning_section(record, order),
        "gabor": gabor_section(record, order),
        "residual_before": as_data(pictures.png(pictures.residual_picture(record.initial_phi, order))),
        "residual_after": as_data(pictures.png(pictures.residual_picture(record.phi, order))),
        "largest_before": f"{before:.2g}",
        "largest_after": f"{after:.0e}",
        "histogram": curves.cosine_histogram(record.initial_phi, record.phi) if n > 1 else "",
        "curves": curves.training_curves(record.metrics),
        "name": html.escape(picture.name),
        "maps": _maps(record, order),
        "picture_active": f"{picture.active_groups:.1f}",
        "picture_snr": f"{picture.snr:.1f}",
        "original": as_data(pictures.png(pictures.gray_picture(picture.original))),
        "reconstruction": as_data(pictures.png(pictures.gray_picture(picture.reconstruction))),
        "whitened": as_data(pictures.png(pictures.signed_picture(picture.whitened, limit=limit))),
        "whitened_reconstruction": as_data(
            pictures.png(pictures.signed_picture(picture.whitened_reconstruction, limit=limit))
        ),
        "phase": curves.phase_curves(record.phase),
        "controls": _controls(record),
        "settings": _rows(record.settings),
        "versions": _rows(record.versions),
        "shape": html.escape(str(list(record.phi.shape))),
        "lam": html.escape(str(record.settings.get("lam", 2.0))),
    }
    return fill("learning.html", values)


def _summary(record: LearningRecord) -> str:
    length, m, n = record.phi.shape
    done, steps = record.steps
    stopped = "" if done >= steps else f" It was stopped at step {done} of {steps}, and can be resumed."
    return (
        f"A dictionary of {m} groups of {n} atoms of {record.patch} × {record.patch} pixels ({length} numbers), "
        f"learned from images with a prior that switches whole groups on and off, while every group is kept "
        f"orthonormal.{stopped}"
    )


def _numbers(numbers: Mapping[str, str]) -> str:
    return "".join(
        f'<div class="number"><b>{html.escape(value)}</b><span>{html.escape(text)}</span></div>'
        for value, text in numbers.items()
    )


def _maps(record: LearningRecord, order: Tensor) -> str:
    shown = order[:_MAPS].tolist()
    amplitudes, directions = record.held_out.amplitudes, record.held_out.directions
    largest = float(torch.quantile(amplitudes[shown].flatten()[:: max(1, amplitudes[shown].numel() // 100_000)], 0.995))
    cells: list[str] = []
    for group in shown:
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
