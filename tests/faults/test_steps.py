"""What is written into parameters: all or nothing, and nothing into shared memory or from doubtful numbers."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import gramian
from gramian import foreach, kernels, training
from gramian.errors import DtypeError, OptionError, ShapeError
from gramian.penalties import L1, Cosine, Huber, Penalty, SquaredFrobenius, TargetGram, Weighted
from gramian.rules import Step, as_rule, groupwise, proximal
from gramian.rules.writable import overlaps_itself


def draw() -> list[Tensor]:
    """Small and large ones, in two dtypes: those that are batched, stepped in place and rounded."""
    shapes = ((12, 2, 3), (12, 2, 3), (300, 200, 3), (9, 4, 3))
    return [torch.randn(shape) / 4 for shape in shapes] + [(torch.randn(8, 5, 3) / 4).bfloat16()]


def refused(error: type[Exception], match: str, tensors: list[Tensor], **options) -> None:
    """A step of many tensors raises, and no tensor has changed."""
    before = [tensor.clone() for tensor in tensors]
    with pytest.raises(error, match=match):
        foreach.step_(tensors, **{"lr": 0.1, **options})
    assert all(torch.equal(one, two) for one, two in zip(tensors, before, strict=True))


def ones(m: int, n: int) -> Tensor:
    return torch.ones(m, n, n)


class FailsAt(L1):
    """A penalty of somebody's, whose code fails at the so-many-th call."""

    def __init__(self, call: int) -> None:
        object.__setattr__(self, "diagonal", True)
        object.__setattr__(self, "left", [call])

    def value(self, X: Tensor) -> Tensor:
        self.left[0] -= 1  # pyright: ignore
        if not self.left[0]:  # pyright: ignore
            raise KeyError("somebody's")
        return super().value(X)


class TestAllOrNothing:
    @pytest.mark.parametrize("rule", ["proximal", "polyak", "subgradient"])
    @pytest.mark.parametrize(
        "penalty",
        [
            Weighted(L1(), ones(2, 3)),
            TargetGram(L1(), torch.eye(3).expand(2, 3, 3).contiguous()),
            3 * (L1() + 2 * Weighted(Huber(), ones(2, 3))),
        ],
        ids=["weights", "target", "nested"],
    )
    def test_parameters_for_other_groups(self, rule, penalty) -> None:
        refused(ShapeError, r"^tensor 2: .*must", draw(), rule=rule, penalty=penalty)

    def test_weights_for_vectors_of_another_number(self) -> None:
        refused(
            ShapeError, r"^tensor 0: weights of shape \[4, 4\] must be", draw(), penalty=Weighted(L1(), ones(1, 4)[0])
        )

    def test_a_penalty_without_a_prox(self) -> None:
        refused(OptionError, "no closed prox; try rule='polyak'", draw(), penalty=Cosine(L1()))

    @pytest.mark.parametrize("call", [1, 2, 3, 4])
    @pytest.mark.parametrize("rule", ["proximal", "polyak", "subgradient"])
    def test_a_penalty_that_fails(self, rule, call) -> None:
        refused(KeyError, "somebody's", draw(), rule=rule, penalty=FailsAt(call))

    @pytest.mark.parametrize(
        ("spoil", "error", "match"),
        [
            (
                lambda change, loss: Step(change[:, :1], loss),
                ShapeError,
                "the change that a rule returns must be of shape",
            ),
            (lambda change, loss: Step(change.double(), loss), OptionError, "dtype and on the device of phi"),
            (lambda change, loss: Step(change.to("meta"), loss), OptionError, "dtype and on the device of phi"),
            (
                lambda change, loss: Step(change, loss[None]),
                ShapeError,
                "the loss that a rule returns must be of shape",
            ),
            (
                lambda change, loss: Step(change, 0.0),
                OptionError,
                "the loss that a rule returns must be a tensor; got float",
            ),
            (lambda change, loss: (change, loss), OptionError, "a rule must return a gramian.rules.Step; got tuple"),
        ],
        ids=["shape", "dtype", "device", "loss of an axis", "loss of no tensor", "no step"],
    )
    def test_a_rule_whose_last_step_is_none(self, spoil, error, match) -> None:
        def rule(phi: Tensor, *, lr: float, beta: float, penalty: Penalty) -> Step:
            change, loss = -phi / 2, phi.sum()
            return spoil(change, loss) if phi.shape[0] == 9 else Step(change, loss)

        refused(error, match, draw(), rule=rule)

    def test_a_rule_that_fails(self) -> None:
        def rule(phi: Tensor, *, lr: float, beta: float, penalty: Penalty) -> Step:
            if phi.shape[0] == 8:
                raise ZeroDivisionError("somebody's")
            return Step(-phi / 2, phi.sum())

        refused(ZeroDivisionError, "somebody's", draw(), rule=rule)

    @pytest.mark.parametrize("rule", ["proximal", "polyak"])
    def test_a_forced_kernel_that_cannot(self, rule) -> None:
        tensors = [torch.randn(6, 4, 2), torch.randn(60, 1, 40)]
        with kernels.use("block_diagonal"):
            refused(OptionError, "the forced block_diagonal kernel", tensors, rule=rule)

    def test_an_infinite_rate(self) -> None:
        refused(OptionError, "lr must be finite for the subgradient rule", draw(), rule="subgradient", lr=math.inf)

    @pytest.mark.filterwarnings("ignore:a group of n = ")
    def test_a_hard_constraint(self) -> None:
        tensors = [torch.randn(6, 3), torch.randn(2, 3)]
        before = [tensor.clone() for tensor in tensors]
        for penalty, error, match in (
            ("l1", ShapeError, "tensor 1: a hard constraint needs groups of n <= l vectors"),
            (Cosine(L1()), OptionError, "no closed prox"),
        ):
            with pytest.raises(error, match=match):
                foreach.restore_(tensors, penalty=penalty)
        assert all(torch.equal(one, two) for one, two in zip(tensors, before, strict=True))


