"""`gramian features`: the application that learns from activations."""

from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from gramian.activations.page import write_features_page
from gramian.activations.run import FeatureRun
from gramian.cli.runs.display import RunDisplay
from gramian.cli.runs.loop import Application
from gramian.cli.runs.report import ReportProgress
from gramian.errors import printable

__all__ = ["ACTIVATIONS"]


_ENOUGH = 2000
"""Number of held-out samples that suffice for a page to show only these."""


class FeatureDisplay(RunDisplay[FeatureRun]):
    """Show a run on activations."""

    quantities = (
        ("unexplained variance, held out", "unexplained", "{:.2%}"),
        ("held-out SNR, dB", "snr", "{:.2f}"),
        ("active groups", "active_groups", "{:.1f}"),
        ("dead groups", "dead", "{:.1%}"),
        ("orthogonality loss L/β", "orthogonality", "{:.1e}"),
        ("largest |X| of a group", "residual", "{:.1e}"),
        ("learning rate", "lr", "{:.1e}"),
    )
    line = (
        "unexplained {unexplained:.2%}  active groups {active_groups:.1f}  dead {dead:.1%}  max|X| {residual:.1e}  "
        "held-out SNR {snr:.2f} dB"
    )

    def introduction(self) -> list[str | Text]:
        """Return lines that say what the run learns from."""
        run = self._run
        held_out = len(run.activations) - run.train.samples
        sentence = (
            f"learning {run.settings.groups} groups of {run.settings.size} atoms of {run.activations.length} numbers "
            f"from {run.train.samples} activations of {printable(run.settings.store)}; held out: the last {held_out}"
        )
        return [sentence]


def write_page(run: FeatureRun, path: Path, progress: ReportProgress) -> None:
    """Measure a run and write the page of its report: on held-out samples, or on all if few are held out.

    Raises:
        RunError: If the page cannot be written.
    """
    held_out = len(run.held_out_activations) >= _ENOUGH
    write_features_page(
        path, run.phi, run.encode, run.held_out_activations if held_out else run.activations, held_out=held_out,
        preparation=run.preparation, metrics=run.metrics, settings=asdict(run.settings),
        title=f"Features of {Path(run.settings.store).name}", progress=progress,
    )  # fmt: skip


ACTIVATIONS = Application("features", FeatureRun, FeatureDisplay, write_page)
"""Learning from activations."""
