"""A learning run on images: settings, data, the loop's state, and the folder that it lives in."""

import math
import time
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from gramian.coding.dictionary import cosine_decay, initial_dictionary
from gramian.coding.evaluation import snr
from gramian.coding.inference import Inference
from gramian.coding.learner import Learner, LearningStep
from gramian.coding.memory import check_memory
from gramian.coding.methods import METHODS
from gramian.coding.metrics import Row, metrics_text, read_metrics
from gramian.coding.parallel import Parallel
from gramian.coding.prior import PRIORS, energy, group_norms, reconstruct
from gramian.coding.run_folder import DICTIONARY, METRICS, SETTINGS, holds_run, taken_back
from gramian.coding.run_settings import RunSettings, read_settings, settings_text
from gramian.coding.storage import Dictionary, load_dictionary, save_dictionary
from gramian.data import ImageSplit, Preparation, load_images, shipped_images, split_held_out
from gramian.errors import DataError, OptionError, RunError
from gramian.files import replace_file
from gramian.kernels import dense
from gramian.penalties import as_penalty
from gramian.typing import Phi

__all__ = ["LearningRun", "RunSettings", "holds_run"]

_HELD_OUT_PATCHES = 512
_SEED_OF_HELD_OUT = 1
_MENDED = 0.75
"""Up to which part of a run silent groups are made anew."""


