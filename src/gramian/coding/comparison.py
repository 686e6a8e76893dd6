"""The same data, learned in several ways, and measured on held-out patches: what the penalty and the groups do."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning

from gramian.coding.evaluation import debias, group_state, snr, strongest_groups
from gramian.coding.fista import fista
from gramian.coding.invariance import shift_control
from gramian.coding.learning_run import LearningRun, RunSettings
from gramian.coding.prior import reconstruct
from gramian.typing import Phi

__all__ = ["Compared", "compare"]

_ACTIVE = 32
_PATCHES = 2048
_WARM_UP = 3
"""Steps before the clock starts, which are taken back: the first ones load and compile what the others use."""


@dataclass(frozen=True)
class Compared:
    """One way to learn, and what came of it.

    Attributes:
        name: Which way.
        seconds: Wall time of the learning steps alone, after some steps of warm-up.
        cosine: Median over groups of the largest |cos| of two atoms of it.
        collapsed: Fraction of groups with two atoms of |cos| > 0.5.
        effective_rank: Mean effective rank of a group.
        active: At how many coefficients the two ratios are taken; the same for all ways.
        snr: Held-out SNR there, dB.
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

    One way after the other, each with the machine to itself. All are measured at as many coefficients: the largest
    multiple of the group size up to 32, and one group at least.

    Args:
        settings: Of the groups with the penalty; the others have as many atoms and steps.

    Returns:
        One way after the other.

    Raises:
        DataError: If the pictures cannot be used.
        OptionError: If the settings do not fit them.
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
    patience = run.learner.patience
    run.seconds_per_step(_WARM_UP)  # and back to where it was
    run.learner.patience = patience
    began = time.perf_counter()
    while not run.finished:
        run.advance()
    return run.phi, time.perf_counter() - began


def _scikit_learn(run: LearningRun) -> tuple[Phi, float]:
    settings = run.settings
    make: Any = MiniBatchDictionaryLearning  # the stub takes alpha for a whole number
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
    codes = fista(x, phi, lam=lam, prior=prior, max_iter=1000, tol=1e-3).codes
    state = group_state(phi)
    size = run.settings.patch
    moved = []
    for shift in (0, 1):
        pictures = [image.pixels[:, shift : image.pixels.shape[1] - 1 + shift] for image in run.split.held_out]
        patches = torch.cat([run.preparation.samples(picture, stride=size).x for picture in pictures])
        moved.append(fista(patches, phi, lam=lam, prior=prior, max_iter=1000, tol=1e-3).codes)
    control = shift_control(*moved)
    return Compared(
        name=name,
        seconds=seconds,
        cosine=state.median_cosine,
        collapsed=state.collapsed,
        effective_rank=state.effective_rank,
        active=active,
        snr=snr(x, reconstruct(phi, strongest_groups(codes, active))),
        debiased=snr(x, reconstruct(phi, debias(x, phi, codes, active))),
        shift=control.learned,
        random=control.random_groups,
    )
