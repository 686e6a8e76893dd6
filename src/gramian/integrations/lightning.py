"""A callback for Lightning: it keeps weights orthogonal during `fit`, with any strategy and precision."""

from typing import Any

from gramian.errors import OptionError, needs_extra
from gramian.integrations.optimizers import attach_each, check_options
from gramian.training import Attachment
from gramian.training.attaching.metrics import name_metrics, write_metrics
from gramian.training.coupled import add_up

with needs_extra("gramian.integrations.lightning", "lightning"):
    from lightning.pytorch import Callback

__all__ = ["OrthogonalityCallback"]


class OrthogonalityCallback(Callback):
    """Attach to the optimisers when `fit` starts, and remove the attachments when it ends.

    Each optimiser gets an attachment for the parameters that it has. Checkpoints hold the number of updates, which
    determines a strength that varies. Loss and residuals are written to the loggers of the trainer, as often as it
    logs.

    Args:
        residuals: Whether to log the residuals.
        options: Options of `gramian.attach`, such as beta and select.

    Attributes:
        attachments: The attachments, from the start of the training on.

    Raises:
        OptionError: If an option is not one of `gramian.attach`; further errors at the start of the training.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> from gramian.integrations.lightning import OrthogonalityCallback
        >>> callback = OrthogonalityCallback(beta=1.0, exclude="*.head.*")
        >>> trainer = Trainer(callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False)
    """

    def __init__(self, *, residuals: bool = True, **options: Any) -> None:
        check_options(options)
        self.attachments: list[Attachment] = []
        self._options = options
        self._residuals = residuals
        self._states: list[dict[str, Any]] = []
        """The states of a checkpoint, which is read before the optimisers are attached to."""
        self._logged = 0
        """Number of updates when metrics were last due."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Forget the states of earlier runs; the checkpoint of this run is read after this."""
        if stage == "fit":
            self._states = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach, after the weights are loaded, moved and sharded."""
        self._remove()
        self.attachments = attach_each(trainer.optimizers, pl_module, self._options)
        if self._states and len(self._states) != len(self.attachments):
            raise OptionError(
                f"a checkpoint must have a state for each of the {len(self.attachments)} attachments; got "
                f"{len(self._states)}; try the optimizers with which it was written"
            )
        for attachment, state in zip(self.attachments, self._states, strict=False):
            attachment.load_state_dict(state)
        self._logged = self._updates()

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        """Log, as often as the trainer does."""
        every, updates = trainer.log_every_n_steps, self._updates()
        if not every or not trainer.loggers or updates // every == self._logged // every:
            return
        self._logged = updates
        losses = [attachment.loss for attachment in self.attachments if attachment.loss is not None]
        residuals = {
            name: value
            for attachment in self.attachments
            if self._residuals
            for name, value in attachment.residuals().items()
        }
        metrics = name_metrics(float(add_up(losses)) if losses else None, residuals)
        for logger in trainer.loggers:  # they write in one process only
            write_metrics(logger, metrics, step=trainer.global_step, updates=updates)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Remove the attachments from the optimisers."""
        self._remove()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Remove the attachments from the optimisers."""
        self._remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the attachments."""
        return {"attachments": [attachment.state_dict() for attachment in self.attachments] or self._states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states of a checkpoint until the training starts."""
        self._states = list(state_dict["attachments"])

    def _updates(self) -> int:
        return max((attachment.steps for attachment in self.attachments), default=0)

    def _remove(self) -> None:
        for attachment in self.attachments:
            attachment.remove()
