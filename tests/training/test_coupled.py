"""The penalty as a part of the loss, or added to the gradients: both give the same gradient."""

import pytest
import torch
from torch import nn

from gramian import training
from gramian.errors import OptionError
from gramian.selection import select_parameters
from tests.training.networks import backward, batch, make


class TestTheCoupledForms:
    def test_both_give_the_same_gradient(self) -> None:
        model, twin = make(), make()
        targets, others = (select_parameters(each)[0] for each in (model, twin))
        x, y = batch(0)
        (nn.functional.cross_entropy(model(x), y) + training.loss(targets, beta=0.01)).backward()
        nn.functional.cross_entropy(twin(x), y).backward()
        value = training.add_grad_(others, beta=0.01)
        for one, two in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)
        torch.testing.assert_close(value, training.loss(targets, beta=0.01).detach())

    def test_with_a_gradient_scaler(self) -> None:
        model, twin = make(), make()
        targets, others = (select_parameters(each)[0] for each in (model, twin))
        backward(twin, 0)
        training.add_grad_(others, beta=0.01)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        x, y = batch(0)
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        training.add_grad_(targets, beta=0.01, scale=scaler.get_scale())
        scaler.unscale_(optimizer)
        for one, two in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad)

    def test_without_a_gradient_before(self) -> None:
        targets, _ = select_parameters(make())
        training.add_grad_(targets, beta=1.0)
        assert all(each.parameter.grad is not None for each in targets)

    def test_no_targets(self) -> None:
        for form in (training.loss, training.add_grad_):
            with pytest.raises(OptionError, match="at least one target"):
                form([], beta=1.0)
