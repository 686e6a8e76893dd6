"""From a learning run to the record that its report is drawn from."""

import platform
from collections.abc import Callable
from dataclasses import asdict, fields

import torch
from jaxtyping import Float
from torch import Tensor

import gramian
from gramian.coding import (
    Control,
    GaborFit,
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
_EFFORT = 4e8
"""Numbers that an iteration of inference may touch, about a second of it: of more atoms fewer patches are taken."""
_NUMBERS_OF_ATOMS = 1 << 18
"""Numbers of atoms that Gabor functions are fitted to: 1024 atoms of 16 × 16 pixels."""
_AT_ONCE = 512

Progress = Callable[[str, int, int], object]
"""Told a stage, and how much of it is done: (stage, done, total)."""


def learning_record(run: LearningRun, progress: Progress | None = None) -> LearningRecord:
    """Measure what a run has learned: on held-out patches, on one held-out picture, and on gratings.

    Args:
        run: A run.
        progress: Told, again and again, the stage, how much of it is done, and how much there is of it.

    Cost:
        A few seconds, whatever the dictionary: inference on at most some thousands of patches, fewer with more atoms,
        and a Gabor fit of the atoms of the most used groups, at most 1024 of 16 × 16 pixels.
    """
    tell = progress or _silent
    m, n = run.phi.shape[1:]
    x = run.held_out_patches(min(_PATCHES, _affordable(run)))
    codes = _codes(run, x, "held-out patches", tell)
    usage = group_norms(codes).mean(dim=0)
    channels = run.preparation.channels
    active = n * min(m, max(1, _ACTIVE // n))
    picture = _held_out_picture(run, tell)
    shift = _shifts(run, tell)
    tell("gratings", 0, 1)
    phase = phase_response(
        run.phi,
        lam=run.learner.lam,
        prior=run.settings.prior,
        infer=run.settings.infer,
        phases=max(8, min(24, _affordable(run) // 72)),
        channels=channels,
    )
    tell("gratings", 1, 1)
    gabor, fitted = _gabor(run, usage, tell)
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
        lam=run.learner.lam,
        images=run.settings.images,
        usage=usage,
        state=group_state(run.phi),
        metrics=run.metrics,
        patches=len(x),
        active=active,
        snr_active=snr(x, reconstruct(run.phi, strongest_groups(codes, active))),
        snr_debiased=snr(x, reconstruct(run.phi, debias(x, run.phi, codes, active))),
        held_out=picture,
        shift=shift,
        phase=phase,
        planes=group_planes(codes) if n > 1 else None,
        gabor=gabor,
        agreement=group_agreement(fitted),
    )


def _silent(stage: str, done: int, total: int) -> None:
    pass


def _affordable(run: LearningRun) -> int:
    """Give the number of patches whose inference takes some seconds: it grows with atoms, and with products."""
    length, m, n = run.phi.shape
    return max(128, int(_EFFORT / (m * n * (50 + min(m * n, 2 * length)))))


def _codes(run: LearningRun, x: Float[Tensor, "count l"], stage: str, tell: Progress) -> Float[Tensor, "count m n"]:
    parts: list[Tensor] = []
    tell(stage, 0, len(x))
    for part in x.split(_AT_ONCE):
        parts.append(run.encode(part).codes)
        tell(stage, sum(map(len, parts)), len(x))
    return torch.cat(parts)


def _held_out_picture(run: LearningRun, tell: Progress) -> HeldOutPicture:
    image = run.split.held_out[0]
    size, stride = run.settings.patch, max(1, run.settings.patch // 2)
    side = min(_LARGEST_SIDE, stride * int(_affordable(run) ** 0.5) + size)
    pixels = image.pixels[:side, :side]
    samples = run.preparation.samples(pixels, stride=stride)
    codes = _codes(run, samples.x, "a held-out picture", tell)
    reached = reconstruct(run.phi, codes)
    whitened, restored = (run.preparation.join(x, samples) / run.preparation.scale for x in (samples.x, reached))
    rows = -(-(pixels.shape[0] - size) // stride) + 1
    amplitudes = group_norms(codes)
    directions = codes / amplitudes[..., None].clamp_min(torch.finfo(amplitudes.dtype).tiny)
    return HeldOutPicture(
        name=image.name,
        whole=(image.pixels.shape[0], image.pixels.shape[1]),
        original=pixels,
        whitened=whitened,
        whitened_reconstruction=restored,
        reconstruction=run.preparation.picture(reached, samples),
        snr=snr(samples.x, reached),
        active_groups=float((amplitudes > 0).sum(dim=1).double().mean()),
        amplitudes=amplitudes.unflatten(0, (rows, -1)).permute(2, 0, 1),
        directions=directions.unflatten(0, (rows, -1)).permute(2, 3, 0, 1),
    )


def _shifts(run: LearningRun, tell: Progress) -> dict[int, Control]:
    size, most = run.settings.patch, min(2 * _PATCHES, _affordable(run))
    codes = {}
    for pixels in (0, 1, 2):
        moved = [image.pixels[:, pixels : image.pixels.shape[1] - 2 + pixels] for image in run.split.held_out]
        x = torch.cat([run.preparation.samples(picture, stride=size).x for picture in moved])
        chosen = torch.arange(min(len(x), most)) * len(x) // min(len(x), most)  # the same patches, moved
        codes[pixels] = _codes(run, x[chosen], f"patches moved by {pixels}", tell)
    return {pixels: shift_control(codes[0], codes[pixels]) for pixels in (1, 2)}


def _gabor(run: LearningRun, usage: Float[Tensor, " m"], tell: Progress) -> tuple[GaborFit, GaborFit]:
    """Fit Gabor functions to the most used groups; give the fits in the place of their groups, and by themselves."""
    length, m, n = run.phi.shape
    channels = run.preparation.channels
    grey = run.phi.unflatten(0, (length // channels, channels)).mean(dim=1)
    most = max(1, _NUMBERS_OF_ATOMS // (len(grey) * n))
    chosen = usage.argsort(descending=True)[:most].sort().values
    parts: list[GaborFit] = []
    tell("Gabor functions", 0, len(chosen))
    for part in chosen.split(max(1, 64 // n)):
        parts.append(fit_gabor(grey[:, part]))
        tell("Gabor functions", sum(len(each.row) for each in parts), len(chosen))
    names = [field.name for field in fields(GaborFit)]
    fitted = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    empty = run.phi.new_full((m, n), torch.nan)
    return GaborFit(**{name: empty.index_copy(0, chosen, fitted[name]) for name in names}), GaborFit(**fitted)
