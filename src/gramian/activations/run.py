"""A learning run on activations: its settings, samples, model and folder."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.activations.memory import least_memory
from gramian.activations.samples.preparation import Preparation
from gramian.activations.samples.sampler import ActivationSampler, split_held_out
from gramian.activations.settings import FeatureSettings, read_settings, settings_text
from gramian.activations.store.opening import open_activations
from gramian.coding.encoders import SparseCodes
from gramian.coding.evaluation.measures import snr
from gramian.coding.features.calibration import calibrate_
from gramian.coding.features.file import FeatureFile, load_features, save_features
from gramian.coding.features.module import BlockSparseAutoencoder
from gramian.coding.features.options import FeatureOptions
from gramian.coding.features.training import FeatureStep, FeatureTraining
from gramian.coding.runs.folder import DICTIONARY
from gramian.coding.runs.memory import check_memory
from gramian.coding.runs.metrics import MEASURED, Row
from gramian.coding.runs.run import REPLACING, Run
from gramian.distributed.process_grid import ProcessGrid
from gramian.errors import OptionError, RunError
from gramian.kernels import reference
from gramian.penalties import as_penalty
from gramian.typing import Phi

__all__ = ["FeatureRun", "FeatureSettings"]

_HELD_OUT_SAMPLES, _INFERRED_SAMPLES = 4096, 512
"""Held-out samples of a row of metrics, encoded in one pass or by inference.