class LearningRun:
    """A dictionary in the making: what it learns from, how far it is, and what was measured on the way.

    The state is that of the learner; every batch is a function of the seed and the step. So a run that was stopped and
    resumed ends with the same bits as one that was not. Started by torchrun, all processes make one run together: the
    batch of a step is shared out among them, and groups too if the settings say so.

    Args:
        settings: What to do.

    Attributes:
        settings: What to do.
        split: The pictures.
        preparation: How samples are made of pictures.
        parallel: Which part of a step is this process's.
        train: Patches to learn from.
        held_out: Patches that learning never sees, in the scale of the others.
        learner: What learns.
        initial_phi: The dictionary before the first step.
        metrics: One row for each report.
        skipped: Files of the folder that could not be read.

    Raises:
        DataError: If the pictures cannot be used.
        OptionError: If the settings do not fit them.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.skipped: tuple[str, ...] = ()
        self.parallel = Parallel.grid(settings.spread)
        self.parallel.share_of_patches(torch.empty(settings.batch, 0))  # found now, not in the first step
        over_patches = self.parallel.over_patches
        check_memory(settings, sharing=1 if over_patches is None else distributed.get_world_size(over_patches))
        self.split = self._pictures()
        self.preparation, self.train = Preparation.fit(
            [image.pixels for image in self.split.train], size=settings.patch, whiten=settings.whiten
        )
        self.held_out = self.preparation.sampler([image.pixels for image in self.split.held_out])
        length = settings.patch**2 * self.preparation.channels
        self.initial_phi = initial_dictionary(length, settings.groups, settings.size, seed=settings.seed)
        self.learner = Learner(
            self.initial_phi.to(settings.device),
            lam=settings.lam,
            beta=settings.beta,
            rule=settings.rule,
            penalty=settings.penalty,
            update=settings.update,
            prior=settings.prior,
            infer=settings.infer,
            max_iter=settings.iterations,
            target_active=settings.target_active,
            patience=settings.patience,
            parallel=self.parallel,
        )
        self.metrics: list[Row] = []
        self._whole: tuple[Tensor, Tensor] | None = None

    @property
    def phi(self) -> Phi:
        """The dictionary Φ[l, m, n], the groups of all processes, on the CPU."""
        if self._whole is None or self._whole[0] is not self.learner.phi:
            self._whole = self.learner.phi, self.parallel.whole(self.learner.phi).cpu()
        return self._whole[1]

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self.learner.steps

    @property
    def finished(self) -> bool:
        """Whether every step was made."""
        return self.step >= self.settings.steps

    @property
    def due(self) -> bool:
        """Whether a row of metrics is due at this step."""
        return self.step % self.settings.report_every == 0 or self.finished

    def seconds_per_step(self, trials: int = 10) -> float:
        """Measure how long a step takes, at the least of the trials; the learner is left as it was."""
        before, patience = self.learner.state(), self.learner.patience
        took: list[float] = []
        for _ in range(trials):
            began = time.perf_counter()
            self.advance()
            took.append(time.perf_counter() - began)
        self.learner.load(before)
        self.learner.patience = patience
        return min(took)

    def advance(self) -> LearningStep:
        """Make one learning step."""
        settings, step = self.settings, self.step
        if step >= _MENDED * settings.steps:
            self.learner.patience = None  # a group made anew would have no time to learn
        batch = self.train.sample(settings.batch, seed=settings.seed, step=step).to(settings.device)
        return self.learner.step(batch, lr=cosine_decay(settings.lr, step, settings.steps))

    def held_out_patches(self, count: int = _HELD_OUT_PATCHES) -> Float[Tensor, "count pixels"]:
        """Give patches of the pictures that learning never sees; always the same."""
        return self.held_out.sample(count, seed=_SEED_OF_HELD_OUT, step=0)

    def encode(self, patches: Float[Tensor, "count pixels"]) -> Inference:
        """Infer the codes of patches of the run's scale, to a relative gap of 0.1 %."""
        settings = self.settings
        method = METHODS[settings.infer]
        return method(patches, self.phi, lam=self.learner.lam, prior=settings.prior, max_iter=1000, tol=1e-3)

    def evaluate(self, *, seconds: float) -> Row:
        """Measure the dictionary on held-out patches.

        Args:
            seconds: Time spent so far, to be noted.

        Returns:
            A row of metrics: the terms of the energy per patch, L/β = Σ|X_jk| and the largest |X_jk| of the dictionary,
            active groups, and SNR in dB. Under torchrun every process takes part, and the first one has a row; the
            others' are empty.
        """
        if self.phi.numel() and not self.parallel.first:
            return {}
        x = self.held_out_patches()
        codes = self.encode(x).codes
        terms = energy(x, self.phi, codes, self.learner.lam, PRIORS[self.settings.prior])
        X = dense.residual(self.phi)
        return {
            "step": self.step,
            "seconds": round(seconds, 2),
            "lr": cosine_decay(self.settings.lr, self.step, self.settings.steps),
            "lam": self.learner.lam,
            "energy": float(terms.total.mean()),
            "reconstruction": float(terms.reconstruction.mean()),
            "sparsity": float(terms.sparsity.mean()),
            "orthogonality": float(as_penalty(self.settings.penalty).value(X).sum()),
            "residual": float(X.abs().max()),
            "active_groups": float((group_norms(codes) > 0).sum(dim=1).double().mean()),
            "snr": snr(x, reconstruct(self.phi, codes)),
        }

    def note(self, *, seconds: float) -> None:
        """Evaluate, and keep the row among the metrics."""
        row = self.evaluate(seconds=seconds)
        if row:
            self.metrics.append(row)

    @property
    def dictionary(self) -> Dictionary:
        """What is kept in a file."""
        state = {name: tensor.cpu() for name, tensor in self.learner.state().items()}
        settings = self.settings
        return Dictionary(
            self.phi, self.initial_phi, self.preparation, self.learner.lam, settings.prior, settings.infer, state
        )

    def save(self, folder: Path) -> None:
        """Write the settings, the metrics and, last, the dictionary; each file in one stroke.

        Under torchrun every process takes part, and the first one writes.

        Raises:
            RunError: If a file cannot be written. A folder made for the purpose is then taken away again.
        """
        dictionary = self.dictionary
        if not self.parallel.first:
            return
        made = [] if folder.exists() else [folder]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"the folder {folder} could not be made: {error.strerror or error}") from error
        with taken_back(folder, made):
            replace_file(folder / SETTINGS, settings_text(self.settings).encode())
            replace_file(folder / METRICS, metrics_text(self.metrics).encode())
            save_dictionary(folder / DICTIONARY, dictionary)

    @classmethod
    def resume(cls, folder: Path) -> "LearningRun":
        """Take up a run where its folder says that it stopped.

        Raises:
            RunError: If the folder holds no run, or its files do not fit together.
            DataError: If the pictures it learned from are gone.
            OptionError: If it needs more memory or more processes than there are.
        """
        if not holds_run(folder):
            raise RunError(f"{folder} must hold a run, to be resumed; got no {DICTIONARY} and {SETTINGS} there")
        settings = read_settings(folder / SETTINGS)
        # The metrics are written before the dictionary: after a kill between the two there is a row too many.
        metrics = read_metrics(folder / METRICS)
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
        try:
            run.learner.load(dictionary.state)
        except OptionError as error:
            raise RunError(f"the dictionary in {folder} does not fit its settings: {error}") from error
        run.metrics = [row for row in metrics if row["step"] <= run.step]
        return run

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
