"""The live display of a learning run."""

import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gramian.coding.runs.run import Run

__all__ = ["RunDisplay"]

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST = 110


RunT = TypeVar("RunT", bound=Run[Any])


class RunDisplay(ABC, Generic[RunT]):
    """Show a live panel on a terminal; elsewhere print one line for each report.

    Attributes:
        quantities: What the panel shows of the metrics: title, name and format.
        line: The format of a report's line after the number of the step, by the names of the metrics.

    Args:
        run: The run to show.
        folder: Folder of the run.
        console: Console to print on; default standard output.
    """

    quantities: ClassVar[tuple[tuple[str, str, str], ...]]
    line: ClassVar[str]

    def __init__(self, run: RunT, folder: Path, console: Console | None = None) -> None:
        self._run = run
        self._console = console or Console()
        self._folder = folder
        self._progress = Progress(
            TextColumn("step"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        self._task = self._progress.add_task("learn", total=run.settings.steps, completed=run.step)
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)
        self._drawn = 0.0

    def __enter__(self) -> "RunDisplay[RunT]":
        for line in self.introduction():
            self._console.print(line, markup=False, soft_wrap=True)
        if self._console.is_terminal:
            self._live.start()
            self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._draw()
            self._live.stop()

    @abstractmethod
    def introduction(self) -> list[str | Text]:
        """Return lines that say what the run learns from."""

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        self._progress.update(self._task, completed=self._run.step)
        if self._console.is_terminal and time.monotonic() - self._drawn > 0.25:
            self._draw()

    def report(self) -> None:
        """Show the newest row of metrics."""
        if self._console.is_terminal:
            self._draw()
            return
        row = self._run.metrics[-1]
        self._console.print(f"step {self._run.step:6d}  {self.line.format_map(row)}", soft_wrap=True)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_column(justify="right")
        table.add_column(style="cyan")
        for title, key, form in self.quantities:
            values = [row[key] for row in self._run.metrics]
            table.add_row(title, form.format(values[-1]) if values else "", _spark(values))
        footer = Text("Ctrl-C saves the dictionary and stops", style="dim")
        # Narrower than the terminal: the ^C it echoes would wrap at the right edge, and the panel would be drawn twice.
        width = min(self._console.width - 4, _WIDEST)
        title = Text(str(self._folder))
        self._live.update(Panel(Group(table, self._progress, footer), title=title, padding=(0, 1), width=width))


def _spark(values: list[float], width: int = 32) -> str:
    if not values:
        return ""
    sampled = [values[round(index * (len(values) - 1) / max(width - 1, 1))] for index in range(min(width, len(values)))]
    if len(values) <= width:
        sampled = values
    low, high = min(sampled), max(sampled)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in sampled)
