"""Every line of the derivation on numbers: for each penalty, many sizes and seeds; and that a wrong line is seen."""

import dataclasses

import pytest
import torch

from gramian.calculus import STEPS, CheckedStep, Setting, Step, derive
from gramian.errors import OptionError, ShapeError
from gramian.penalties import L1, PENALTIES, SquaredFrobenius

SIZES = [(5, 2, 3), (1, 1, 1), (8, 1, 2), (4, 3, 4), (20, 1, 6), (3, 2, 5)]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_line_holds(sizes, penalty) -> None:
    length, m, n = sizes
    if penalty == "logdet" and n > length:
        n = length
    for seed in range(3):
        setting = Setting(length, m, n, penalty, a=m - 1, b=n - 1, seed=seed)
        lines = list(derive(setting))
        broken = {line.step.title: line.difference for line in lines if not line.holds}
        assert not broken
        assert len(lines) >= 13


def test_l1_takes_every_step() -> None:
    assert [line.step for line in derive(Setting(5, 2, 3))] == list(STEPS)


def test_a_composition_is_derived_too() -> None:
    lines = list(derive(Setting(6, 2, 3, L1() + 0.5 * SquaredFrobenius())))
    assert all(line.holds for line in lines)


def test_the_steps_are_told_apart_and_complete() -> None:
    assert len({step.title for step in STEPS}) == len(STEPS)
    for step in STEPS:
        assert step.claim
        assert step.because.endswith((".", ")"))
        assert step.latex.isascii()
        assert step.latex.count("{") == step.latex.count("}")
        assert step.relation in {"=", "≤", "≠"}


@pytest.mark.parametrize("step", [step for step in STEPS if step.relation == "="], ids=lambda step: step.title)
def test_a_wrong_line_is_seen(step: Step) -> None:
    lhs, rhs = step.sides(Setting(5, 2, 3))
    assert CheckedStep(step, lhs, rhs).holds
    assert not CheckedStep(step, lhs, rhs * 1.01 + 1e-3).holds
    assert not CheckedStep(dataclasses.replace(step, relation="≠"), lhs, rhs).holds


def test_a_bound_that_is_passed_is_seen() -> None:
    (step,) = [step for step in STEPS if step.relation == "≤"]
    lhs, rhs = step.sides(Setting(5, 2, 3))
    assert CheckedStep(step, lhs, rhs).holds
    assert not CheckedStep(step, rhs, lhs).holds


def test_each_mistake_differs_by_the_term_it_omits() -> None:
    setting = Setting(5, 2, 3)
    merged, masked, once = [line for line in derive(setting) if line.step.relation == "≠"]
    half = setting.P.mT @ setting.dP
    torch.testing.assert_close(merged.lhs - merged.rhs, half.mT - half)
    torch.testing.assert_close(masked.lhs - masked.rhs, 2 * setting.P * setting.G.diagonal())
    torch.testing.assert_close(once.lhs, 2 * once.rhs)


def test_the_same_seed_gives_the_same_numbers() -> None:
    one, two, other = Setting(4, 2, 3), Setting(4, 2, 3), Setting(4, 2, 3, seed=1)
    assert torch.equal(one.phi, two.phi)
    assert not torch.equal(one.phi, other.phi)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 2, 3), ShapeError, "l, m and n must be at least 1; got 0, 2, 3"),
        ((5, 2, 3, "l1", 2, 0), ShapeError, "one of 2 groups of 3, from 0; got group 2, vector 0"),
        ((5, 2, 3, "l1", 0, -1), ShapeError, "got group 0, vector -1"),
        ((2, 1, 3, "logdet"), OptionError, "logdet is infinite for n > l; got n = 3, l = 2; try fewer vectors"),
        ((5, 2, 3, "l3"), OptionError, "l1"),
    ],
)
def test_settings_that_make_no_sense(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        Setting(*arguments)
