"""Loss and residuals, written to loggers of every kind."""

import math

import pytest

import gramian
from gramian import training
from gramian.errors import OptionError
from tests.training.networks import backward, make, sgd


def stepped(steps: int = 3) -> training.Attachment:
    model = make()
    optimizer = sgd(model)
    attachment = gramian.attach(optimizer, model, beta=0.3)
    for step in range(steps):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    return attachment


class Run:
    """Logs as W&B does."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int | None, bool | None]] = []

    def log(self, data, step=None, commit=None) -> None:
        self.calls.append((data, step, commit))


class Loggers:
    """Has `log` of a name and a value, as Fabric has, beside `log_dict`."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int]] = []

    def log(self, name, value) -> None:
        raise AssertionError

    def log_dict(self, metrics, step) -> None:
        self.calls.append((metrics, step))


class Trainer:
    """Counts steps itself, as the Trainer of Hugging Face does, whose `log_metrics` is something else."""

    def __init__(self) -> None:
        self.calls: list[dict[str, float]] = []

    def log_metrics(self, split, metrics) -> None:
        raise AssertionError

    def log(self, logs, start_time=None) -> None:
        self.calls.append(logs)


NAMES = [f"gramian/residual/{name}" for name in ("0.weight", "2.weight", "4.weight")]


def test_names_and_values() -> None:
    attachment = stepped()
    metrics = attachment.metrics()
    assert list(metrics) == ["gramian/loss", "gramian/residual", *NAMES]
    assert metrics["gramian/loss"] == attachment.loss.item()
    residuals = attachment.residuals()
    assert [metrics[name] for name in NAMES] == list(residuals.values())
    assert metrics["gramian/residual"] == max(residuals.values())
    assert attachment.metrics(residuals=False) == {"gramian/loss": metrics["gramian/loss"]}


def test_before_the_first_update_there_is_no_loss() -> None:
    assert list(stepped(0).metrics()) == ["gramian/residual", *NAMES]


def test_tensorboard(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    attachment = stepped()
    with SummaryWriter(str(tmp_path)) as writer:
        metrics = attachment.log(writer)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    written = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    assert {name: (len(values), values[0].step) for name, values in written.items()} == dict.fromkeys(metrics, (1, 3))
    for name, value in metrics.items():
        assert math.isclose(written[name][0].value, value, rel_tol=1e-6)


def test_loggers_with_a_dictionary() -> None:
    attachment, run, loggers, trainer = stepped(), Run(), Loggers(), Trainer()
    metrics = attachment.log(run)
    attachment.log(run, step=40)
    attachment.log(loggers)
    attachment.log(trainer, step=40, residuals=False)
    assert attachment.log(None) == metrics
    assert run.calls == [(metrics, None, None), (metrics, 40, None)]
    assert loggers.calls == [(metrics, 3)]
    assert trainer.calls == [{"gramian/loss": metrics["gramian/loss"]}]


def test_an_object_that_is_no_logger() -> None:
    with pytest.raises(OptionError, match=r"logger must have add_scalar.*; got object; try metrics\(\)"):
        stepped().log(object())
