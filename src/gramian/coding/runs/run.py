"""A learning run on samples of any kind: options, state, metrics and folder."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gramian.coding.energy import energy
from gramian.coding.evaluation.measures import snr
from gramian.coding.inference import Inference, as_method
from gramian.coding.learning.calibration import calibrated_lam
from gramian.coding.learning.dictionary import cosine_decay
from gramian.coding.learning.learner import Learner, LearningStep
from gramian.coding.learning.options import LearningOptions
from gramian.coding.model import Codes, group_norms, reconstruct
from gramian.coding.priors import as_prior
from gramian.coding.runs.folder import DICTIONARY, METRICS, SETTINGS, remove_on_failure
from gramian.coding.runs.metrics import Row, metrics_text
from gramian.coding.synthesis import Samples
from gramian.distributed.process_grid import ProcessGrid
from gramian.errors import RunError
from gramian.files import replace_file
from gramian.kernels import reference
from gramian.penalties import as_penalty
from gramian.typing import Phi

__all__ = ["Run", "RunOptions"]

_CALIBRATION_BATCHES = 8
_REPLACING = 0.75
"""Fraction of a run during which silent groups are replaced: a group that is replaced later has no time to learn."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(LearningOptions):
    """The options of learning and of its loop; rule, penalty, prior and inference method are names.

    Attributes:
        groups: Number of groups m.
        size: Number of atoms in a group n.
        lr: Learning rate at the first step; it falls to 0 along half a cosine.
        steps: Number of learning steps.
        batch: Number of samples in a step.
        device: Device of the learner, in PyTorch's notation.
        spread: Number of processes among which groups are divided, under torchrun.
        seed: Seed of the initial dictionary and of the samples of all steps.
        report_every: Number of steps between two rows of metrics; each row comes with a checkpoint.
    """

    rule: str = "proximal"
    penalty: str = "l1"
    prior: str = "group_laplace"
    infer: str = "auto"
    groups: int = 64
    size: int = 4
    lr: float = 0.5
    steps: int = 8000
    batch: int = 128
    device: str = "cpu"
    spread: int = 1
    seed: int = 0
    report_every: int = 100


Settings = TypeVar("Settings", bound=RunOptions)


class Run(ABC, Generic[Settings]):
    """A learning run: a learner with its settings and metrics.

    The state of a run is that of its learner, because the seed and the step determine every batch. A run that was
    stopped and resumed therefore ends with exactly the same dictionary as an uninterrupted run.

    Attributes:
        settings: Options of the run.
        grid: The grid of processes.
        learner: The learner.
        initial_phi: The dictionary before the first step.
        metrics: One row for each report.
    """

    settings: Settings
    grid: ProcessGrid
    learner: Learner
    initial_phi: Phi

    def __init__(self) -> None:
        self.metrics: list[Row] = []
        self._phi: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def batch(self, step: int) -> Samples:
        """Draw the samples of a step."""

    @abstractmethod
    def evaluate(self, *, seconds: float) -> Row:
        """Measure the dictionary; return a row of metrics on the main process, and an empty row on all others."""

    @abstractmethod
    def settings_text(self) -> str:
        """Return the content of the file of settings."""

    @abstractmethod
    def save_dictionary(self, path: Path, state: dict[str, Tensor]) -> None:
        """Write the dictionary and the state of the learner to a file."""

    @property
    def phi(self) -> Phi:
        """The dictionary Φ[l, m, n] with the groups of all processes, on the CPU."""
        if self._phi is None or self._phi[0] is not self.learner.phi:
            self._phi = self.learner.phi, self.grid.gather_groups(self.learner.phi).cpu()
        return self._phi[1]

    @property
    def step(self) -> int:
        """Number of steps so far."""
        return self.learner.steps

    @property
    def finished(self) -> bool:
        """Whether the run has made all steps."""
        return self.step >= self.settings.steps

    @property
    def should_report(self) -> bool:
        """Whether this step has a row of metrics."""
        return self.step % self.settings.report_every == 0 or self.finished

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return cosine_decay(self.settings.lr, self.step, self.settings.steps)

    def advance(self) -> LearningStep:
        """Make one learning step."""
        batch = self.batch(self.step).to(self.settings.device)
        step = self.learner.step(batch, lr=self.lr, replace_silent=self.step < _REPLACING * self.settings.steps)
        if self.finished and self.settings.target_active is not None:
            self.learner.lam = calibrated_lam(
                torch.cat([self.batch(self.step + extra) for extra in range(_CALIBRATION_BATCHES)]),
                self.phi,
                lam=self.learner.lam,
                prior=as_prior(self.settings.prior),
                infer=as_method(self.settings.infer),
                target=self.settings.target_active,
                max_iter=1000,
                tol=1e-3,
            )
        return step

    def seconds_per_step(self, trials: int = 10) -> float:
        """Measure the time of a step as the minimum over the trials, and restore the learner."""
        state = self.learner.state()
        durations: list[float] = []
        for _ in range(trials):
            start = time.perf_counter()
            self.advance()
            durations.append(time.perf_counter() - start)
        self.learner.load(state)
        return min(durations)

    def encode(self, x: Samples) -> Inference:
        """Infer the codes of samples, to a relative duality gap of 0.1 %."""
        method = as_method(self.settings.infer)
        return method(x, self.phi, lam=self.learner.lam, prior=self.settings.prior, max_iter=1000, tol=1e-3)

    def measures(self, x: Samples, codes: Codes, *, seconds: float) -> Row:
        """Return the metrics of every run, for held-out samples and their codes."""
        terms = energy(x, self.phi, codes, self.learner.lam, as_prior(self.settings.prior))
        X = reference.residual(self.phi)
        return {
            "step": self.step,
            "seconds": round(seconds, 2),
            "lr": self.lr,
            "lam": self.learner.lam,
            "energy": float(terms.total.mean()),
            "reconstruction": float(terms.reconstruction.mean()),
            "sparsity": float(terms.sparsity.mean()),
            "orthogonality": float(as_penalty(self.settings.penalty).value(X).sum()),
            "residual": float(X.abs().max()),
            "active_groups": float((group_norms(codes) > 0).sum(dim=1).double().mean()),
            "snr": snr(x, reconstruct(self.phi, codes)),
        }

    def log_metrics(self, *, seconds: float) -> None:
        """Evaluate the dictionary, and append the row to the metrics."""
        row = self.evaluate(seconds=seconds)
        if row:
            self.metrics.append(row)

    def save(self, folder: Path) -> None:
        """Write the settings, the metrics and, last, the dictionary; each file is replaced atomically.

        Under torchrun, all processes must call this method; the main process writes.

        Raises:
            RunError: If a file cannot be written; a folder created for the run is then removed.
        """
        state = {name: tensor.cpu() for name, tensor in self.learner.state().items()}
        phi = self.phi  # gathered from all processes
        if not self.grid.is_main or not phi.numel():
            return
        created = [] if folder.exists() else [folder]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"the folder {folder} could not be made: {error.strerror or error}") from error
        with remove_on_failure(folder, created):
            replace_file(folder / SETTINGS, self.settings_text().encode())
            replace_file(folder / METRICS, metrics_text(self.metrics).encode())
            self.save_dictionary(folder / DICTIONARY, state)
