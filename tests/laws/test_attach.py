"""`attach` with every penalty of the table and every rule: a step by hand after each step of the optimiser."""

import copy

import pytest
import torch
from torch import nn

import gramian
from gramian.errors import OptionError
from tests.cases import over_all_penalties, over_rules

LAYOUT = gramian.Layout("(m n) i -> i m n", n=3)


@over_all_penalties
@over_rules
def test_it_is_a_step_by_hand_after_each_of_the_optimiser(case, rule) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6)).double()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.copy_(0.5 * nn.init.orthogonal_(layer.weight) + 0.05 * torch.randn_like(layer.weight))
    twin = copy.deepcopy(model)
    optimizer, other = (torch.optim.SGD(each.parameters(), lr=0.01) for each in (model, twin))
    options = {"beta": 0.3, "penalty": case.at(2, 3), "rule": rule}
    if rule == "proximal" and not case.has_prox:
        with pytest.raises(OptionError, match="try rule='polyak'"):
            gramian.attach(optimizer, model, layouts=LAYOUT, **options)
        return
    attachment = gramian.attach(optimizer, model, layouts=LAYOUT, **options)
    for seed in range(3):
        x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for each, stepper in ((model, optimizer), (twin, other)):
            stepper.zero_grad()
            each(x).square().mean().backward()
            stepper.step()
        for weight in (twin[0].weight, twin[2].weight):
            gramian.step_(weight, lr=0.01, layout=LAYOUT, **options)
    assert attachment.steps == 3
    torch.testing.assert_close(list(model.parameters()), list(twin.parameters()))
