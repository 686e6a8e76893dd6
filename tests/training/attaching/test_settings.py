"""Strength, rule and penalty of each parameter, and strengths that vary."""

import copy
import math

import pytest
import torch
from torch import nn

import gramian
from gramian.errors import OptionError, ShapeError
from gramian.penalties import L1
from gramian.training import WarmUp
from tests.training.networks import backward, give_gradients, make, sgd


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    backward(model, seed)
    optimizer.step()


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, betas: dict[str, float], **more) -> None:
    step(model, optimizer)
    for name, beta in betas.items():
        weight = model.get_parameter(name)
        layout = "o i -> i () o" if weight.shape[0] <= weight.shape[1] else "o i -> o () i"
        gramian.step_(weight, lr=0.1, beta=beta, layout=layout, **more)


def same(model: nn.Module, other: nn.Module) -> None:
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


class TestByPattern:
    def test_strengths(self) -> None:
        model, twin = make(), make()
        optimizer, other = sgd(model), sgd(twin)
        attachment = gramian.attach(optimizer, model, beta={"0.*": 0.5, model[2]: 0.2, "*": 0.0})
        step(model, optimizer)
        by_hand(twin, other, {"0.weight": 0.5, "2.weight": 0.2})
        same(model, twin)
        assert str(attachment).startswith("β = 0.5, 0.2, 0 by pattern, after every step: 3 parameters")

    def test_a_strength_for_every_parameter(self) -> None:
        model = make()
        with pytest.raises(
            OptionError, match=r"for every selected parameter; got none for 2\.weight, 4\.weight; try a"
        ):
            gramian.attach(sgd(model), model, beta={"0.*": 0.5})
        gramian.attach(sgd(model), model, beta={"0.*": 0.5}, select="0.weight")

    def test_rules_and_penalties(self) -> None:
        model, twin = make(), make()
        optimizer, other = sgd(model), sgd(twin)
        attachment = gramian.attach(
            optimizer, model, beta=0.3, rule={"0.*": "subgradient"}, penalty={"2.*": L1(diagonal=False)}
        )
        step(model, optimizer)
        step(twin, other)
        gramian.step_(twin[0].weight, lr=0.1, beta=0.3, layout="o i -> i () o", rule="subgradient")
        gramian.step_(twin[2].weight, lr=0.1, beta=0.3, layout="o i -> i () o", penalty=L1(diagonal=False))
        gramian.step_(twin[4].weight, lr=0.1, beta=0.3, layout="o i -> i () o")
        same(model, twin)
        assert "rule by pattern, penalty by pattern" in repr(attachment)

    def test_one_hard_constraint_among_others(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta={"0.*": math.inf, "*": 0.01})
        residuals = attachment.residuals()
        assert residuals["0.weight"] < 1e-5
        assert min(residuals["2.weight"], residuals["4.weight"]) > 1e-2
        step(model, optimizer)
        assert attachment.residuals()["0.weight"] < 1e-5

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"beta": {}}, "must not be empty"),
            ({"beta": {"9.*": 1.0}}, "every pattern in beta must match a parameter; got '9"),
            ({"beta": {"*": -1.0}}, "beta must be 0 or positive"),
            ({"beta": 1.0, "rule": {"*": "newton"}}, "rule must be one of"),
            ({"beta": 1.0, "penalty": {"9.*": "l1"}}, "every pattern in penalty must match"),
        ],
    )
    def test_errors(self, options, message) -> None:
        model = make()
        with pytest.raises(OptionError, match=message):
            gramian.attach(sgd(model), model, **options)

    def test_a_parameter_that_is_added_later(self) -> None:
        model = make()
        optimizer = sgd(model[0])
        whole = gramian.attach(optimizer, model[0], beta={"*": 0.5})
        model[0].extra = nn.Linear(8, 4)
        optimizer.add_param_group({"params": list(model[0].extra.parameters())})
        give_gradients(model)
        optimizer.step()
        assert [target.name for target in whole.targets] == ["weight", "extra.weight"]

    def test_rule_and_penalty_of_a_parameter_that_is_added_later(self) -> None:
        model = nn.Sequential(nn.Linear(8, 4))
        optimizer = sgd(model)
        attachment = gramian.attach(
            optimizer, model, beta=0.5, rule={"0.*": "polyak", "*.weight": "subgradient"}, penalty={"*.weight": "l1"}
        )
        model.append(nn.Linear(4, 4))
        optimizer.add_param_group({"params": list(model[1].parameters())})
        give_gradients(model)
        optimizer.step()
        rules = {target.name: attachment.settings.of(target).rule.__name__ for target in attachment.targets}
        assert rules == {"0.weight": "polyak", "1.weight": "subgradient"}


