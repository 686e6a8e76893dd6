"""Metrics for TensorBoard, on request."""

import contextlib
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from gramian.coding.learning_run import LearningRun
from gramian.errors import OptionError, RunError

__all__ = ["Board", "require_tensorboard"]


def require_tensorboard() -> None:
    """Check that metrics can be written, before anything is learned.

    Raises:
        OptionError: If TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise OptionError("--tensorboard needs tensorboard; try pip install tensorboard, or leave --tensorboard out")


class Board:
    """Writes each new row of metrics as scalars; without a folder it does nothing.

    Args:
        folder: Folder of the run; the events stand in `tensorboard` within it.
        run: The run.
    """

    def __init__(self, folder: Path | None, run: LearningRun) -> None:
        self._run = run
        self._writer: Any = None
        self._folder: Path | None = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._folder = folder / "tensorboard"
            with self._told():
                # What a run that was stopped later had written beyond its last checkpoint does not count.
                self._writer = SummaryWriter(self._folder, purge_step=run.step)
            self.write()

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with self._told() if error is None else contextlib.suppress(OSError):
                self._writer.close()

    def write(self) -> None:
        """Write the newest row.

        Raises:
            RunError: If it cannot be written, as on a full disk.
        """
        if self._writer is not None and self._run.metrics:
            row = self._run.metrics[-1]
            with self._told():
                for name, value in row.items():
                    if name not in ("step", "seconds"):
                        self._writer.add_scalar(name, value, int(row["step"]))
                self._writer.flush()

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self._folder} could not be written: {error.strerror or error}") from error
