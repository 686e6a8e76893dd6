"""Write metrics for TensorBoard (`--tensorboard`)."""

import contextlib
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from gramian.coding.runs.run import Run
from gramian.errors import OptionError, RunError

__all__ = ["TensorBoardLogger", "require_tensorboard"]


def require_tensorboard() -> None:
    """Check that TensorBoard is installed, before learning starts.

    Raises:
        OptionError: If TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise OptionError("--tensorboard needs tensorboard; try pip install tensorboard, or leave --tensorboard out")


class TensorBoardLogger:
    """Write each new row of metrics as scalars; without a folder, do nothing.

    Args:
        folder: Folder of the run; the events are written to its subfolder `tensorboard`.
        run: The run.
    """

    def __init__(self, folder: Path | None, run: Run[Any]) -> None:
        self._run = run
        self._writer: Any = None
        self._folder: Path | None = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._folder = folder / "tensorboard"
            with self._named_errors():
                # Events beyond the last checkpoint come from an earlier, stopped run: discard them.
                self._writer = SummaryWriter(self._folder, purge_step=run.step)
            self.write()

    def __enter__(self) -> "TensorBoardLogger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with self._named_errors() if error is None else contextlib.suppress(OSError):
                self._writer.close()

    def write(self) -> None:
        """Write the newest row of metrics.

        Raises:
            RunError: If the row cannot be written, for example on a full disk.
        """
        if self._writer is not None and self._run.metrics:
            row = self._run.metrics[-1]
            with self._named_errors():
                for name, value in row.items():
                    if name not in ("step", "seconds"):
                        self._writer.add_scalar(name, value, int(row["step"]))
                self._writer.flush()

    @contextlib.contextmanager
    def _named_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self._folder} could not be written: {error.strerror or error}") from error
