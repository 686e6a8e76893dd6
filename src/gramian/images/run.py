"""A learning run on images: its settings, data, state and folder."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.learning.dictionary import initial_dictionary
from gramian.coding.learning.learner import Learner
from gramian.coding.runs.dictionary_run import DictionaryRun
from gramian.coding.runs.folder import DICTIONARY, holds_run
from gramian.coding.runs.memory import check_memory
from gramian.coding.runs.metrics import Row
from gramian.distributed.process_grid import ProcessGrid
from gramian.errors import DataError, RunError
from gramian.images.dictionary import Dictionary, load_dictionary, save_dictionary
from gramian.images.memory import least_memory
from gramian.images.samples import ImageSplit, Preparation, load_images, shipped_images, split_held_out
from gramian.images.settings import RunSettings, read_settings, settings_text

__all__ = ["LearningRun", "RunSettings", "holds_run"]

_HELD_OUT_PATCHES = 512
_SEED_OF_HELD_OUT = 1


class LearningRun(DictionaryRun[RunSettings]):
    """One run that learns a dictionary from pictures: data, learner and metrics.

    The learner holds the whole state, and every batch is a function of the seed and the step: a stopped and resumed run
    ends with the same bits as an uninterrupted one. Under torchrun all processes work on one run: they share the batch
    of a step, and the groups too if `settings.spread` is greater than 1.

    Args:
        settings: Settings of the run.

    Attributes:
        settings: Settings of the run.
        split: Pictures for training and held-out pictures.
        preparation: Preparation of samples from pictures.
        grid: Place of this process among the processes of the run.
        train: Sampler of patches for training.
        held_out: Sampler of held-out patches, with the scale of training.
        learner: The learner.
        initial_phi: The dictionary before the first step.
        metrics: One row for each report.
        skipped: Files of the folder that could not be read.

    Raises:
        DataError: If the pictures cannot be used.
        OptionError: If the settings do not fit the pictures.
    """

    def __init__(self, settings: RunSettings) -> None:
        super().__init__(settings)
        self.skipped: tuple[str, ...] = ()
        self.grid = ProcessGrid.arrange(settings.spread)
        # A batch that cannot be divided among the processes is refused here, not in the first step.
        self.grid.local_samples(torch.empty(settings.batch, 0))
        _, processes = self.grid.place_among_samples
        check_memory(settings, settings.length, least_memory(settings, sharing=processes))
        self.split = self._pictures()
        self.preparation, self.train = Preparation.fit(
            [image.pixels for image in self.split.train], size=settings.patch, whiten=settings.whiten
        )
        self.held_out = self.preparation.sampler([image.pixels for image in self.split.held_out])
        length = settings.patch**2 * self.preparation.channels
        self.initial_phi = initial_dictionary(length, settings.groups, settings.size, seed=settings.seed)
        self.learner = Learner(self.initial_phi.to(settings.device), settings, grid=self.grid)

    def batch(self, step: int) -> Float[Tensor, "batch pixels"]:
        """Draw the patches of a step."""
        return self.train.sample(self.settings.batch, seed=self.settings.seed, step=step)

    def held_out_patches(self, count: int = _HELD_OUT_PATCHES) -> Float[Tensor, "count pixels"]:
        """Return patches of the held-out pictures; every call returns the same ones."""
        return self.held_out.sample(count, seed=_SEED_OF_HELD_OUT, step=0)

    def evaluate(self, *, seconds: float) -> Row:
        """Measure the dictionary on held-out patches.

        Args:
            seconds: Time spent so far, for the row.

        Returns:
            A row of metrics: the terms of the energy per patch, L/β = Σ|X_jk| and the largest |X_jk| of the dictionary,
            active groups, and SNR in dB. Under torchrun every process must call it; all rows but that of the first
            process are empty.
        """
        if self.phi.numel() and not self.grid.is_main:
            return {}
        x = self.held_out_patches()
        return self.measures(x, self.encode(x).codes, seconds=seconds)

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

    @staticmethod
    def read_settings(path: Path) -> RunSettings:
        """Read a file of settings, by `gramian.images.settings.read_settings`."""
        return read_settings(path)

    @classmethod
    def restored(cls, folder: Path, settings: RunSettings) -> tuple["LearningRun", Mapping[str, Tensor]]:
        """Create a run from its settings and the dictionary in its folder, and return it with the stored state.

        Raises:
            RunError: If they do not fit, or the pictures have changed.
            DataError: If the pictures cannot be read any more.
        """
        dictionary = load_dictionary(folder / DICTIONARY)
        shape = (settings.length, settings.groups, settings.size)
        if dictionary.phi.shape != shape:
            raise RunError(
                f"the dictionary in {folder} must have the shape {list(shape)} of its settings; "
                f"got {list(dictionary.phi.shape)}"
            )
        if dictionary.preparation.whiten != settings.whiten:
            raise RunError(
                f"the dictionary in {folder} must be of samples whitened as its settings say, {settings.whiten!r}; got "
                f"{dictionary.preparation.whiten!r}"
            )
        run = cls(settings)
        if not math.isclose(dictionary.preparation.scale, run.preparation.scale, rel_tol=1e-6):
            raise RunError(f"the pictures of the run in {folder} have changed since it began; try a new run")
        run.initial_phi = dictionary.initial_phi
        return run, dictionary.state

    def _pictures(self) -> ImageSplit:
        settings = self.settings
        sequence = False
        if settings.images is None:
            images = shipped_images(colour=settings.colour)
        else:
            try:
                loaded = load_images(Path(settings.images), colour=settings.colour)
            except OSError as error:
                raise DataError(f"images in {settings.images} could not be read: {error.strerror or error}") from error
            images, self.skipped, sequence = loaded.images, loaded.skipped, loaded.sequence
        return split_held_out(images, min_side=2 * settings.patch, sequence=sequence)