The number of active groups varies between samples by about its mean, so that the mean over 1024 samples is 3 % off.
"""
_CALIBRATION = 16_384
_IDLE = 200
"""Number of steps without activity after which a group counts as dead, if the settings have no patience."""


class FeatureRun(Run[FeatureSettings]):
    """One run that learns features, which are subspaces, from activations: data, module and metrics.

    As in every run, a batch is a function of the seed and the step. The state is that of the module and its optimiser.
    Under torchrun the processes share the batch of a step, and each holds the whole module.

    Args:
        settings: Settings of the run.

    Attributes:
        activations: All samples.
        train: Sampler of this process for training.
        held_out: Sampler of held-out samples, with the preparation of training.
        held_out_activations: The held-out samples.
        preparation: Preparation of samples.
        model: The module that learns.
        training: Its training.

    Raises:
        DataError: If the activations cannot be used.
        OptionError: If the settings do not fit the activations or the memory.
    """

    measured = (*MEASURED, "unexplained", "dead")

    def __init__(self, settings: FeatureSettings) -> None:
        super().__init__(settings)
        self.grid = ProcessGrid.arrange()
        self.grid.local_samples(torch.empty(settings.batch, 0))  # refuses a batch that cannot be divided
        process, processes = self.grid.place_among_samples
        self.activations = open_activations(settings.store, layer=settings.layer)
        length = self.activations.length
        if settings.size > length:
            raise OptionError(
                f"a group can hold at most as many orthonormal atoms as a sample has numbers, {length}; got size "
                f"{settings.size}; try smaller groups"
            )
        check_memory(settings, length, least_memory(settings, length, sharing=processes))
        self.preparation = Preparation.fit(self.activations, centre=settings.centre)
        train, self.held_out_activations = split_held_out(self.activations)
        self.train = ActivationSampler(train, self.preparation, process=process, processes=processes)
        self.held_out = ActivationSampler(self.held_out_activations, self.preparation)
        self._calibrating = ActivationSampler(train, self.preparation)
        self._batch = settings.batch // processes
        model = settings.module(length, groups=settings.groups, size=settings.size, seed=settings.seed)
        self.model: BlockSparseAutoencoder = model.to(settings.device)
        self.training = FeatureTraining(
            self.model, lr=settings.lr, beta=settings.beta, patience=settings.patience, grid=self.grid
        )

    @property
    def phi(self) -> Phi:
        """The dictionary Φ[l, m, n], on the CPU."""
        return self.model.phi.cpu()

    @property
    def step(self) -> int:
        """Number of steps so far."""
        return self.training.steps

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return super().lr * min(1.0, (self.step + 1) / (self.settings.warm_up + 1))

    def batch(self, step: int) -> Float[Tensor, "batch l"]:
        """Draw the samples of a step that this process learns from."""
        return self.train.sample(self._batch, seed=self.settings.seed, step=step)

    def advance(self) -> FeatureStep:
        """Make one learning step; the last one also calibrates the threshold or noise level of the selection."""
        for group in self.training.optimizer.param_groups:
            group["lr"] = self.lr
        batch = self.batch(self.step).to(self.settings.device)
        step = self.training.step(batch, revive=self.step < REPLACING * self.settings.steps)
        if self.finished:
            x = self._calibrating.sample(min(_CALIBRATION, self.train.samples), seed=self.settings.seed, step=0)
            calibrate_(self.model, x.to(self.settings.device))
        return step

    def state(self) -> dict[str, Tensor]:
        """Return the state of the training."""
        return self.training.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state of the training."""
        self.training.load(state)

    def held_out_samples(self, count: int | None = None) -> Float[Tensor, "count l"]:
        """Return held-out samples, 4096 by default or 512 for inference; every call returns the same ones."""
        if count is None:
            count = _INFERRED_SAMPLES if self.settings.encoder == "iterative" else _HELD_OUT_SAMPLES
        return self.held_out.sample(min(count, self.held_out.samples), seed=0, step=0)

    def encode(self, x: Float[Tensor, "samples l"]) -> SparseCodes:
        """Encode prepared samples; the codes are on the CPU."""
        codes = self.model.encode_all(x.to(self.settings.device))
        return SparseCodes(codes.groups.cpu(), codes.values.cpu(), codes.n_groups)

    @torch.no_grad()
    def evaluate(self, *, seconds: float) -> Row:
        """Measure the dictionary on held-out samples.

        Args:
            seconds: Time spent so far, for the row.

        Returns:
            A row of metrics: L/β and the largest |X_jk| of the dictionary, the mean number of active groups, the SNR in
            dB, the fraction of the variance that is not explained, and the fraction of dead groups, those that were in
            no sample of the last `patience` steps. Under torchrun all rows but that of the main process are empty.
        """
        if not self.grid.is_main:
            return {}
        x = self.held_out_samples().to(self.settings.device)
        codes = self.model.encode_all(x)
        reconstruction = self.model.decode(codes)
        X = reference.residual(self.model.phi)
        return {
            "step": self.step,
            "seconds": round(seconds, 2),
            "lr": self.lr,
            "orthogonality": float(as_penalty("l1").value(X).sum()),
            "residual": float(X.abs().max()),
            "active_groups": float(codes.active_groups.double().mean()),
            "snr": snr(x, reconstruction),
            "unexplained": float((x - reconstruction).square().sum() / x.square().sum()),
            "dead": float((self.model.idle >= (self.settings.patience or _IDLE)).double().mean()),
        }

    def settings_text(self) -> str:
        """Return the content of the file of settings."""
        return settings_text(self.settings)

    def save_dictionary(self, path: Path, state: dict[str, Tensor]) -> None:
        """Write a file of features, which `BlockFeatures.load` also reads, with the state to continue training."""
        settings, statistics = self.settings, self.activations.statistics
        module = {name.removeprefix("module."): each for name, each in state.items() if name.startswith("module.")}
        frames = module.pop("frames")
        training = {
            name.removeprefix("optimizer."): each for name, each in state.items() if name.startswith("optimizer.")
        }
        file = FeatureFile(
            phi=frames.permute(2, 0, 1),
            mean=self.preparation.mean,
            scale=self.preparation.scale,
            samples=statistics.samples,
            steps=self.step,
            options={
                **asdict(FeatureOptions.of(settings)),
                "n_groups": settings.groups,
                "group_size": settings.size,
                "center": settings.centre,
                "steps": settings.steps,
                "batch_size": settings.batch,
                "lr": settings.lr,
            },
            state=module,
            training={} if self.finished else training,
        )
        save_features(path, file)

    @staticmethod
    def read_settings(path: Path) -> FeatureSettings:
        """Read a file of settings, by `gramian.activations.settings.read_settings`."""
        return read_settings(path)

    @classmethod
    def restored(cls, folder: Path, settings: FeatureSettings) -> tuple["FeatureRun", Mapping[str, Tensor]]:
        """Create a run from its settings and the dictionary in its folder, and return it with the stored state.

        Raises:
            RunError: If they do not fit, or the activations have changed.
            DataError: If the activations cannot be read any more.
        """
        file = load_features(folder / DICTIONARY)
        run = cls(settings)
        shape = (run.activations.length, settings.groups, settings.size)
        if file.phi.shape != shape:
            raise RunError(
                f"the dictionary in {folder} must have the shape {list(shape)} of its settings; got "
                f"{list(file.phi.shape)}"
            )
        if not torch.allclose(file.mean, run.preparation.mean, rtol=1e-4, atol=1e-6):
            raise RunError(f"the activations of the run in {folder} have changed since it began; try a new run")
        state = {"module.frames": file.phi.permute(1, 2, 0), "steps": torch.tensor(file.steps)}
        state |= {f"module.{name}": each for name, each in file.state.items()}
        return run, state | {f"optimizer.{name}": each for name, each in file.training.items()}
