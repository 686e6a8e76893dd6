"""Rules, penalties and sizes that are not compatible are refused before anything is changed."""

import copy
import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian import training
from gramian.errors import GramianError, OptionError, ShapeError
from gramian.penalties import L1, Cosine, LogDet, Penalty, Spectral, SquaredFrobenius, Weighted
from gramian.rules import Step, proximal
from tests.training.networks import make, sgd


def two_groups_at_once(phi: Tensor, *, lr: float, beta: float, penalty: Penalty) -> Step:
    if phi.shape[1] != 2:
        raise OptionError("this rule needs two groups")
    return proximal(phi, lr=lr, beta=beta, penalty=penalty)


class Unfinished(L1):
    def prox_residual(self, X: Tensor, tau: Tensor) -> Tensor:
        raise NotImplementedError("later")


class TestWhatCannotGoTogether:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"penalty": Cosine(L1())}, "0.weight: the cosine form has no closed prox"),
            ({"penalty": 2 * Cosine(L1())}, "0.weight: the cosine form has no closed prox"),
            ({"penalty": Spectral() + L1()}, "0.weight: a sum of penalties has no closed prox unless"),
            ({"penalty": LogDet(diagonal=False)}, r"0.weight: LogDet\(diagonal=False\) has no closed prox"),
            (
                {"penalty": Weighted(L1(), torch.ones(4, 4))},
                r"0.weight: weights of shape \[4, 4\] must be for the groups",
            ),
            ({"rule": "polyak", "layouts": "o i -> o () i"}, "0.weight: the polyak rule needs groups of n <= l"),
            ({"rule": two_groups_at_once}, "0.weight: this rule needs two groups"),
            ({"beta": math.inf, "layouts": "o i -> o () i"}, "0.weight: a hard constraint needs groups of n <= l"),
            ({"beta": math.inf, "rule": "subgradient"}, "needs the proximal rule"),
            ({"beta": math.inf, "penalty": Cosine(L1())}, "no closed prox"),
        ],
    )
    def test_is_refused_before_anything_is_changed(self, options, match) -> None:
        model = make()
        optimizer = sgd(model)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(GramianError, match=match):
            gramian.attach(optimizer, model, **{"beta": 1.0, "select": ["0.weight", "2.weight"], **options})
        assert not optimizer._optimizer_step_post_hooks
        assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())

    def test_an_error_of_a_penalty_of_yours_comes_at_once(self) -> None:
        model = make()
        with pytest.raises(NotImplementedError, match="later"):
            gramian.attach(sgd(model), model, beta=1.0, penalty=0.5 * Unfinished())

    def test_what_can_is_not_rehearsed(self, monkeypatch) -> None:
        model = make()
        monkeypatch.setattr(training.attaching.compatibility, "step_", None)
        gramian.attach(sgd(model), model, beta=1.0, penalty=2 * L1() + SquaredFrobenius())
        gramian.attach(sgd(model), model, beta=1.0, rule="polyak", penalty=Cosine(L1()))

    def test_a_rule_of_yours_sees_the_sizes_of_the_parameter(self) -> None:
        model = make()
        halves = gramian.Layout("(m n) i -> i m n", m=2)
        state = torch.get_rng_state()
        gramian.attach(sgd(model), model, beta=1.0, select="0.weight", layouts=halves, rule=two_groups_at_once)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_weight_for_every_group_must_be_there() -> None:
    model = make()
    weights = torch.ones(2, 8, 8)
    with pytest.raises(ShapeError, match=r"2.weight: the penalty must have parameters|2.weight: weights"):
        gramian.attach(sgd(model), model, beta=0.3, select="2.weight", penalty=Weighted(L1(), weights))
