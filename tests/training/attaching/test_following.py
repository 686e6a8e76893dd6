"""Attachments where models and optimisers change under them."""

import gc
import math
import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import gramian
from gramian.errors import AttachmentWarning, LayoutError
from tests.training.networks import give_gradients, make, moved, names, reasons, sgd


class TestTheModelChanges:
    def test_a_tensor_that_nobody_uses_is_not_stepped(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        old = model[0].weight
        model[0].weight = nn.Parameter(old.detach() + 1)
        before = old.detach().clone()
        old.grad = torch.zeros_like(old)
        with pytest.warns(
            AttachmentWarning, match=r"0.weight: another tensor has this name .* optimizer does not have"
        ):
            assert moved(model, optimizer) == ["2.weight", "4.weight"]
        assert torch.equal(old, before)
        assert moved(model, optimizer) == ["2.weight", "4.weight"]  # said once
        optimizer.add_param_group({"params": [model[0].weight]})
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]
        assert attachment.targets[0].parameter is model[0].weight

    def test_one_that_the_optimiser_has_is_followed(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        model[0].weight = optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.randn(8, 12))
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]
        model[0] = nn.Linear(12, 6)  # of another shape
        optimizer.param_groups[0]["params"][0] = model[0].weight
        assert "0.weight" in moved(model, optimizer)
        assert attachment.targets[0].shape == (12, 1, 6)

    def test_a_checkpoint_that_is_assigned(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        model.load_state_dict({name: each.clone() for name, each in model.state_dict().items()}, assign=True)
        with pytest.warns(AttachmentWarning, match=r"0.weight: another .*; 2.weight: another .*; 4.weight: another "):
            moved(model, optimizer)

    def test_one_that_is_gone_and_comes_back(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        layer, model[0] = model[0], nn.Identity()
        give_gradients(layer)
        with pytest.warns(AttachmentWarning, match="0.weight: the model has no parameter of this name any more, so"):
            optimizer.step()
        assert names(attachment) == ["2.weight", "4.weight"]
        assert "no parameter of this name" in reasons(attachment)["0.weight"]
        model[0] = layer
        assert "0.weight" in moved(model, optimizer)
        assert "0.weight" not in reasons(attachment)

    @pytest.mark.parametrize("change", [parametrizations.orthogonal, lambda m: prune.l1_unstructured(m, "weight", 0.5)])
    def test_one_that_is_parametrised_afterwards(self, change) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        change(model[0])
        with pytest.warns(AttachmentWarning, match="0.weight: the model has no parameter of this name"):
            assert moved(model, optimizer) == ["2.weight", "4.weight"]

    def test_one_that_cannot_be_stepped(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3, rule="polyak")
        model[0].weight = nn.Parameter(torch.randn(8, 12, device="meta"))
        model[2].weight = nn.Parameter(torch.randn(9, 5))
        with pytest.warns(
            AttachmentWarning, match=r"0.weight: on the meta device.*; 2.weight: 2.weight: the polyak rule"
        ):
            optimizer.step()

    def test_a_model_that_is_gone_leaves_its_parameters(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, nn.ModuleList([model[0]]), beta=0.3)
        gc.collect()
        assert moved(model, optimizer) == ["0.weight"]

    def test_moved_and_converted_it_is_the_same(self) -> None:
        model = make()
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=0.3)
        model.double()
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]

    @pytest.mark.parametrize("stale", [torch.zeros, torch.ones])
    def test_one_that_is_frozen_afterwards_rests_whatever_its_gradient(self, stale) -> None:
        model = make()
        optimizer = torch.optim.SGD([{"params": model.parameters()}], lr=0.0)
        gramian.attach(optimizer, model, beta=math.inf)
        with torch.no_grad():
            model[0].weight.mul_(2)
        model[0].weight.requires_grad_(False).grad = stale(8, 12)
        before = model[0].weight.clone()
        optimizer.step()
        assert torch.equal(model[0].weight, before)
        model[0].weight.requires_grad_(True)
        assert "0.weight" in moved(model, optimizer)


class TestTheOptimiserChanges:
    def test_a_layer_that_is_unfrozen_later_is_picked_up(self) -> None:
        model = make()
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
        attachment = gramian.attach(optimizer, model, beta=0.3)
        assert reasons(attachment)["0.weight"] == "frozen: requires_grad is False"
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": model[0].parameters()})
        assert moved(model, optimizer) == ["0.weight", "2.weight", "4.weight"]
        assert "0.weight" not in reasons(attachment)
        assert "0.weight" in str(attachment)

    def test_so_is_a_new_layer_if_it_is_selected(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=0.3, select=(each for each in ["0.*ight", "2.*ight"]))
        model.append(nn.Linear(3, 3))
        model[2] = nn.Linear(8, 4)
        optimizer.add_param_group({"params": [*model[5].parameters(), *model[2].parameters()]})
        assert moved(model, optimizer) == ["0.weight", "2.weight"]
        assert names(attachment) == ["0.weight", "2.weight"]

    def test_one_that_another_attachment_has_is_not(self) -> None:
        model = make()
        optimizer = sgd(model)
        first = gramian.attach(optimizer, model, beta=0.3, select=re.compile(r"[024]\.weight"))
        with pytest.warns(AttachmentWarning):
            second = gramian.attach(optimizer, model, beta=0.3, select="2.weight")
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
        moved(model, optimizer)
        assert (names(first), names(second)) == (["0.weight", "4.weight"], ["2.weight"])

    def test_one_that_cannot_be_stepped_is_told_of(self) -> None:
        model = make()
        optimizer = sgd(model)
        layouts = {"0.weight": "o i -> i () o", "2.weight": "o i -> i () o", "4.weight": "o i -> i () o"}
        gramian.attach(optimizer, model, beta=0.3, rule="polyak", layouts=layouts)
        model.add_module("4", nn.Linear(2, 5))
        optimizer.param_groups[0]["params"][4] = model[4].weight
        with pytest.warns(AttachmentWarning, match="the polyak rule needs groups of n <= l"):
            assert "4.weight" not in moved(model, optimizer)


def test_a_layout_that_fits_no_longer_is_told_of() -> None:
    model = make()
    optimizer = sgd(model)
    gramian.attach(optimizer, model, beta=0.3, select="0.weight", layouts=gramian.Layout("(m n) i -> i m n", n=4))
    model[0].weight = nn.Parameter(torch.randn(7, 12))
    with pytest.warns(AttachmentWarning, match="0.weight: axis 0 of size 7 must be a multiple of 4"):
        moved(model, optimizer)
    with pytest.raises(LayoutError, match="axis 0 of size 7"):
        gramian.attach(sgd(model), model, beta=1.0, select="0.weight", layouts=gramian.Layout("(m n) i -> i m n", n=4))
