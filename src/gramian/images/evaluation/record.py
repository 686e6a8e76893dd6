"""Measure all that the page of a learning run shows: on held-out patches, one picture, and gratings."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.evaluation import (
    GroupPlanes,
    GroupState,
    group_planes,
    group_state,
    snr,
    strongest_groups,
)
from gramian.coding.inference import refit
from gramian.coding.model import group_norms, reconstruct
from gramian.images.evaluation.gabor import GaborFit, fit_gabor
from gramian.images.evaluation.gabor_agreement import GaborAgreement, group_agreement
from gramian.images.evaluation.invariance import Control, PhaseResponse, phase_response, shift_control
from gramian.images.run import LearningRun
from gramian.typing import Phi

__all__ = ["HeldOutPicture", "LearningRecord", "learning_record"]

Picture = Float[Tensor, "height width *channels"]

_ACTIVE = 32
_LARGEST_SIDE = 512
_PATCHES = 2048
_EFFORT = 4e8
"""Numbers that an iteration of inference may process: with more atoms, fewer patches are encoded."""
_ENTRIES_FITTED = 1 << 17
"""Entries of the atoms with a Gabor fit: 512 atoms of 16 × 16 pixels, about ten seconds."""
_BATCH = 512

Progress = Callable[[str, int, int], object]
"""A function of a stage, its finished part, and its total."""


@dataclass(frozen=True)
class HeldOutPicture:
    """A held-out picture, encoded with the learned dictionary.

    Attributes:
        name: Name of the picture.
        whole: Height and width of the picture, of which the upper left part may be encoded.
        original: Grey values in [0, 1] of the encoded part.
        whitened: The whitened picture, in units of the patches' standard deviation.
        whitened_reconstruction: Its reconstruction from codes.
        reconstruction: The reconstruction as grey values.
        snr: Signal-to-noise ratio of whole codes over all overlapping patches of this picture, dB.
        active_groups: Mean number of active groups of a patch.
        amplitudes: ‖a_i‖ of every group at every place.
        directions: a_i/‖a_i‖ of every group at every place; 0 where the group is inactive.
    """

    name: str
    whole: tuple[int, int]
    original: Picture
    whitened: Picture
    whitened_reconstruction: Picture
    reconstruction: Picture
    snr: float
    active_groups: float
    amplitudes: Float[Tensor, "m rows columns"]
    directions: Float[Tensor, "m n rows columns"]


@dataclass(frozen=True)
class LearningRecord:
    """The data of the page of a learning run.

    Attributes:
        title: Heading of the report.
        settings: Settings of the run, in the order of the page.
        versions: Names and versions of packages and machine.
        steps: Number of finished steps, and of all steps.
        patch: Side of a patch, pixels.
        channels: Channels of a pixel: 1, or 3 for colours.
        initial_phi: The dictionary before the first step.
        phi: The learned dictionary.
        lam: Sparsity λ after learning, used for all codes here.
        images: Path of the pictures; None for those that packages ship.
        usage: Mean amplitude of every group on held-out patches.
        state: State of the groups.
        metrics: Rows of metrics.
        patches: Number of held-out patches for both SNRs and `usage`.
        active: Number of coefficients for both SNRs.
        snr_active: SNR with that number of coefficients, dB.
        snr_debiased: The same after least squares on the support, dB.
        held_out: A held-out picture with its codes.
        shift: Correlations of responses under a shift, by the number of pixels.
        phase: Responses to gratings of every phase.
        planes: The plane within each group that codes of held-out patches use most; None for single atoms.
        gabor: The Gabor functions nearest to the atoms; NaN for the least used groups of a large dictionary, which are
            not fitted.
        agreement: Similarity of the Gabor functions within groups.
    """

    title: str
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    steps: tuple[int, int]
    patch: int
    channels: int
    initial_phi: Phi
    phi: Phi
    lam: float
    images: str | None
    usage: Float[Tensor, " m"]
    state: GroupState
    metrics: Sequence[Mapping[str, float]]
    patches: int
    active: int
    snr_active: float
    snr_debiased: float
    held_out: HeldOutPicture
    shift: Mapping[int, Control]
    phase: PhaseResponse
    planes: GroupPlanes | None
    gabor: GaborFit
    agreement: GaborAgreement

    @property
    def grey_phi(self) -> Phi:
        """The dictionary with the mean of the channels of every pixel."""
        return self.phi.unflatten(0, (self.patch**2, self.channels)).mean(dim=1)


def learning_record(run: LearningRun, progress: Progress | None = None) -> LearningRecord:
    """Measure the dictionary of a run on held-out patches, on one held-out picture, and on gratings.

    Args:
        run: A run.
        progress: A function that is called repeatedly with the stage, its finished part, and its total.

    Cost:
        Inference on a few thousand patches, fewer with more atoms: a few seconds. Gabor fits of the most used groups,
        at most 512 atoms of 16 × 16 pixels: about ten seconds.
    """
    report = progress or _silent
    m, n = run.phi.shape[1:]
    x = run.held_out_patches(min(_PATCHES, _affordable(run)))
    codes = _codes(run, x, "held-out patches", report)
    usage = group_norms(codes).mean(dim=0)
    channels = run.preparation.channels
    active = n * min(m, max(1, _ACTIVE // n))
    picture = _held_out_picture(run, report)
    shift = _shifts(run, report)
    report("gratings", 0, 1)
    phase = phase_response(
        run.phi,
        lam=run.learner.lam,
        prior=run.settings.prior,
        infer=run.settings.infer,
        phases=max(8, min(24, _affordable(run) // 72)),
        channels=channels,
    )
    report("gratings", 1, 1)
    gabor, fitted = _gabor(run, usage, report)
    return LearningRecord(
        title="Groups of atoms learned from images",
        settings={
            name: {"images": "shipped with packages", "target_active": "none"}.get(name) if value is None else value
            for name, value in asdict(run.settings).items()
        },
        versions={
            "gramian": version("gramian"),
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
        snr_debiased=snr(x, reconstruct(run.phi, refit(x, run.phi, strongest_groups(codes, active)))),
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
    """Return the number of patches that can be inferred in a few seconds."""
    length, m, n = run.phi.shape
    return max(128, int(_EFFORT / (m * n * (50 + min(m * n, 2 * length)))))


def _codes(run: LearningRun, x: Float[Tensor, "count l"], stage: str, report: Progress) -> Float[Tensor, "count m n"]:
    parts: list[Tensor] = []
    report(stage, 0, len(x))
    for part in x.split(_BATCH):
        parts.append(run.encode(part).codes)
        report(stage, sum(map(len, parts)), len(x))
    return torch.cat(parts)


def _held_out_picture(run: LearningRun, report: Progress) -> HeldOutPicture:
    image = run.split.held_out[0]
    size, stride = run.settings.patch, max(1, run.settings.patch // 2)
    side = min(_LARGEST_SIDE, stride * int(_affordable(run) ** 0.5) + size)
    pixels = image.pixels[:side, :side]
    samples = run.preparation.samples(pixels, stride=stride)
    codes = _codes(run, samples.x, "a held-out picture", report)
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


def _shifts(run: LearningRun, report: Progress) -> dict[int, Control]:
    size, most = run.settings.patch, min(2 * _PATCHES, _affordable(run))
    codes = {}
    for pixels in (0, 1, 2):
        moved = [image.pixels[:, pixels : image.pixels.shape[1] - 2 + pixels] for image in run.split.held_out]
        x = torch.cat([run.preparation.samples(picture, stride=size).x for picture in moved])
        chosen = torch.arange(min(len(x), most)) * len(x) // min(len(x), most)  # the same patches, shifted
        codes[pixels] = _codes(run, x[chosen], f"patches moved by {pixels}", report)
    return {pixels: shift_control(codes[0], codes[pixels]) for pixels in (1, 2)}


def _gabor(run: LearningRun, usage: Float[Tensor, " m"], report: Progress) -> tuple[GaborFit, GaborFit]:
    """Fit Gabor functions to the most used groups; return fits of all groups (nan for others) and of these only."""
    length, m, n = run.phi.shape
    channels = run.preparation.channels
    grey = run.phi.unflatten(0, (length // channels, channels)).mean(dim=1)
    most = max(1, _ENTRIES_FITTED // (len(grey) * n))
    chosen = usage.argsort(descending=True)[:most].sort().values
    parts: list[GaborFit] = []
    report("Gabor functions", 0, len(chosen))
    for part in chosen.split(max(1, 64 // n)):
        parts.append(fit_gabor(grey[:, part]))
        report("Gabor functions", sum(len(fit.row) for fit in parts), len(chosen))
    names = [field.name for field in fields(GaborFit)]
    fitted = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    empty = run.phi.new_full((m, n), torch.nan)
    return GaborFit(**{name: empty.index_copy(0, chosen, fitted[name]) for name in names}), GaborFit(**fitted)
