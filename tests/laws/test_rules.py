"""The laws of the update rules, each with every penalty of the table: beside their twins of loops, and invariances."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError, ShapeError
from gramian.kernels import norms
from gramian.rules import RULES
from tests import oracle
from tests.cases import (
    ALL_CASES,
    RULE_CASES,
    SHAPES,
    PenaltyCase,
    over,
    over_all_penalties,
    over_proximable,
    over_rules,
    overcomplete_is_meant,
    stiefel,
)

BETA = 0.7
SHAPE = (6, 3, 4)


def estimate(M: oracle.Matrix) -> float:
    return norms.spectral_norm(torch.tensor([M], dtype=torch.float64)).item()


def twin(rule: str, phi: Tensor, lr: float, beta: float, case: PenaltyCase) -> Tensor:
    """The rule's step by loops, in float64."""
    _, m, n = phi.shape
    # Above n = 16 the norm is an estimate, whose bounds are tested by themselves: the twin is given the same.
    more = {"norm": estimate if n > 16 else None, "centred": case.zero and case.convex} if rule == "proximal" else {}
    groups = phi.double().tolist()
    moved = [RULE_CASES[rule](oracle.group(groups, i), lr, beta, mu, **more) for i, mu in enumerate(case.mu(m, n))]
    return torch.tensor(moved, dtype=torch.float64).permute(1, 0, 2)


def can(rule: str, case: PenaltyCase) -> bool:
    return rule != "proximal" or case.has_prox


def lengths(rule: str) -> tuple[float, ...]:
    return (0.003, 0.3) if rule == "subgradient" else (0.003, 0.3, math.inf)


def step(rule: str, phi: Tensor, case: PenaltyCase, *, lr: float = 0.02, beta: float = BETA):
    return RULES[rule](phi, lr=lr, beta=beta, penalty=case.at(*phi.shape[1:]))


over_both = pytest.mark.parametrize(
    ("rule", "case"),
    [
        pytest.param(rule, case, id=f"{rule}-{name}")
        for rule in RULE_CASES
        for name, case in ALL_CASES.items()
        if can(rule, case)
    ],
)


@over(ALL_CASES, lambda case: not case.has_prox)
def test_a_penalty_without_a_prox_refuses_the_proximal_rule_by_name(case) -> None:
    phi = case.draw(SHAPE)
    before = phi.clone()
    for call in (
        lambda: gramian.step_(phi, lr=0.1, penalty=case.at(*SHAPE[1:])),
        lambda: gramian.foreach.step_([phi, phi.clone()], lr=0.1, penalty=case.at(*SHAPE[1:])),
    ):
        with pytest.raises(OptionError, match=r"prox.*; try rule='polyak'"):
            call()
        assert torch.equal(phi, before)


