"""A learning run on samples of any kind: its loop, state, metrics and folder."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from gramian.coding.learning.dictionary import cosine_decay
from gramian.coding.runs.folder import DICTIONARY, METRICS, SETTINGS, holds_run, remove_on_failure
from gramian.coding.runs.metrics import MEASURED, Row, metrics_text, read_metrics
from gramian.coding.synthesis import Samples
from gramian.distributed.process_grid import ProcessGrid
from gramian.errors import OptionError, RunError
from gramian.files import replace_file
from gramian.typing import Phi

__all__ = ["REPLACING", "Run", "RunOptions"]

REPLACING = 0.75
"""Fraction of a run during which silent groups are replaced: a group that is replaced later has no time to learn."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of the loop of a run.

    Attributes:
        groups: Number of groups m.
        size: Number of atoms in a group n.
        lr: Learning rate at the first step; it falls to 0 along half a cosine.
        steps: Number of learning steps.
        batch: Number of samples in a step.
        device: Device of the dictionary, in PyTorch's notation.
        seed: Seed of the initial dictionary and of the samples of all steps.
        report_every: Number of steps between two rows of metrics; a checkpoint is written with each row.
    """

    groups: int = 64
    size: int = 4
    lr: float = 0.5
    steps: int = 8000
    batch: int = 128
    device: str = "cpu"
    seed: int = 0
    report_every: int = 100


Settings = TypeVar("Settings", bound=RunOptions)
R = TypeVar("R", bound="Run[Any]")


class Run(ABC, Generic[Settings]):
    """A learning run with its settings and metrics.

    The seed and the step determine every batch, so the learner holds the whole state of a run. A run that was stopped
    and resumed ends with exactly the same dictionary as an uninterrupted run.

    Args:
        settings: Options of the run.

    Attributes:
        settings: Options of the run.
        grid: The grid of processes.
        metrics: One row for each report.
        measured: The names that every row of metrics has.
    """

    measured: ClassVar[tuple[str, ...]] = MEASURED
    grid: ProcessGrid

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics: list[Row] = []

    @property
    @abstractmethod
    def phi(self) -> Phi:
        """The dictionary Φ[l, m, n] with the groups of all processes, on the CPU."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Number of steps so far."""

    @abstractmethod
    def advance(self) -> Any:
        """Make one learning step."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return copies of all tensors that a step changes, the same on every process."""

    @abstractmethod
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state.

        Raises:
            OptionError: If it is the state of a run with other settings.
        """

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
        """Write the dictionary and the state of the run to a file."""

    @staticmethod
    @abstractmethod
    def read_settings(path: Path) -> RunOptions:
        """Read a file of settings.

        Raises:
            RunError: If it does not hold the settings of such a run.
        """

    @classmethod
    @abstractmethod
    def restored(cls: type[R], folder: Path, settings: Any) -> tuple[R, Mapping[str, Tensor]]:
        """Create a run from its settings and the dictionary in its folder, and return it with the stored state.

        Raises:
            RunError: If they do not fit, or the data have changed.
        """

    @property
    def finished(self) -> bool:
        """Whether the run has made all steps."""
        return self.step >= self.settings.steps

    @property
    def should_report(self) -> bool:
        """Whether a row of metrics is due at this step."""
        return self.step % self.settings.report_every == 0 or self.finished

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return cosine_decay(self.settings.lr, self.step, self.settings.steps)

    def seconds_per_step(self, trials: int = 10) -> float:
        """Measure the time of a step as the minimum over the trials, and restore the state."""
        state = self.state()
        durations: list[float] = []
        for _ in range(trials):
            start = time.perf_counter()
            self.advance()
            durations.append(time.perf_counter() - start)
        self.load(state)
        return min(durations)

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
        state = {name: tensor.cpu() for name, tensor in self.state().items()}
        phi = self.phi  # gathered from all processes
        if not self.grid.is_main or not phi.numel():
            return
        created = [] if folder.exists() else [folder]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"the folder {folder} could not be created: {error.strerror or error}") from error
        with remove_on_failure(folder, created):
            replace_file(folder / SETTINGS, self.settings_text().encode())
            replace_file(folder / METRICS, metrics_text(self.metrics).encode())
            self.save_dictionary(folder / DICTIONARY, state)

    @classmethod
    def resume(cls: type[R], folder: Path) -> R:
        """Restore a run from the last checkpoint in its folder.

        Raises:
            RunError: If the folder holds no run of this kind, or its files are inconsistent.
            DataError: If the data of the run cannot be read any more.
            OptionError: If the run needs more memory or more processes than available.
        """
        if not holds_run(folder):
            raise RunError(f"{folder} must hold a run, to be resumed; got no {DICTIONARY} and {SETTINGS}")
        settings = cls.read_settings(folder / SETTINGS)
        metrics = read_metrics(folder / METRICS, measured=cls.measured)
        run, state = cls.restored(folder, settings)
        try:
            run.load(state)
        except OptionError as error:
            raise RunError(f"the dictionary in {folder} does not fit its settings: {error}") from error
        # Metrics are written before the dictionary: a kill between the two leaves a row too many.
        run.metrics = [row for row in metrics if row["step"] <= run.step]
        return run
