"""The update rules: against their twins of loops, their theory, and `step_` through every layout."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gramian
from gramian.errors import DtypeError, LayoutError, OptionError, ShapeError
from gramian.kernels import norms
from gramian.options import check_lr
from gramian.penalties import L1, Huber, SquaredFrobenius
from gramian.rules import RULES, Rule, Step, as_rule, polyak, proximal, subgradient
from tests.cases import (
    LAYOUT_CASES,
    PENALTY_CASES,
    over_draws,
    over_layouts,
    over_penalties,
    over_rules,
    overcomplete_is_meant,
    stiefel,
)

BETA = 0.7


def moved_by(rule: Rule, phi: Tensor, **options) -> Tensor:
    return phi + rule(phi, **options).change


def norm(X: Tensor) -> Tensor:
    """Largest entry of each group's matrix."""
    return X.abs().amax(dim=(-2, -1))


@over_penalties
def test_products_large_enough_to_go_wrong_in_place(case) -> None:
    # torch multiplies a matrix into itself wrongly from about 512² up, and says nothing.
    phi = torch.randn(512, 1, 512)
    before = phi.clone()
    X = gramian.residual(phi)
    # The scales are norms' business, the products this test's.
    G = case.penalty.subgradient(X)
    w = norms.spectral_norm(X + torch.eye(512)).clamp_min(1)[:, None, None]
    twice_S = case.penalty.prox_residual(X, 0.4 * w) / w
    S = twice_S / (2 * norms.spectral_norm(twice_S).clamp_min(1)[:, None, None])
    P = phi.double().permute(1, 0, 2)
    slope = 2 * (P @ G.double())
    length = min(0.1, (case.penalty.value(X.double()) / slope.square().sum()).item())
    for rule, change in (("proximal", P @ S.double()), ("subgradient", 0.1 * slope), ("polyak", length * slope)):
        exact = (P - change).permute(1, 0, 2)
        weight = phi.clone()
        gramian.step_(weight, lr=0.1, rule=rule, penalty=case.penalty)
        pure = moved_by(RULES[rule], phi, lr=0.1, beta=1.0, penalty=case.penalty)
        for moved in (weight, pure):
            assert (moved.double() - exact).abs().max() < 1e-5 * exact.abs().max()
        assert torch.equal(phi, before)


class TestSubgradient:
    def test_an_infinite_rate(self) -> None:
        with pytest.raises(OptionError, match=r"lr must be finite for the subgradient rule; got inf; try rule='proxim"):
            gramian.step_(torch.eye(3), lr=math.inf, rule="subgradient")

    @pytest.mark.parametrize("lr", [1e-2, 1e-3])
    def test_it_chatters_where_proximal_ends_at_rounding(self, lr) -> None:
        rough = smooth = stiefel(16, 2, 4) + 0.02 * torch.randn(16, 2, 4, dtype=torch.float64)
        left = []
        for _ in range(400):
            rough = moved_by(subgradient, rough, lr=lr, beta=1.0, penalty=L1())
            smooth = moved_by(proximal, smooth, lr=lr, beta=1.0, penalty=L1())
            left.append(norm(gramian.residual(rough)).max().item())
        # A jump of 4ηβ that never becomes smaller: nothing here but η sets its size.
        assert lr < min(left[-200:])
        assert max(left[-200:]) < 8 * lr
        assert norm(gramian.residual(smooth)).max() < 1e-14