@over_both
class TestBesideLoops:
    def test_one_step(self, rule, case) -> None:
        for shape in SHAPES[:-1] if case.at(2, 2).elementwise else SHAPES[1:-1]:
            starts = [case.draw(shape)]
            if case.ties and not case.tall:
                starts += [torch.randint(-1, 2, shape).double(), torch.zeros(shape, dtype=torch.float64)]
            if case.convex and (
                rule == "proximal" or (case.smooth and case.at(2, 2).diagonal)
            ):  # elsewhere a sign of rounding noise would decide
                starts.append(stiefel(*shape) * 1.01)
            for phi in starts:
                before, version = phi.clone(), phi._version
                for lr in lengths(rule):
                    made = step(rule, phi, case, lr=lr)
                    close = {"rtol": 1e-9, "atol": 1e-9 * (1 + phi.abs().max().item())}
                    torch.testing.assert_close(phi + made.change, twin(rule, phi, lr, BETA, case), **close)
                    loss = oracle.loss(phi.tolist(), BETA, case.mu(*shape[1:]))
                    assert made.loss.item() == pytest.approx(loss, rel=case.tolerance, abs=case.tolerance)
                    assert made.loss.shape == ()
                    assert made.change.untyped_storage().data_ptr() != phi.untyped_storage().data_ptr()
                assert torch.equal(phi, before)
                assert phi._version == version

    def test_many_steps_and_a_broken_one_would_be_seen(self, rule, case) -> None:
        phi = expected = start = case.draw((5, 2, 3), 0)
        for _ in range(5):
            expected = twin(rule, expected, 0.02, BETA, case)
            phi = phi + step(rule, phi, case).change
            torch.testing.assert_close(phi, expected, rtol=1e-8, atol=1e-8)
        if case is not ALL_CASES["0 l1"]:
            for wrong in (start, 2 * start - phi, start + (phi - start) / 2, phi.flip(1)):
                assert (wrong - expected).abs().max() > 1e-4

    def test_in_sixteen_bits_at_most_twice_the_error_of_one_rounding(self, rule, case) -> None:
        if not case.at(2, 2).elementwise:
            return  # an eigendecomposition in float32 has an error of its own
        for dtype in (torch.bfloat16, torch.float16):
            start = torch.randn(24, 3, 6).to(dtype)
            exact, weight = twin(rule, start, 0.02, BETA, case), start.clone()
            loss = gramian.step_(weight, lr=0.02, beta=BETA, rule=rule, penalty=case.at(3, 6))
            error, rounding = ((P.double() - exact).square().mean().sqrt() for P in (weight, exact.to(dtype)))
            assert error <= 2 * rounding
            assert loss.dtype == torch.float32
            assert loss.item() == pytest.approx(oracle.loss(start.tolist(), BETA, case.mu(3, 6)), rel=1e-5)
            assert case is ALL_CASES["0 l1"] or not torch.equal(weight, start)


