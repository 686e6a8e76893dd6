"""Metrics for TensorBoard, on request."""

from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from gramian.coding.learning_run import LearningRun
from gramian.errors import OptionError

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
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What a run that was stopped later had written beyond its last checkpoint does not count.
            self._writer = SummaryWriter(folder / "tensorboard", purge_step=run.step)
            self.write()

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self) -> None:
        """Write the newest row."""
        if self._writer is not None and self._run.metrics:
            row = self._run.metrics[-1]
            for name, value in row.items():
                if name not in ("step", "seconds"):
                    self._writer.add_scalar(name, value, int(row["step"]))
            self._writer.flush()
