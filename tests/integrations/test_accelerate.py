"""Attached to the optimiser that Accelerate prepares: it needs nothing else."""

import math

import pytest
import torch
from torch import nn

import gramian
from gramian.training import WarmUp
from tests.integrations.networks import STEPS, network, same

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves


def prepared(model: nn.Module, **options):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, **options)
    return accelerator, *accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))


def train(accelerator, model: nn.Module, optimizer, steps: range) -> None:
    for step in steps:
        with accelerator.accumulate(model):
            x = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
            accelerator.backward(model(x).square().mean())
            optimizer.step()
            optimizer.zero_grad()


def test_accumulation() -> None:
    accelerator, model, optimizer = prepared(network(), gradient_accumulation_steps=3)
    attachment = gramian.attach(optimizer, model, beta=5.0)
    assert [target.name for target in attachment.targets] == ["0.weight", "2.weight"]
    train(accelerator, model, optimizer, range(STEPS))
    assert attachment.steps == STEPS // 3


def test_steps_that_overflow() -> None:
    _, model, optimizer = prepared(network())
    optimizer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer.__setstate__(optimizer.__getstate__())  # it patches the step of an optimiser that has a scaler
    attachment = gramian.attach(optimizer, model, beta=5.0)
    for step in range(6):
        optimizer.zero_grad()
        optimizer.scaler.scale(model(torch.randn(8, 12)).square().mean()).backward()
        if step in (2, 3):
            model[0].weight.grad[0, 0] = math.inf
        optimizer.step()
        assert optimizer.step_was_skipped == (step in (2, 3))
    assert attachment.steps == 4


def test_a_resumed_run_has_the_same_bits(tmp_path) -> None:
    def started():
        accelerator, model, optimizer = prepared(network())
        attachment = gramian.attach(optimizer, model, beta=WarmUp(5.0, steps=10))
        accelerator.register_for_checkpointing(attachment)
        return accelerator, model, optimizer, attachment

    *whole, attachment = started()
    train(*whole, range(6))
    whole[0].save_state(str(tmp_path))
    train(*whole, range(6, STEPS))
    *resumed, attachment = started()
    resumed[0].load_state(str(tmp_path))
    assert attachment.steps == 6
    train(*resumed, range(6, STEPS))
    assert same(resumed[1], whole[1])


def test_its_trackers(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator, model, optimizer = prepared(network(), log_with="tensorboard", project_dir=tmp_path)
    accelerator.init_trackers("run")
    attachment = gramian.attach(optimizer, model, beta=5.0)
    train(accelerator, model, optimizer, range(3))
    metrics = attachment.log(accelerator, step=7)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(metrics)
    (event,) = events.Scalars("gramian/residual/0.weight")
    assert event.step == 7
    assert event.value == pytest.approx(metrics["gramian/residual/0.weight"])
