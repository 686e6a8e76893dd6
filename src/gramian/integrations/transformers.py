"""A callback for the Trainer of Hugging Face, and for trainers derived from it, such as those of TRL."""

from typing import Any

from gramian.errors import needs_extra
from gramian.integrations.optimizers import check_options
from gramian.training import Attachment, attach

with needs_extra("gramian.integrations.transformers", "transformers"):
    from transformers import TrainerCallback

__all__ = ["OrthogonalityCallback"]

_KEY = "gramian"
"""Key of the attachment's state in the state of the trainer, which is written with each checkpoint."""


class OrthogonalityCallback(TrainerCallback):
    """Attach to the optimiser when the training starts, and remove the attachment when it ends.

    Checkpoints hold the number of updates, which determines a strength that varies; it is restored with any
    `restore_callback_states_from_checkpoint`. Loss and residuals are added to what the trainer logs.

    Args:
        logger: Where loss and residuals are written instead: an object with `add_scalar`, `log_metrics` or `log`, such
            as the trainer itself. Reporters such as TensorBoard and W&B receive what is added to a log only through the
            trainer, because they are called before other callbacks: `trainer.add_callback(OrthogonalityCallback(...,
            logger=trainer))`.
        residuals: Whether to log the residuals.
        options: Options of `gramian.attach`, such as beta and select.

    Attributes:
        attachment: The attachment, from the start of the training on.

    Raises:
        OptionError: If an option is not one of `gramian.attach`; further errors at the start of the training.

    Examples:
        >>> from gramian.integrations.transformers import OrthogonalityCallback
        >>> callback = OrthogonalityCallback(beta=1.0, exclude="*lm_head*")  # Trainer(..., callbacks=[callback])
    """

    def __init__(self, *, logger: Any = None, residuals: bool = True, **options: Any) -> None:
        check_options(options)
        self.attachment: Attachment | None = None
        self._logger = logger
        self._residuals = residuals
        self._options = options

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Attach, after the model and the optimiser are wrapped and loaded."""
        self._remove()
        self.attachment = attach(kwargs["optimizer"], kwargs["model"], **self._options)
        saved = state.stateful_callbacks.get(_KEY)
        if saved is not None:
            self.attachment.load_state_dict(saved["attributes"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Store the state where the next checkpoint includes it."""
        # An ExportableState would be restored only on request, and from options that fit into JSON.
        if self.attachment is not None:
            state.stateful_callbacks[_KEY] = {"args": {}, "attributes": self.attachment.state_dict()}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        """Add loss and residuals to a log of the training, or write them to the logger."""
        if self.attachment is None or logs is None or "loss" not in logs:
            return  # a log of an evaluation or a summary, or one that the lines below wrote
        if self._logger is not None:
            writes = state.is_world_process_zero
            self.attachment.log(self._logger if writes else None, step=state.global_step, residuals=self._residuals)
            return
        metrics = self.attachment.metrics(residuals=self._residuals)
        logs.update(metrics)
        state.log_history[-1].update(metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Remove the attachment from the optimiser."""
        self._remove()

    def _remove(self) -> None:
        if self.attachment is not None:
            self.attachment.remove()