class TestVarying:
    def test_a_function_of_the_number_of_updates(self) -> None:
        model, twin = make(), make()
        optimizer, other = sgd(model), sgd(twin)
        attachment = gramian.attach(optimizer, model, beta=lambda step: 0.1 * (step + 1), select="0.weight")
        assert str(attachment).startswith("β = 0.1 now, after every step")
        for beta in (0.1, 0.2, 0.30000000000000004):
            step(model, optimizer)
            by_hand(twin, other, {"0.weight": beta})
        same(model, twin)

    def test_a_scheduler(self) -> None:
        model, twin = make(), make()
        optimizer, other = sgd(model), sgd(twin)
        strength = torch.optim.SGD([torch.zeros(1)], lr=0.4)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(strength, gamma=0.5)
        gramian.attach(optimizer, model, beta=scheduler, select="0.weight")
        for beta in (0.4, 0.2):
            step(model, optimizer)
            strength.step()
            scheduler.step()
            by_hand(twin, other, {"0.weight": beta})
        same(model, twin)

    def test_a_warm_up(self) -> None:
        assert [WarmUp(1.0, 4)(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
        with pytest.raises(OptionError, match="steps must be at least 1"):
            WarmUp(1.0, 0)

    def test_values_that_are_no_strengths(self) -> None:
        model = make()
        with pytest.raises(OptionError, match="finite at every step; at step 0, beta must be finite"):
            gramian.attach(sgd(model), model, beta=lambda step: math.inf)
        optimizer = sgd(model)
        gramian.attach(optimizer, model, beta=lambda step: 1.0 if step == 0 else -1.0)
        step(model, optimizer)
        with pytest.raises(OptionError, match="at step 1, beta must be 0 or positive"):
            step(model, optimizer)

    def test_a_resumed_run_continues_the_schedule(self) -> None:
        model = make()
        optimizer = sgd(model)
        attachment = gramian.attach(optimizer, model, beta=WarmUp(1.0, 10))
        for seed in range(3):
            step(model, optimizer, seed)
        state = attachment.state_dict()
        twin = copy.deepcopy(model)
        other = sgd(twin)
        again = gramian.attach(other, twin, beta=WarmUp(1.0, 10))
        again.load_state_dict(state)
        step(model, optimizer, 3)
        step(twin, other, 3)
        same(model, twin)
        assert str(again).startswith("β = 0.5 now")
        with pytest.raises(OptionError, match=r"a state must be one that state_dict\(\) returned"):
            again.load_state_dict({"beta": 1.0})


class TestAssigning:
    def test_it_acts_from_then_on(self) -> None:
        model, twin = make(), make()
        optimizer, other = sgd(model), sgd(twin)
        attachment = gramian.attach(optimizer, model, beta=0.0, select="0.weight")
        step(model, optimizer)
        attachment.beta = 0.5
        step(model, optimizer)
        by_hand(twin, other, {})
        by_hand(twin, other, {"0.weight": 0.5})
        same(model, twin)
        attachment.beta = {"0.*": 0.25}
        assert attachment.beta == {"0.*": 0.25}

    def test_errors_change_nothing(self) -> None:
        model = make()
        attachment = gramian.attach(sgd(model), model, beta=0.5, layouts="o i -> o () i", select="0.weight")
        with pytest.raises(OptionError, match="beta must be"):
            attachment.beta = -1.0
        with pytest.raises(ShapeError, match=r"0\.weight: a hard constraint needs groups of n <= l"):
            attachment.beta = math.inf
        assert attachment.beta == 0.5


def test_the_skipped_are_grouped_by_reason() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(12)), nn.LayerNorm(4))
    lines = str(gramian.attach(sgd(model), model, beta=1.0)).splitlines()
    assert lines[-3:] == ["skipped:", "13 × a bias: 0.bias, 1.bias, 2.bias, …", " 1 × a scale of LayerNorm: 12.weight"]