class TestPolyak:
    def test_the_cap(self) -> None:
        phi = torch.randn(6, 3, 4, dtype=torch.float64)
        values = torch.stack([gramian.loss(phi[:, i : i + 1]) for i in range(3)])
        grad = gramian.value_and_grad(phi)[1]
        step_lengths = values / grad.square().sum(dim=(0, 2))
        cap = step_lengths.median().item()  # binds for one group and not for another
        moved = moved_by(polyak, phi, lr=cap, beta=1.0, penalty=L1())
        taken = (phi - moved).square().sum(dim=(0, 2)).sqrt() / grad.square().sum(dim=(0, 2)).sqrt()
        torch.testing.assert_close(taken, step_lengths.clamp_max(cap))
        assert (taken < step_lengths - 1e-6).any()
        torch.testing.assert_close(
            moved_by(polyak, phi, lr=math.inf, beta=1.0, penalty=L1()), phi - step_lengths[:, None] * grad
        )

    def test_more_vectors_than_dimensions(self) -> None:
        with pytest.raises(ShapeError, match=r"n <= l vectors.*; got n = 3, l = 2; try rule='proximal'"):
            polyak(torch.ones(2, 1, 3), lr=0.1, beta=1.0, penalty=L1())
        polyak(torch.ones(3, 1, 3), lr=0.1, beta=1.0, penalty=L1())

    def test_a_zero_gradient_gives_no_step(self) -> None:
        for phi in (torch.zeros(4, 2, 3), torch.eye(4)[:, None, :3]):
            for lr in (0.1, math.inf):
                assert torch.equal(moved_by(polyak, phi, lr=lr, beta=1.0, penalty=L1()), phi)

    @over_draws
    def test_it_ends_on_a_sharp_loss(self, draw) -> None:
        phi = torch.randn(64, 3, 4, dtype=torch.float64)
        for _ in range(200):
            phi = moved_by(polyak, phi, lr=math.inf, beta=1.0, penalty=L1())
        assert norm(gramian.residual(phi)).max() < 1e-10


@st.composite
def starts(draw, most: int = 16) -> Tensor:
    """One group of n ≤ 16, so that the norms of the rule are upper bounds: of any scale, well and badly conditioned."""
    n = draw(st.integers(1, most))
    length = n + draw(st.integers(0, 16))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    P = torch.randn(length, 1, n, dtype=torch.float64, generator=random)
    kind = draw(st.sampled_from(["gaussian", "columns", "collinear", "positive"]))
    if kind == "columns":
        P = P * 10 ** (2 * torch.rand(n, dtype=torch.float64, generator=random) - 1)
    if kind == "collinear":
        P = P[:, :, :1] + 0.1 * P
    if kind == "positive":
        P = P.abs()
    return P * 10 ** draw(st.floats(-2, 2))


def envelope(X: Tensor, tau: float) -> Tensor:
    """M_τ(X) = min_Y Σ|Y_jk| + ‖Y − X‖²/2τ, up to a factor; for τ = ∞ the sum of squares, which it tends to."""
    return X.square().sum() if math.isinf(tau) else tau * Huber(tau).value(X).sum()


