"""From a learning run to the record that its report is drawn from."""

import platform
from dataclasses import asdict

import torch

import gramian
from gramian.coding import (
    Control,
    debias,
    fit_gabor,
    group_agreement,
    group_norms,
    group_planes,
    group_state,
    phase_response,
    reconstruct,
    shift_control,
    snr,
    strongest_groups,
)
from gramian.coding.learning_run import LearningRun
from gramian.report import HeldOutPicture, LearningRecord

__all__ = ["learning_record"]

_ACTIVE = 32
_LARGEST_SIDE = 512
_PATCHES = 2048


def learning_record(run: LearningRun) -> LearningRecord:
    """Measure what a run has learned: on held-out patches, on one held-out picture, and on gratings.

    Cost:
        A few seconds: inference on some thousands of patches, and a Gabor fit of every atom.
    """
    m, n = run.phi.shape[1:]
    x = run.held_out_patches(_PATCHES)
    codes = run.encode(x).codes
    channels = run.preparation.channels
    gabor = fit_gabor(run.phi.unflatten(0, (run.settings.patch**2, channels)).mean(dim=1))
    active = n * min(m, max(1, _ACTIVE // n))
    return LearningRecord(
        title="Groups of atoms learned from images",
        settings={
            name: {"images": "shipped with packages", "target_active": "none"}.get(name) if value is None else value
            for name, value in asdict(run.settings).items()
        },
        versions={
            "gramian": gramian.__version__,
            "torch": torch.__version__,
            "Python": platform.python_version(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
        steps=(run.step, run.settings.steps),
        patch=run.settings.patch,
        channels=channels,
        initial_phi=run.initial_phi,
        phi=run.phi,
        usage=group_norms(codes).mean(dim=0),
        state=group_state(run.phi),
        metrics=run.metrics,
        active=active,
        snr_active=snr(x, reconstruct(run.phi, strongest_groups(codes, active))),
        snr_debiased=snr(x, reconstruct(run.phi, debias(x, run.phi, codes, active))),
        held_out=_held_out_picture(run),
        shift=_shifts(run),
        phase=phase_response(run.phi, lam=run.learner.lam, channels=channels),
        planes=group_planes(codes) if n > 1 else None,
        gabor=gabor,
        agreement=group_agreement(gabor),
    )


def _held_out_picture(run: LearningRun) -> HeldOutPicture:
    image = run.split.held_out[0]
    pixels = image.pixels[:_LARGEST_SIDE, :_LARGEST_SIDE]
    size, stride = run.settings.patch, max(1, run.settings.patch // 2)
    samples = run.preparation.samples(pixels, stride=stride)
    codes = run.encode(samples.x).codes
    reached = reconstruct(run.phi, codes)
    whitened, restored = (run.preparation.join(x, samples) / run.preparation.scale for x in (samples.x, reached))
    rows = -(-(pixels.shape[0] - size) // stride) + 1
    amplitudes = group_norms(codes)
    directions = codes / amplitudes[..., None].clamp_min(torch.finfo(amplitudes.dtype).tiny)
    return HeldOutPicture(
        name=image.name,
        original=pixels,
        whitened=whitened,
        whitened_reconstruction=restored,
        reconstruction=run.preparation.picture(reached, samples),
        snr=snr(samples.x, reached),
        active_groups=float((amplitudes > 0).sum(dim=1).double().mean()),
        amplitudes=amplitudes.unflatten(0, (rows, -1)).permute(2, 0, 1),
        directions=directions.unflatten(0, (rows, -1)).permute(2, 3, 0, 1),
    )


def _shifts(run: LearningRun) -> dict[int, Control]:
    size = run.settings.patch
    codes = {}
    for pixels in (0, 1, 2):
        moved = [image.pixels[:, pixels : image.pixels.shape[1] - 2 + pixels] for image in run.split.held_out]
        x = torch.cat([run.preparation.samples(picture, stride=size).x for picture in moved])
        codes[pixels] = run.encode(x).codes
    return {pixels: shift_control(codes[0], codes[pixels]) for pixels in (1, 2)}