class TestGroupsThatMeet:
    def test_a_rule_that_looks_across_groups_gets_each_tensor_by_itself(self) -> None:
        def by_all(phi: Tensor, *, lr: float, beta: float, penalty: Penalty) -> Step:
            return Step(-lr * phi.norm() * phi, phi.norm())

        tensors = [torch.randn(12, 2, 3) for _ in range(4)]
        alone = [tensor.clone() for tensor in tensors]
        total = foreach.step_(tensors, lr=0.01, rule=by_all)
        losses = [gramian.step_(tensor, lr=0.01, rule=by_all) for tensor in alone]
        torch.testing.assert_close(tensors, alone)
        torch.testing.assert_close(total, torch.stack(losses).sum())

    def test_one_that_declares_that_it_does_not_is_batched(self) -> None:
        calls = []

        @groupwise
        def by_group(phi: Tensor, *, lr: float, beta: float, penalty: Penalty) -> Step:
            calls.append(phi.shape[1])
            return Step(-lr * phi, phi.sum())

        foreach.step_([torch.randn(12, 2, 3) for _ in range(4)], lr=0.01, rule=by_group)
        assert calls == [8]


STRIDES = (
    ((3, 4), (4, 1), False), ((3, 4), (1, 3), False), ((3, 4), (0, 1), True), ((3, 1), (1, 0), False),
    ((3, 4), (1, 1), True), ((3, 2), (2, 3), False), ((2, 3), (2, 1), True), ((2, 2), (2, 3), False),
    ((4, 3), (3, 4), False), ((0, 5), (0, 0), False), ((5, 3), (6, 2), False), ((2, 2, 2), (1, 2, 3), True),
)  # fmt: skip


class TestSharedMemory:
    @pytest.mark.parametrize(("shape", "strides", "overlaps"), STRIDES, ids=str)
    def test_the_test_beside_a_count_of_places(self, shape, strides, overlaps) -> None:
        places = torch.arange(64).as_strided(shape, strides)
        assert (places.unique().numel() < places.numel()) == overlaps
        assert overlaps_itself(torch.zeros(64).as_strided(shape, strides)) == overlaps

    @pytest.mark.parametrize("kernel", [None, "lanes", "block_diagonal", "batched", "reference"])
    def test_an_expanded_tensor_is_read_and_not_written(self, kernel) -> None:
        if kernel == "lanes":
            pytest.importorskip("llvmlite")
        base = torch.randn(6, 1, 3)
        phi = base.expand(6, 300, 3)
        before = base.clone()
        with kernels.use(kernel) if kernel else torch.no_grad():
            if kernel != "block_diagonal":  # which needs groups that are neighbours
                value, grad = gramian.value_and_grad(phi)
                expected = gramian.value_and_grad(base)
                torch.testing.assert_close(value, 300 * expected[0])
                torch.testing.assert_close(grad, expected[1].expand(6, 300, 3))
                torch.testing.assert_close(gramian.loss(phi), value)
            for rule in ("proximal", "polyak", "subgradient"):
                with pytest.raises(ShapeError, match=r"entries that share memory; got strides .*; try phi\.clone\(\)"):
                    gramian.step_(phi, lr=0.1, rule=rule)
        assert torch.equal(base, before)

    def test_every_function_that_writes(self) -> None:
        base = torch.randn(6, 1)
        phi = base.expand(6, 4)
        window = torch.randn(20).as_strided((6, 4), (2, 1))
        before, beside = base.clone(), window.clone()
        for tensor in (phi, window):
            for write in (
                lambda t: gramian.step_(t, lr=0.1),
                lambda t: foreach.step_([torch.randn(6, 4), t], lr=0.1),
                lambda t: foreach.restore_([t]),
                lambda t: training.step_chunks_(t, 2, lr=0.1),
            ):
                with pytest.raises(ShapeError, match="entries that share memory"):
                    write(tensor)
        assert torch.equal(base, before)
        assert torch.equal(window, beside)

    def test_tensors_of_one_call(self) -> None:
        weight = torch.randn(8, 6)
        before = weight.clone()
        for tensors in (
            [weight, weight],
            [weight, weight[2:5, :2]],
            [weight[:, :4], weight[:, 3:]],
            [weight, weight[:6].t()],
        ):
            with pytest.raises(ShapeError, match=r"must not share memory; got tensor \d, of shape .*; try"):
                foreach.step_(tensors, lr=0.1)
        assert torch.equal(weight, before)

    def test_parts_that_interleave_share_none(self) -> None:
        weight = torch.randn(8, 6)
        parts = [weight[:, :3], weight[:, 3:]]
        alone = [part.clone() for part in parts]
        foreach.step_(parts, lr=0.1)
        for part in alone:
            gramian.step_(part, lr=0.1)
        torch.testing.assert_close(weight, torch.cat(alone, dim=1))

    def test_without_memory_and_out_of_inference_mode(self) -> None:
        with pytest.raises(DtypeError, match="must have memory; got one on the meta device"):
            gramian.step_(torch.randn(4, 2, device="meta"), lr=0.1)
        with torch.inference_mode():
            phi = torch.randn(64, 300, 4)
            gramian.step_(phi, lr=0.1)
        with pytest.raises(
            DtypeError, match=r"created in inference mode must not be written to outside of it.*try phi\.cl"
        ):
            gramian.step_(phi, lr=0.1)

    def test_under_vmap(self) -> None:
        phis = torch.randn(3, 8, 4)
        expected = phis.clone()
        torch.func.vmap(lambda phi: gramian.step_(phi, lr=0.1))(phis)
        for phi in expected:
            gramian.step_(phi, lr=0.1)
        torch.testing.assert_close(phis, expected)