class TestProximal:
    @pytest.mark.parametrize(
        "lr",
        [
            pytest.param(0.0025, marks=pytest.mark.slow),
            0.025,
            pytest.param(0.25, marks=pytest.mark.slow),
            2.5,
            pytest.param(math.inf, marks=pytest.mark.slow),
        ],
    )
    def test_the_moreau_envelope_of_the_loss_never_rises(self, lr) -> None:
        @given(starts())
        def descent(phi: Tensor) -> None:
            before = envelope(gramian.residual(phi), 4 * lr)
            for _ in range(6):
                phi = moved_by(proximal, phi, lr=lr, beta=1.0, penalty=L1())
                after = envelope(gramian.residual(phi), 4 * lr)
                assert after <= before * (1 + 1e-12) + 1e-25
                before = after

        descent()

    @pytest.mark.parametrize("lr", [pytest.param(0.25, marks=pytest.mark.slow), 2.5, math.inf])
    def test_the_sum_of_squares_never_rises_once_tau_is_one(self, lr) -> None:
        @given(starts())
        def descent(phi: Tensor) -> None:
            before = gramian.residual(phi).square().sum()
            for _ in range(6):
                phi = moved_by(proximal, phi, lr=lr, beta=1.0, penalty=L1())
                after = gramian.residual(phi).square().sum()
                assert after <= before * (1 + 1e-12) + 1e-25
                before = after

        descent()

    def test_a_plain_subgradient_step_would_not_descend(self) -> None:
        phi = torch.randn(16, 1, 4, dtype=torch.float64) * 3
        moved = moved_by(subgradient, phi, lr=0.25, beta=1.0, penalty=L1())
        assert envelope(gramian.residual(moved), 1.0) > envelope(gramian.residual(phi), 1.0)

    @pytest.mark.parametrize("lr", [0.25, 2.5, math.inf])
    def test_quadratic_near_the_manifold(self, lr) -> None:
        # There C = X, and X₊ = −¾X² + ¼X³ but for the scale w = 1 + ‖X‖.
        for _ in range(100):
            n = int(torch.randint(1, 17, ()))
            change = 10 ** float(torch.empty(()).uniform_(-6, -2))
            phi = stiefel(n + 3, 1, n) + change * torch.randn(n + 3, 1, n, dtype=torch.float64)
            before = norm(gramian.residual(phi)).item()
            after = norm(gramian.residual(moved_by(proximal, phi, lr=lr, beta=1.0, penalty=L1()))).item()
            assert before < 4 * lr
            assert after <= 2 * n * before**2 + 1e-14

    def test_linear_where_the_loss_is_far_from_its_kink(self) -> None:
        # Beyond τw the step is the subgradient step, of length lr for any distance.
        far = 0.5 * torch.eye(9, dtype=torch.float64)[:, None, :4]
        for lr in (1e-3, 1e-2, 0.15):
            moved = moved_by(proximal, far, lr=lr, beta=1.0, penalty=L1())
            torch.testing.assert_close(moved, moved_by(subgradient, far, lr=lr, beta=1.0, penalty=L1()))
            torch.testing.assert_close(moved, far * (1 + 2 * lr))

    @pytest.mark.parametrize("lr", [0.01, 0.25, math.inf])
    def test_no_rank_is_lost(self, lr) -> None:
        # ‖S‖ ≤ ½, so I − S takes at most half of any singular value.
        @given(starts())
        def kept(phi: Tensor) -> None:
            before, after = (
                torch.linalg.svdvals(P[:, 0])[-1] for P in (phi, moved_by(proximal, phi, lr=lr, beta=1.0, penalty=L1()))
            )
            assert after >= 0.5 * before * (1 - 1e-9)

        kept()

    def test_the_normal_step_shares_its_singular_vectors(self) -> None:
        phi = torch.randn(9, 1, 4, dtype=torch.float64)
        moved = moved_by(proximal, phi, lr=math.inf, beta=1.0, penalty=SquaredFrobenius())
        between = phi[:, 0].mT @ moved[:, 0]
        torch.testing.assert_close(between, between.mT)
        # X itself for any penalty, once the rate has no bound.
        for case in PENALTY_CASES.values():
            torch.testing.assert_close(moved_by(proximal, phi, lr=math.inf, beta=1.0, penalty=case.penalty), moved)

    def test_no_rank_is_lost_beside_a_block_that_hides_the_norm(self) -> None:
        # A heavy block of random signs draws the power steps away from one large vector, whose step is then s = 1.
        n = 32
        signs = torch.triu(torch.randint(0, 2, (n, n), generator=torch.Generator().manual_seed(0)).double() * 2 - 1, 1)
        phi = torch.zeros(n + 1, 1, n + 1, dtype=torch.float64)
        block = signs + signs.mT + 2.2 * math.sqrt(n) * torch.eye(n, dtype=torch.float64)
        block[0, 0] += 1  # one row is the heaviest, whatever the rounding
        phi[:n, 0, :n] = torch.linalg.cholesky(block).mT
        phi[n, 0, n] = math.sqrt(1 + 2 * norms.spectral_norm(block[None]).item())
        assert torch.linalg.svdvals(phi[:, 0])[-1] > 0.1
        moved = moved_by(proximal, phi, lr=math.inf, beta=1.0, penalty=L1())
        assert torch.linalg.svdvals(moved[:, 0])[-1] > 0.05

    @overcomplete_is_meant
    def test_more_vectors_than_dimensions_still_descends(self) -> None:
        phi = torch.randn(4, 2, 6, dtype=torch.float64)
        before = gramian.loss(phi)
        for _ in range(50):
            phi = moved_by(proximal, phi, lr=0.01, beta=1.0, penalty=L1())
        assert gramian.loss(phi) < 0.8 * before
        assert phi.isfinite().all()


