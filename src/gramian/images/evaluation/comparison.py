"""Learn several dictionaries from the same data and measure the effect of the penalty and of groups."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning

from gramian.coding.evaluation.measures import group_state, snr, strongest_groups
from gramian.coding.inference import infer, refit
from gramian.coding.model import reconstruct
from gramian.images.evaluation.invariance import shift_control
from gramian.images.run import LearningRun, RunSettings
from gramian.typing import Phi

__all__ = ["Compared", "compare"]

_ACTIVE = 32
_PATCHES = 2048
_WARM_UP = 3
"""Untimed steps before the run, which load and compile kernels; the run then starts from its initial state."""


@dataclass(frozen=True)
class Compared:
    """The measurements of one learned dictionary.

    Attributes:
        name: How the dictionary was learned.
        seconds: Wall time of the learning steps only, after a warm-up.
        cosine: Median over groups of the largest |cos| of two atoms.
        collapsed: Fraction of groups with two atoms of |cos| > 0.5.
        effective_rank: Mean effective rank of a group.
        active: Number of coefficients for both SNRs; the same for all dictionaries.
        snr: Held-out SNR at that number of coefficients, dB.
        debiased: The same after least squares on the support, dB.
        shift: Correlation of amplitudes under a shift of a pixel.
        random: The same for random groups of the same atoms.
    """

    name: str
    seconds: float
    cosine: float
    collapsed: float
    effective_rank: float
    active: int
    snr: float
    debiased: float
    shift: float
    random: float


def compare(settings: RunSettings) -> Iterator[Compared]:
    """Learn groups with the penalty and without it, single atoms, and scikit-learn's dictionary, on the same patches.

    The dictionaries are learned one after the other. All are measured at the same number of coefficients: the largest
    multiple of the group size up to 32, and at least one group.

    Args:
        settings: Settings of the groups with the penalty; the others have the same numbers of atoms and steps.

    Returns:
        An iterator over the measurements of the four dictionaries.

    Raises:
        DataError: If the pictures cannot be used.
        OptionError: If the settings do not fit the pictures.
    """
    n = settings.size
    active = n * max(1, min(settings.groups, _ACTIVE // n))
    run = LearningRun(settings)
    yield _measured(f"groups of {n}, with the penalty", run, *_learned(run), active)
    without = LearningRun(settings)
    without.learner.rule = None
    yield _measured(f"groups of {n}, without", without, *_learned(without), active)
    target = None if settings.target_active is None else n * settings.target_active
    single = LearningRun(replace(settings, groups=settings.groups * n, size=1, target_active=target))
    yield _measured("single atoms", single, *_learned(single), active)
    yield _measured("scikit-learn", single, *_scikit_learn(single), active)


def _learned(run: LearningRun) -> tuple[Phi, float]:
    run.seconds_per_step(_WARM_UP)  # restores the state of the run
    began = time.perf_counter()
    while not run.finished:
        run.advance()
    return run.phi, time.perf_counter() - began


def _scikit_learn(run: LearningRun) -> tuple[Phi, float]:
    settings = run.settings
    make: Any = MiniBatchDictionaryLearning  # its stub declares alpha as an integer
    options: dict[str, Any] = {
        "n_components": settings.groups,
        "alpha": run.learner.lam,
        "batch_size": settings.batch,
        "fit_algorithm": "cd",
        "dict_init": run.initial_phi.flatten(1).mT.numpy().astype(np.float64),
        "random_state": settings.seed,
        "transform_algorithm": "lasso_cd",
    }

    def advance(model: Any, step: int) -> None:
        model.partial_fit(run.train.sample(settings.batch, seed=settings.seed, step=step).double().numpy())

    warm, model = make(**options), make(**options)
    for step in range(_WARM_UP):
        advance(warm, step)
    began = time.perf_counter()
    for step in range(settings.steps):
        advance(model, step)
    seconds = time.perf_counter() - began
    atoms = torch.from_numpy(model.components_).float()
    return (atoms / atoms.norm(dim=1, keepdim=True).clamp_min(1e-12)).mT[:, :, None].contiguous(), seconds


def _measured(name: str, run: LearningRun, phi: Phi, seconds: float, active: int) -> Compared:
    lam, prior = run.learner.lam, run.settings.prior
    x = run.held_out_patches(_PATCHES)
    codes = infer(x, phi, lam=lam, prior=prior, max_iter=1000, tol=1e-3).codes
    state = group_state(phi)
    size = run.settings.patch
    moved = []
    for shift in (0, 1):
        pictures = [image.pixels[:, shift : image.pixels.shape[1] - 1 + shift] for image in run.split.held_out]
        patches = torch.cat([run.preparation.samples(picture, stride=size).x for picture in pictures])
        moved.append(infer(patches, phi, lam=lam, prior=prior, max_iter=1000, tol=1e-3).codes)
    control = shift_control(*moved)
    return Compared(
        name=name,
        seconds=seconds,
        cosine=state.median_cosine,
        collapsed=state.collapsed,
        effective_rank=state.effective_rank,
        active=active,
        snr=snr(x, reconstruct(phi, strongest_groups(codes, active))),
        debiased=snr(x, reconstruct(phi, refit(x, phi, strongest_groups(codes, active)))),
        shift=control.learned,
        random=control.random_groups,
    )
