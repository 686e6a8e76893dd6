"""Learning from activations, as the loop of a run needs it: `gramian features`."""

from rich.text import Text

from gramian.activations.run import FeatureRun
from gramian.cli.runs.display import RunDisplay
from gramian.cli.runs.loop import Application
from gramian.errors import printable

__all__ = ["ACTIVATIONS"]


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
        """Say what the run learns from."""
        run = self._run
        held_out = len(run.activations) - run.train.samples
        sentence = (
            f"learning {run.settings.groups} groups of {run.settings.size} atoms of {run.activations.length} numbers "
            f"from {run.train.samples} activations of {printable(run.settings.store)}; held out: the last {held_out}"
        )
        return [sentence]


ACTIVATIONS = Application("features", FeatureRun, FeatureDisplay, None)
"""Learning from activations."""
