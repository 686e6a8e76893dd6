"""Wrapped models and wrapped optimisers, and what is no optimiser."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gramian
from gramian.errors import AttachmentWarning, OptionError
from gramian.selection import select_parameters
from tests.training.networks import make, moved, names, sgd


class TestWrappers:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it first compiles
    def test_names_are_those_of_the_model_within(self) -> None:
        model = nn.ModuleDict({"body": nn.DataParallel(torch.compile(make())), "module": nn.Linear(4, 4)})
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        clean = [*(f"body.{i}.weight" for i in (0, 2, 4)), "module.weight"]
        assert names(attachment) == clean
        assert [row.name for row in gramian.inspect(model).rows] == clean
        raw = "body.module._orig_mod.2.weight"
        for select in ("body.2.weight", raw, re.compile(r"body\.2\.w.*"), lambda name, _: name == "body.2.weight"):
            targets, _ = select_parameters(model, select)
            assert [each.name for each in targets if "weight" in each.name] == ["body.2.weight"]
        assert [row.name for row in gramian.inspect(model, select=raw).rows] == ["body.2.weight"]
        assert moved(model, optimizer) == [*(f"body.module._orig_mod.{i}.weight" for i in (0, 2, 4)), "module.weight"]
        model["body"].module._orig_mod[2].weight = nn.Parameter(torch.zeros(8, 8))
        with pytest.warns(AttachmentWarning, match="^body.2.weight: another"):
            moved(model, optimizer)

    def test_a_checkpointed_module(self) -> None:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        model = nn.Sequential(checkpoint_wrapper(nn.MultiheadAttention(12, 3)))
        targets, _ = select_parameters(model)
        assert [each.name for each in targets] == ["0.in_proj_weight", "0.out_proj.weight"]
        assert targets[0].shape == (12, 9, 4)

    def test_an_optimiser_within_another(self) -> None:
        class Thin:
            def __init__(self, optimizer) -> None:
                self.optimizer, self.param_groups = optimizer, optimizer.param_groups

            def step(self) -> None:
                self.optimizer.step()

        class EveryOther(torch.optim.Optimizer):
            """One with a step, and with hooks, of its own."""

            def __init__(self, optimizer) -> None:
                super().__init__(optimizer.param_groups, {})
                self.optimizer = optimizer

            def step(self, closure=None) -> None:
                self.optimizer.step()
                self.optimizer.step()

        for wrapper, steps in ((Thin, 1), (lambda each: Thin(Thin(each)), 1), (EveryOther, 1)):
            model = make()
            optimizer = wrapper(sgd(model))
            attachment = gramian.attach(optimizer, model, beta=0.3)
            moved(model, optimizer)
            assert attachment.steps == steps

    def test_attached_twice_through_a_wrapper(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        wrapped = SimpleNamespace(optimizer=optimizer, param_groups=optimizer.param_groups, step=optimizer.step)
        with pytest.warns(AttachmentWarning, match="no longer acts on"):
            gramian.attach(wrapped, model, beta=0.3)

    def test_what_is_no_optimiser(self) -> None:
        model = make()
        schedule = torch.optim.lr_scheduler.ConstantLR(sgd(model))
        with pytest.raises(
            OptionError, match=r"must be a torch.optim.Optimizer; got ConstantLR, which is not an optimizer and"
        ):
            gramian.attach(schedule, model, beta=0.3)

        class Half(torch.optim.Optimizer):
            def __init__(self, parameters) -> None:
                self.param_groups = [{"params": list(parameters), "lr": 0.1}]

        with pytest.raises(OptionError, match="must have the step hooks"):
            gramian.attach(Half(model.parameters()), model, beta=0.3)