@overcomplete_is_meant
@over_layouts
@over_rules
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
class TestStepThroughALayout:
    def test_it_is_the_pure_rule_written_back(self, case, rule, dtype) -> None:
        weight = 0.3 * torch.randn(case.shape, dtype=dtype)
        layout = gramian.Layout(case.pattern, **case.sizes)
        phi = case.by_hand(weight).clone()
        pointer, before = weight.data_ptr(), weight.clone()
        if rule == "polyak" and phi.shape[2] > phi.shape[0]:
            with pytest.raises(ShapeError, match="n <= l"):
                gramian.step_(weight, lr=0.05, rule=rule, layout=layout)
            assert torch.equal(weight, before)
            return
        step = RULES[rule](phi, lr=0.05, beta=BETA, penalty=Huber())
        loss = gramian.step_(weight, lr=0.05, beta=BETA, rule=rule, penalty=Huber(), layout=layout)
        torch.testing.assert_close(case.by_hand(weight), phi + step.change)
        torch.testing.assert_close(loss, step.loss)
        torch.testing.assert_close(loss, gramian.loss(before, beta=BETA, penalty=Huber(), layout=layout))
        assert weight.data_ptr() == pointer
        assert (weight - before).abs().max() > 1e-4

    def test_a_strided_parameter(self, case, rule, dtype) -> None:
        wide = 0.3 * torch.randn(*case.shape[:-1], case.shape[-1] * 2, dtype=dtype)
        untouched, weight = wide[..., 1::2].clone(), wide[..., ::2]
        layout = gramian.Layout(case.pattern, **case.sizes)
        dense = weight.clone()
        if rule == "polyak" and layout.phi_shape(case.shape)[2] > layout.phi_shape(case.shape)[0]:
            return
        for parameter in (weight, dense):
            gramian.step_(parameter, lr=0.05, rule=rule, penalty="huber", layout=layout)
        torch.testing.assert_close(wide[..., ::2], dense)
        assert torch.equal(wide[..., 1::2], untouched)


def test_bfloat16_ends_where_its_rounding_lets_it() -> None:
    weight = torch.randn(32, 3, 8).bfloat16()
    for _ in range(40):
        gramian.step_(weight, lr=0.25)
    assert norm(gramian.residual(weight)).max() < 2 * torch.finfo(torch.bfloat16).eps


class TestStepAndAutograd:
    @over_rules
    def test_a_leaf_that_requires_grad(self, rule) -> None:
        linear = torch.nn.Linear(6, 4)
        version = linear.weight._version
        plain = linear.weight.detach().clone()
        loss = gramian.step_(linear.weight, lr=0.05, rule=rule, layout="o i -> i () o")
        gramian.step_(plain, lr=0.05, rule=rule, layout="o i -> i () o")
        assert torch.equal(linear.weight, plain)
        assert linear.weight.is_leaf
        assert linear.weight.requires_grad
        assert linear.weight.grad is None
        assert linear.weight._version > version
        assert not loss.requires_grad

    def test_a_graph_from_before_is_refused(self) -> None:
        weight = torch.randn(6, 2, 3, requires_grad=True)
        loss, square = gramian.loss(weight), weight.square().sum()
        gramian.step_(weight, lr=0.05)
        for graph in (loss, square):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                graph.backward()
        gramian.loss(weight).backward()
        assert weight.grad.any()

    def test_the_returned_loss_is_not_tied_to_the_parameter(self) -> None:
        weight = torch.randn(6, 2, 3)
        before = gramian.loss(weight)
        first = gramian.step_(weight, lr=0.05)
        gramian.step_(weight, lr=0.05)
        assert torch.equal(first, before)

    def test_next_to_an_optimiser(self) -> None:
        linear = torch.nn.Linear(12, 6)
        optimizer = torch.optim.Adam(linear.parameters(), lr=1e-3)
        for _ in range(30):
            optimizer.zero_grad()
            linear(torch.randn(8, 12)).square().mean().backward()
            optimizer.step()
            gramian.step_(linear.weight, lr=0.1, layout="o i -> i () o")
        assert norm(gramian.residual(linear.weight, layout="o i -> i () o")).max() < 1e-3


