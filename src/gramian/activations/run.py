"""A learning run on activations: settings, samples, learner and folder."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.activations.dictionary import Dictionary, load_dictionary, save_dictionary
from gramian.activations.samples.preparation import Preparation
from gramian.activations.samples.sampler import ActivationSampler, split_held_out
from gramian.activations.settings import FeatureSettings, read_settings, settings_text
from gramian.activations.store.opening import open_activations
from gramian.activations.store.reader import Activations
from gramian.coding.inference import Inference, as_method
from gramian.coding.learning.dictionary import initial_dictionary
from gramian.coding.learning.learner import Learner
from gramian.coding.model import group_norms, reconstruct
from gramian.coding.runs.folder import DICTIONARY, METRICS, SETTINGS, holds_run
from gramian.coding.runs.memory import available_memory
from gramian.coding.runs.metrics import Row, read_metrics
from gramian.coding.runs.run import Run
from gramian.coding.synthesis import Samples
from gramian.distributed.process_grid import ProcessGrid
from gramian.errors import OptionError, RunError

__all__ = ["FeatureRun", "FeatureSettings"]

_HELD_OUT_SAMPLES = 512
_ITERATIONS, _TOL = 200, 1e-2
"""Effort of inference for a row of metrics: a dictionary of 16,384 atoms needs seconds for each 100 iterations."""


class FeatureRun(Run[FeatureSettings]):
    """Learn subspaces from activations: data, learner, and metrics of one run.

    As for any run, the state is that of the learner, and every batch is a function of the seed and the step.

    Args:
        settings: Settings of the run.

    Attributes:
        activations: All samples.
        train: Sampler for training.
        held_out: Sampler of held-out samples, with the preparation of training.
        preparation: Preparation of samples.

    Raises:
        DataError: If the activations cannot be used.
        OptionError: If the settings do not fit the activations or the memory.
    """

    activations: Activations
    preparation: Preparation

    def __init__(self, settings: FeatureSettings) -> None:
        super().__init__()
        self.settings = settings
        self.grid = ProcessGrid.arrange(settings.spread)
        self.grid.local_samples(torch.empty(settings.batch, 0))  # refuses a batch that cannot be divided
        self.activations = open_activations(settings.store, layer=settings.layer)
        length = self.activations.length
        if settings.size > length:
            raise OptionError(
                f"a group can hold at most as many orthonormal atoms as a sample has numbers, {length}; got size "
                f"{settings.size}; try smaller groups"
            )
        _check_memory(settings, length)
        self.preparation = Preparation.fit(self.activations, centre=settings.centre)
        train, held_out = split_held_out(self.activations)
        self.train = ActivationSampler(train, self.preparation)
        self.held_out = ActivationSampler(held_out, self.preparation)
        self.initial_phi = initial_dictionary(length, settings.groups, settings.size, seed=settings.seed)
        self.learner = self.new_learner()

    def new_learner(self) -> Learner:
        """Make the learner; a subclass may learn in another way."""
        return Learner(self.initial_phi.to(self.settings.device), self.settings, grid=self.grid)

    def batch(self, step: int) -> Samples:
        """Draw the samples of a step."""
        return self.train.sample(self.settings.batch, seed=self.settings.seed, step=step)

    def held_out_samples(self, count: int = _HELD_OUT_SAMPLES) -> Float[Tensor, "count l"]:
        """Return held-out samples; every call returns the same ones."""
        return self.held_out.sample(min(count, len(self.activations) // 20 or 1), seed=0, step=0)

    def encode(self, x: Samples) -> Inference:
        """Infer the codes of samples."""
        method = as_method(self.settings.infer)
        return method(
            x, self.phi, lam=self.learner.lam, prior=self.settings.prior, max_iter=_ITERATIONS, tol=_TOL
        )  # fmt: skip

    def evaluate(self, *, seconds: float) -> Row:
        """Measure the dictionary on held-out samples.

        Args:
            seconds: Time spent so far, for the row.

        Returns:
            A row of metrics: the terms of the energy per sample, L/β and the largest |X_jk| of the dictionary, active
            groups, SNR in dB, the fraction of the variance that is not explained, and the fraction of groups that no
            held-out sample uses. Under torchrun every process must call it; all rows but that of the first process are
            empty.
        """
        if self.phi.numel() and not self.grid.is_main:
            return {}
        x = self.held_out_samples()
        codes = self.encode(x).codes
        error = x - reconstruct(self.phi, codes)
        return self.measures(x, codes, seconds=seconds) | {
            "unexplained": float(error.square().sum() / x.square().sum()),
            "unused": 1 - float((group_norms(codes) > 0).any(dim=0).double().mean()),
        }

    def settings_text(self) -> str:
        """Return the content of the file of settings."""
        return settings_text(self.settings)

    def save_dictionary(self, path: Path, state: dict[str, Tensor]) -> None:
        """Write the dictionary and the state of the learner to a file."""
        settings = self.settings
        save_dictionary(
            path,
            Dictionary(
                self.phi, self.initial_phi, self.preparation, self.learner.lam, settings.prior, settings.infer, state
            ),
        )

    @classmethod
    def resume(cls, folder: Path) -> "FeatureRun":
        """Restore a run from the last checkpoint in its folder.

        Raises:
            RunError: If the folder holds no run on activations, or its files are inconsistent.
            DataError: If the activations of the run cannot be read any more.
            OptionError: If the run needs more memory or more processes than available.
        """
        if not holds_run(folder):
            raise RunError(f"{folder} must hold a run, to be resumed; got no {DICTIONARY} and {SETTINGS}")
        settings = read_settings(folder / SETTINGS)
        metrics = read_metrics(folder / METRICS)
        dictionary = load_dictionary(folder / DICTIONARY)
        run = cls(settings)
        if dictionary.phi.shape != run.initial_phi.shape:
            raise RunError(
                f"the dictionary in {folder} must have the shape {list(run.initial_phi.shape)} of its settings; got "
                f"{list(dictionary.phi.shape)}"
            )
        if not torch.allclose(dictionary.preparation.mean, run.preparation.mean, rtol=1e-4, atol=1e-6):
            raise RunError(f"the activations of the run in {folder} have changed since it began; try a new run")
        run.initial_phi = dictionary.initial_phi
        try:
            run.learner.load(dictionary.state)
        except OptionError as error:
            raise RunError(f"the dictionary in {folder} does not fit its settings: {error}") from error
        # Metrics are written before the dictionary: a kill between the two leaves a row too many.
        run.metrics = [row for row in metrics if row["step"] <= run.step]
        return run


def _check_memory(settings: FeatureSettings, length: int) -> None:
    """Check a lower bound of the memory of a run: dictionaries, samples, and dense codes with their gradient.

    Raises:
        OptionError: If it exceeds the available memory.
    """
    atoms, batch = settings.groups * settings.size, settings.batch
    needed = 4 * (4 * length * atoms // settings.spread + 3 * batch * atoms // settings.spread + 2 * batch * length)
    available = available_memory()
    if torch.device(settings.device).type == "cpu" and needed > available:
        raise OptionError(
            f"the settings must fit into memory; {settings.groups} groups of {settings.size} atoms of {length} numbers "
            f"and batches of {batch} need at least {needed / 1e9:.3g} GB, and {available / 1e9:.3g} GB are free; try "
            "fewer groups or a smaller batch"
        )
