"""`gramian features`: learn subspaces from activations."""

from pathlib import Path
from typing import Any

from rich.text import Text

from gramian.activations.run import FeatureRun
from gramian.activations.settings import FeatureSettings, read_settings
from gramian.cli.display import RunDisplay
from gramian.cli.learn import Application, continue_run, start_run
from gramian.errors import printable

__all__ = ["ACTIVATIONS", "continue_features", "start_features"]


class FeatureDisplay(RunDisplay[FeatureRun]):
    """Show a run on activations."""

    def introduction(self) -> list[str | Text]:
        """Say what the run learns from."""
        run = self._run
        held_out = len(run.activations) - run.train.samples
        sentence = (
            f"learning {run.settings.groups} groups of {run.settings.size} atoms of {run.activations.length} numbers "
            f"from {run.train.samples} activations of {printable(run.settings.store)}; held out: the last {held_out}"
        )
        return [sentence]


ACTIVATIONS = Application("features", FeatureRun, FeatureRun.resume, read_settings, FeatureDisplay, None)
"""Learning from activations."""


def start_features(options: dict[str, Any], out: Path | None, *, seconds: float | None, tensorboard: bool) -> None:
    """Start a run in a new or empty folder, as `gramian.cli.learn.start_run`.

    Args:
        options: Settings of the run that are not defaults.
        out: Folder for the result; default the next free folder of runs/.
        seconds: Duration of learning; default the number of steps of the settings.
        tensorboard: Whether to write the metrics for TensorBoard too.
    """
    start_run(FeatureSettings(**options), out, seconds=seconds, tensorboard=tensorboard, application=ACTIVATIONS)


def continue_features(out: Path | None, *, tensorboard: bool) -> None:
    """Continue a stopped run, as `gramian.cli.learn.continue_run`."""
    continue_run(out, tensorboard=tensorboard, application=ACTIVATIONS)