class TestNumbers:
    @pytest.mark.parametrize(
        "value", ["0.1", b"1", np.str_("1"), np.array("0.1"), True, np.True_, torch.tensor(data=True), 1j, None, [1.0]],
        ids=lambda value: f"{type(value).__name__}",
    )  # fmt: skip
    def test_what_is_no_number(self, value) -> None:
        for options in ({"lr": value}, {"lr": 0.1, "beta": value}):
            with pytest.raises(OptionError, match=r"must be a number; got .*; try"):
                gramian.step_(torch.ones(3, 2), **options)

    def test_a_gradient_by_a_strength_is_not_dropped(self) -> None:
        beta = torch.tensor(0.5, requires_grad=True)
        phi = torch.randn(4, 2)
        for call in (
            lambda b: gramian.loss(phi, beta=b),
            lambda b: gramian.step_(phi, lr=b),
            torch.func.grad(lambda b: gramian.loss(phi, beta=b)),
        ):
            with pytest.raises(OptionError, match=r"must be a constant.*or loss\(phi\) \* "):
                call(beta)
        (beta * gramian.loss(phi)).backward()
        torch.testing.assert_close(beta.grad, gramian.loss(phi))

    @pytest.mark.parametrize("value", [1, np.float32(0.5), np.int64(2), np.array(0.5), torch.tensor(0.5)], ids=repr)
    def test_what_is(self, value) -> None:
        phi = torch.randn(4, 2)
        torch.testing.assert_close(gramian.loss(phi, beta=value), float(value) * gramian.loss(phi))

    def test_no_rule_and_no_penalty(self) -> None:
        for penalty, match in ((L1, r"got the class L1; try penalty=L1\(\.\.\.\)"), (None, "got None")):
            with pytest.raises(OptionError, match=match):
                gramian.step_(torch.ones(3, 2), lr=0.1, penalty=penalty)
        with pytest.raises(OptionError, match="or a function; got None"):
            gramian.step_(torch.ones(3, 2), lr=0.1, rule=None)
        assert as_rule("proximal") is as_rule(proximal) is proximal


class TestSizes:
    def test_everywhere(self) -> None:
        phi = torch.randn(6, 2, 3)
        weights = Weighted(L1(), ones(4, 3))
        for penalty in (
            weights,
            2 * weights,
            L1() + weights,
            TargetGram(weights, torch.eye(3)),
            Cosine(TargetGram(L1(), ones(4, 3))),
        ):
            for kernel in ("reference", "batched"):
                with kernels.use(kernel):
                    for call in (gramian.loss, gramian.value_and_grad):
                        with pytest.raises(ShapeError, match="must"):
                            call(phi, penalty=penalty)
            with pytest.raises(ShapeError, match="must"):
                foreach.value_and_grad([phi], penalty=penalty)
        with pytest.raises(
            ShapeError, match=r"weights of shape \[4, 3, 3\] must be for the groups of the parameter; got 2"
        ):
            proximal(phi, lr=0.1, beta=1.0, penalty=weights)

    def test_parts_for_different_numbers_of_groups(self) -> None:
        with pytest.raises(OptionError, match=r"parts of a sum must be for the same groups.*2 and 4 groups"):
            Weighted(L1(), ones(4, 3)) + TargetGram(SquaredFrobenius(), ones(2, 3))
        with pytest.raises(OptionError, match="must be for the same groups; got 2 groups and 4"):
            TargetGram(Weighted(L1(), ones(4, 3)), ones(2, 3))
