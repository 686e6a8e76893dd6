"""Training runs of Hugging Face's Trainer. Tests import this where they run: the library takes seconds to import."""

from transformers import Trainer, TrainerCallback, TrainingArguments

from gramian.integrations.transformers import OrthogonalityCallback
from tests.integrations.networks import STEPS, language_model, sentences

__all__ = ["OrthogonalityCallback", "Recorder", "Trainer", "arguments", "trained"]


def arguments(folder, **options) -> TrainingArguments:
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}
    usual = {"max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 0.02}
    return TrainingArguments(str(folder), **{**quiet, **usual, **options})


def trained(options: TrainingArguments, *callbacks: TrainerCallback, resume: str | None = None) -> Trainer:
    trainer = Trainer(language_model(), options, train_dataset=sentences(), callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class Recorder(TrainerCallback):
    """Keeps what reporters receive: they are called before other callbacks."""

    def __init__(self) -> None:
        self.logs: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args, state, control, logs=None, **_) -> None:
        self.logs.append((state.global_step, dict(logs)))
