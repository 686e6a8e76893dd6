"""Every step of the derivation on numbers: for each penalty, many sizes and seeds; and a wrong step is noticed."""

import dataclasses

import pytest
import torch

from gramian.calculus import CheckedStep, Setting, Step, derive, plain_text, steps
from gramian.errors import OptionError, ShapeError
from gramian.penalties import L1, PENALTIES, SquaredFrobenius

SIZES = [(5, 2, 3), (1, 1, 1), (8, 1, 2), (4, 3, 4), (20, 1, 6), (3, 2, 5)]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_step_holds(sizes, penalty) -> None:
    length, m, n = sizes
    if penalty == "logdet" and n > length:
        n = length
    for seed in range(3):
        setting = Setting(length, m, n, penalty, a=m - 1, b=n - 1, seed=seed, beta=(1.0, 0.1, 30.0)[seed])
        checked = list(derive(setting))
        broken = {f"{one.step.rule}: {one.step.title}": one.difference for one in checked if not one.holds}
        assert not broken
        assert len(checked) >= 13


def test_l1_takes_every_step() -> None:
    assert [one.step.title for one in derive(Setting(5, 2, 3))] == [step.title for step in steps()]


def test_a_composition_is_derived_too() -> None:
    checked = list(derive(Setting(6, 2, 3, L1() + 0.5 * SquaredFrobenius())))
    assert all(one.holds for one in checked)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_steps_are_told_apart_and_complete(penalty) -> None:
    every = steps(penalty)
    assert len({step.title for step in every}) == len(every)
    for step in every:
        assert step.claim
        assert step.rule
        assert step.left
        assert step.right
        assert step.because.endswith((".", ")"))
        assert step.is_mistake == (step.rule == "Mistake") == ("≠" in step.claim)
        for text in (step.latex, step.because, step.title, step.rule, step.left, step.right):
            assert text.isascii()
            assert text.count("{") == text.count("}")
            assert plain_text(text).count("$") == 0
        assert step.relation in {"=", "≤", "≠"}


@pytest.mark.parametrize("step", [step for step in steps() if step.relation == "="], ids=lambda step: step.title)
def test_a_wrong_step_is_noticed(step: Step) -> None:
    lhs, rhs = step.sides(Setting(5, 2, 3))
    assert CheckedStep(step, lhs, rhs).holds
    assert not CheckedStep(step, lhs, rhs * 1.01 + 1e-3).holds
    assert not CheckedStep(dataclasses.replace(step, relation="≠"), lhs, rhs).holds


def test_a_bound_that_is_exceeded_is_noticed() -> None:
    (step,) = [step for step in steps() if step.relation == "≤"]
    lhs, rhs = step.sides(Setting(5, 2, 3))
    assert CheckedStep(step, lhs, rhs).holds
    assert not CheckedStep(step, rhs, lhs).holds


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_each_mistake_differs_by_the_term_it_omits(beta) -> None:
    setting = Setting(5, 2, 3, a=1, b=2, beta=beta)
    merged, masked, once, halved, flat = [one for one in derive(setting) if one.step.is_mistake]
    half = setting.P.mT @ setting.dP
    torch.testing.assert_close(merged.lhs - merged.rhs, half.mT - half)
    torch.testing.assert_close(masked.lhs - masked.rhs, 2 * beta * setting.P * setting.G.diagonal())
    torch.testing.assert_close(once.lhs, 2 * once.rhs)
    own = beta * setting.P[:, 2:] * setting.G[2, 2]
    torch.testing.assert_close(halved.lhs - halved.rhs, own)
    assert flat.lhs > 1e-4 * beta > 1e-10 > flat.rhs


@pytest.mark.parametrize("penalty", PENALTIES)
def test_with_sizes_that_differ_both_sides_have_the_same_shape(penalty) -> None:
    for one in derive(Setting(7, 2, 3, penalty)):
        assert one.lhs.shape == one.rhs.shape, one.step.title


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
        ((5, 2, 3, "l1", 0, 0, 0, 0.0), OptionError, "beta must be positive, or there is nothing to derive; got 0.0"),
        ((5, 2, 3, "l1", 0, 0, 0, float("nan")), OptionError, "beta"),
    ],
)
def test_settings_that_make_no_sense(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        Setting(*arguments)