@over_both
class TestInvariances:
    def test_without_a_rate_or_a_strength_nothing_moves(self, rule, case) -> None:
        phi = case.draw((20, 2, 18))
        for lr, beta in ((0.0, 1.0), (0.3, 0.0), (0.0, 0.0)):
            made = step(rule, phi, case, lr=lr, beta=beta)
            assert not made.change.any()
            assert (made.loss > 0) == (beta > 0 and case is not ALL_CASES["0 l1"])
            weight = phi.clone().bfloat16()
            gramian.step_(weight, lr=lr, beta=beta, rule=rule, penalty=case.at(2, 18))
            assert torch.equal(weight, phi.bfloat16())

    def test_rate_and_strength_only_count_together(self, rule, case) -> None:
        # For polyak too: L/‖∂L‖² is of degree −1 in β, so the step that it caps is not changed by β.
        phi = case.draw(SHAPE)
        one, other = (step(rule, phi, case, lr=0.02 / beta, beta=beta).change for beta in (1.0, 4.0))
        torch.testing.assert_close(one, other)

    def test_an_orthonormal_group_stays(self, rule, case) -> None:
        phi = torch.eye(5, dtype=torch.float64)[:, None, :3].expand(5, 2, 3).contiguous()
        made = step(rule, phi, case, lr=0.3, beta=1.0)
        assert made.change.any() != case.zero
        assert (made.loss == 0) == case.zero

    def test_groups_do_not_meet(self, rule, case) -> None:
        phi = case.draw(SHAPE)
        if case.scale == 1:
            phi *= torch.tensor([0.1, 1.0, 30.0]).double()[:, None]
        whole, penalty = step(rule, phi, case), case.at(*SHAPE[1:])
        loss = torch.zeros((), dtype=torch.float64)
        for i in range(SHAPE[1]):
            which = slice(i, i + 1)
            part = RULES[rule](phi[:, which], lr=0.02, beta=BETA, penalty=penalty.select_groups(which))
            torch.testing.assert_close(whole.change[:, which], part.change, rtol=1e-6, atol=1e-9)
            loss += part.loss
        torch.testing.assert_close(whole.loss, loss)

    def test_turned_and_permuted_alike(self, rule, case) -> None:
        phi, Q = case.draw(SHAPE), stiefel(6, 1, 6)[:, 0]
        members = torch.randperm(4) if case.members else torch.arange(4)
        groups = torch.arange(3) if case.separate else torch.randperm(3)
        signs = torch.randint(0, 2, (1, 3, 4)) * 2 - 1 if case.signs else torch.ones(1, 3, 4)

        def transformed(x: Tensor) -> Tensor:
            return torch.einsum("kl,lmn->kmn", Q, x)[:, groups][:, :, members] * signs

        change = step(rule, transformed(phi), case).change
        torch.testing.assert_close(change, transformed(step(rule, phi, case).change), rtol=1e-6, atol=1e-8)

    def test_strides_do_not_matter(self, rule, case) -> None:
        phi = case.draw(SHAPE)
        expected = step(rule, phi, case).change
        for view in (phi.permute(2, 1, 0).contiguous().permute(2, 1, 0), torch.stack([phi, phi], dim=-1)[..., 1]):
            torch.testing.assert_close(step(rule, view, case).change, expected, rtol=1e-6, atol=1e-8)
            moved = view.clone(memory_format=torch.preserve_format)
            gramian.step_(moved, lr=0.02, beta=BETA, rule=rule, penalty=case.at(*SHAPE[1:]))
            torch.testing.assert_close(moved, phi + expected, rtol=1e-6, atol=1e-8)

    def test_an_entry_that_is_not_finite_fills_its_group_and_no_other(self, rule, case) -> None:
        for n in (3, 20):
            if case is ALL_CASES["0 l1"]:
                continue  # nothing is taken, NaN or not
            clean, penalty = case.draw((24, 3, n)).float(), case.at(3, n)
            for entry, lr in ((math.nan, 0.1), (math.inf, 0.1), (-math.inf, 0.0)):
                phi, expected = clean.clone(), clean.clone()
                gramian.step_(expected, lr=lr, rule=rule, penalty=penalty)
                phi[4, 1, 1] = entry
                before = gramian.step_(phi, lr=lr, rule=rule, penalty=penalty)
                assert not before.isfinite()
                assert phi[:, 1].isnan().all()
                torch.testing.assert_close(phi[:, [0, 2]], expected[:, [0, 2]], rtol=1e-4, atol=1e-5)

    @overcomplete_is_meant
    def test_empty_axes(self, rule, case) -> None:
        for shape in ((3, 0, 2), (3, 2, 0), (0, 2, 0), (0, 0, 0), (0, 2, 3)):
            phi, penalty = torch.empty(shape), case.at(*shape[1:])
            if rule == "polyak" and shape[2] > shape[0]:
                with pytest.raises(ShapeError, match="n <= l"):
                    gramian.step_(phi, lr=0.1, rule=rule, penalty=penalty)
                continue
            before = gramian.step_(phi, lr=0.1, rule=rule, penalty=penalty)
            torch.testing.assert_close(before, gramian.loss(phi, penalty=penalty))
            assert phi.shape == shape


@over_proximable
def test_the_proximal_rule_ends_at_the_least_loss(case) -> None:
    if case is ALL_CASES["0 l1"]:
        return
    phi = case.draw((9, 3, 4), 0)
    result = gramian.orthogonalize(phi, penalty=case.at(3, 4), max_steps=3000)
    assert result.converged
    assert case.at(3, 4).penalized(gramian.residual(result.phi)).abs().max() < 1e-6
    assert gramian.loss(result.phi, penalty=case.at(3, 4)) < 1e-6


@over_rules
@over_all_penalties
def test_a_few_steps_make_the_loss_less(rule, case) -> None:
    if not can(rule, case) or case is ALL_CASES["0 l1"]:
        return
    phi, penalty = case.draw((12, 3, 4), 0), case.at(3, 4)
    losses = [gramian.step_(phi, lr=2e-3, rule=rule, penalty=penalty).item() for _ in range(20)]
    assert losses[-1] < losses[0]
