"""Many tensors at once are the same numbers as one by one: with every penalty of the table, by every rule."""

import pytest
import torch
from torch import Tensor

import gramian
from gramian import foreach
from gramian.errors import OptionError
from tests.cases import PenaltyCase, over_all_penalties, over_rules

SHAPES = ((7, 3, 2), (20, 3, 2), (7, 3, 2), (7, 3, 2), (20, 3, 2), (9, 3, 2), (200, 3, 2))


def draw(case: PenaltyCase) -> list[Tensor]:
    return [case.draw(shape) if case.scale < 1 else case.draw(shape) / shape[0] ** 0.5 for shape in SHAPES]


@over_all_penalties
def test_value_and_grad(case) -> None:
    tensors, penalty = draw(case), case.at(3, 2)
    total, grads = foreach.value_and_grad(tensors, beta=0.3, penalty=penalty)
    one_by_one = [gramian.value_and_grad(tensor, beta=0.3, penalty=penalty) for tensor in tensors]
    torch.testing.assert_close(total, torch.stack([value for value, _ in one_by_one]).sum())
    for found, (_, expected), tensor in zip(grads, one_by_one, tensors, strict=True):
        torch.testing.assert_close(found, expected)
        assert found.shape == tensor.shape


@over_all_penalties
@over_rules
def test_step(case, rule) -> None:
    tensors, penalty = draw(case), case.at(3, 2)
    before, expected = ([tensor.clone() for tensor in tensors] for _ in range(2))
    options = {"lr": 0.01, "beta": 0.3, "penalty": penalty, "rule": rule}
    if rule == "proximal" and not case.has_prox:
        with pytest.raises(OptionError, match="try rule='polyak'"):
            foreach.step_(tensors, **options)
        torch.testing.assert_close(tensors, before, rtol=0, atol=0)
        return
    total = foreach.step_(tensors, **options)
    losses = [gramian.step_(each, **options) for each in expected]
    torch.testing.assert_close(tensors, expected)
    torch.testing.assert_close(total, torch.stack(losses).sum())