class TestAnOwnRule:
    def test_a_function_is_a_rule(self) -> None:
        seen = []

        def halve(phi: Tensor, *, lr: float, beta: float, penalty: gramian.Penalty) -> Step:
            seen.append((phi.shape, phi.dtype, lr, beta, penalty))
            return Step(-phi / 2, phi.sum())

        weight = torch.randn(8, 5).bfloat16()
        before = weight.clone()
        total = gramian.step_(weight, lr=3, beta=2, rule=halve, penalty="huber", layout="o i -> o () i")
        assert torch.equal(weight, before / 2)
        torch.testing.assert_close(total, before.float().sum())
        assert seen == [((8, 1, 5), torch.float32, 3.0, 2.0, Huber())]

    def test_a_rule_that_changes_nothing(self) -> None:
        weight = torch.randn(6, 2, 3)
        before = weight.clone()
        gramian.step_(weight, lr=0.1, rule=lambda phi, *, lr, beta, penalty: Step(0 * phi, phi.sum()))
        assert torch.equal(weight, before)

    def test_names(self) -> None:
        assert as_rule("proximal") is proximal
        assert as_rule(polyak) is polyak
        assert all(isinstance(rule, Rule) for rule in RULES.values())
        with pytest.raises(AttributeError):
            Step(torch.ones(1, 1, 1), torch.tensor(0.0)).loss = None  # pyright: ignore


class TestErrors:
    @pytest.mark.parametrize("lr", [-1.0, -1e-30, math.nan, -math.inf])
    @over_rules
    def test_rate(self, rule, lr) -> None:
        weight = torch.ones(3, 2)
        with pytest.raises(OptionError, match=r"lr must be 0 or positive; got .*; try lr=0\.1"):
            gramian.step_(weight, lr=lr, rule=rule)
        assert torch.equal(weight, torch.ones(3, 2))

    @pytest.mark.parametrize("lr", ["fast", None, [1.0], torch.ones(3)], ids=["str", "None", "list", "tensor"])
    def test_rate_that_is_no_number(self, lr) -> None:
        with pytest.raises(OptionError, match=r"lr must be a number; got .*; try lr="):
            gramian.step_(torch.ones(3, 2), lr=lr)

    def test_rates_that_are_numbers(self) -> None:
        assert check_lr(0) == 0
        assert check_lr(math.inf) == math.inf
        assert check_lr(torch.tensor(0.5)) == 0.5  # pyright: ignore

    @pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
    def test_strength(self, beta) -> None:
        with pytest.raises(OptionError, match=r"beta must be (0 or positive|finite); got"):
            gramian.step_(torch.ones(3, 2), lr=0.1, beta=beta)

    def test_penalty_and_rule(self) -> None:
        with pytest.raises(OptionError, match=r"penalty must be one of 'l1'"):
            gramian.step_(torch.ones(3, 2), lr=0.1, penalty="l2")
        for rule in ("newton", "", None, 3):
            with pytest.raises(OptionError, match=r"one of 'proximal', 'polyak', 'subgradient' or a function; got"):
                gramian.step_(torch.ones(3, 2), lr=0.1, rule=rule)  # pyright: ignore

    def test_tensor_and_layout(self) -> None:
        for weight in (torch.ones(3, 2).long(), torch.ones(3, 2) * 1j, [[1.0]]):
            with pytest.raises(DtypeError, match=r"phi must be .*; got .*; try"):
                gramian.step_(weight, lr=0.1)  # pyright: ignore
        with pytest.raises(LayoutError, match="without a layout"):
            gramian.step_(torch.ones(3), lr=0.1)
        with pytest.raises(LayoutError, match="must be a multiple of 4"):
            gramian.step_(torch.ones(9, 5), lr=0.1, layout=gramian.Layout("(m n) i -> i m n", n=4))


def test_the_layouts_include_groups_that_cannot_be_orthonormal() -> None:
    shapes = [gramian.Layout(case.pattern, **case.sizes).phi_shape(case.shape) for case in LAYOUT_CASES.values()]
    assert {n > length for length, _, n in shapes} == {True, False}
