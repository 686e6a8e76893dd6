"""`gramian learn`: the application that learns from pictures."""

from pathlib import Path

from rich.text import Text

from gramian.cli.runs.display import RunDisplay
from gramian.cli.runs.loop import Application
from gramian.cli.runs.report import ReportProgress
from gramian.files import replace_file
from gramian.images.evaluation.record import learning_record
from gramian.images.page import render_report
from gramian.images.run import LearningRun

__all__ = ["IMAGES", "write_page"]


class LearningDisplay(RunDisplay[LearningRun]):
    """Show a run on pictures."""

    quantities = (
        ("energy of a held-out sample", "energy", "{:.2f}"),
        ("   reconstruction", "reconstruction", "{:.2f}"),
        ("   sparsity", "sparsity", "{:.2f}"),
        ("orthogonality loss L/β", "orthogonality", "{:.1e}"),
        ("largest |X| of a group", "residual", "{:.1e}"),
        ("active groups", "active_groups", "{:.1f}"),
        ("held-out SNR, dB", "snr", "{:.2f}"),
    )
    line = (
        "energy {energy:.2f}  Σ|X| {orthogonality:.1e}  max|X| {residual:.1e}  active groups {active_groups:.1f}  "
        "held-out SNR {snr:.2f} dB"
    )

    def introduction(self) -> list[str | Text]:
        """Return lines that say what the run learns from."""
        run = self._run
        sentence = (
            f"learning {run.settings.groups} groups of {run.settings.size} atoms of {run.settings.patch} × "
            f"{run.settings.patch} pixels from {len(run.split.train)} pictures; held out: "
            f"{', '.join(image.name for image in run.split.held_out)}"
        )
        lines: list[str | Text] = [sentence]
        if run.skipped:
            lines.append(Text("skipped, not readable: ", style="yellow") + Text(", ".join(run.skipped)))
        return lines


def write_page(run: LearningRun, path: Path, progress: ReportProgress) -> None:
    """Measure a run and write the page of its report.

    Raises:
        RunError: If the page cannot be written.
    """
    page = render_report(learning_record(run, progress=progress), progress=progress)
    # File names are bytes, and may hold surrogates that UTF-8 cannot encode.
    replace_file(path, page.encode(errors="replace"))


IMAGES = Application("learn", LearningRun, LearningDisplay, write_page)
"""Learning from pictures."""
