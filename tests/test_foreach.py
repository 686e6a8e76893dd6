"""Many tensors at once are the same numbers as one by one."""

import pytest
import torch
from torch import Tensor, nn

import gramian
from gramian import foreach
from gramian.errors import DtypeError, LayoutError, OptionError, ShapeError
from tests.cases import over_rules

SHAPES = ((20, 4), (20, 4), (7, 3, 2), (20, 4), (7, 3, 2), (9, 1), (4, 0), (5, 0, 2), (600, 300))


def draw(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [(torch.randn(shape, dtype=torch.float64) / max(1, shape[0]) ** 0.5).to(dtype) for shape in SHAPES]


def test_value_and_grad() -> None:
    tensors = draw()
    total, grads = foreach.value_and_grad(tensors, beta=0.3, penalty="huber")
    one_by_one = [gramian.value_and_grad(tensor, beta=0.3, penalty="huber") for tensor in tensors]
    torch.testing.assert_close(total, torch.stack([value for value, _ in one_by_one]).sum())
    for found, (_, expected), tensor in zip(grads, one_by_one, tensors, strict=True):
        torch.testing.assert_close(found, expected)
        assert found.shape == tensor.shape


@over_rules
def test_step(rule) -> None:
    tensors, expected = draw(), draw()
    for tensor, other in zip(tensors, expected, strict=True):
        tensor.copy_(other)
    total = foreach.step_(tensors, lr=0.01, beta=0.3, penalty="huber", rule=rule)
    losses = [gramian.step_(each, lr=0.01, beta=0.3, penalty="huber", rule=rule) for each in expected]
    torch.testing.assert_close(tensors, expected)
    torch.testing.assert_close(total, torch.stack(losses).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_each_keeps_its_dtype(dtype) -> None:
    tensors = [*draw(dtype), *draw(torch.float64)]
    total, grads = foreach.value_and_grad(tensors, penalty="squared_frobenius")
    assert total.dtype == torch.float64
    assert [grad.dtype for grad in grads] == [tensor.dtype for tensor in tensors]
    for found, tensor in zip(grads, tensors, strict=True):
        expected = gramian.value_and_grad(tensor, penalty="squared_frobenius")[1]
        torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    moved = [tensor.clone() for tensor in tensors]
    foreach.step_(moved, lr=0.1)
    for found, tensor in zip(moved, tensors, strict=True):
        gramian.step_(tensor, lr=0.1)
        torch.testing.assert_close(found, tensor, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert foreach.value_and_grad(draw(torch.float32))[0].dtype == torch.float32


def test_a_layout_for_all_and_one_for_each() -> None:
    model = nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 12), nn.Conv2d(3, 6, 2), nn.Linear(12, 6))
    weights = [layer.weight for layer in model]
    conv = "o i h w -> (i h w) () o"
    layouts = ["o i -> i () o", "o i -> o () i", conv, gramian.Layout("(m n) i -> i m n", n=2)]
    before = [weight.detach().clone() for weight in weights]
    foreach.step_(weights, lr=0.05, layouts=layouts)
    for weight, other, layout in zip(weights, before, layouts, strict=True):
        gramian.step_(other, lr=0.05, layout=layout)
        torch.testing.assert_close(weight.detach(), other)
    first = [weights[0], weights[3]]
    grads = foreach.value_and_grad(first, layouts="o i -> i () o")[1]
    assert torch.allclose(grads[1], gramian.value_and_grad(weights[3], layout="o i -> i () o")[1])


def test_small_tensors_of_one_shape_are_concatenated() -> None:
    with gramian.kernels.watch() as used:
        foreach.value_and_grad([torch.randn(16, 4) for _ in range(50)] + [torch.randn(400, 400) for _ in range(2)])
    assert len(used) == 3
    with gramian.kernels.watch() as used:
        foreach.step_([torch.randn(1000, 100) for _ in range(20)], lr=0.1)
    assert len(used) == 4  # five at a time


def test_a_bad_number_stays_in_its_tensor() -> None:
    tensors = [torch.randn(16, 4) for _ in range(5)]
    tensors[2][3, 1] = torch.nan
    foreach.step_(tensors, lr=0.1)
    assert [bool(tensor.isfinite().all()) for tensor in tensors] == [True, True, False, True, True]
    assert tensors[2].isnan().all()


def test_an_empty_list() -> None:
    total, grads = foreach.value_and_grad([])
    assert total.item() == 0
    assert grads == []
    assert foreach.step_([], lr=0.1).item() == 0


def test_under_vmap() -> None:
    phis = torch.randn(3, 8, 4)
    total, grads = torch.func.vmap(lambda phi: foreach.value_and_grad([phi, 2 * phi]))(phis)
    torch.testing.assert_close(total[1], gramian.loss(phis[1]) + gramian.loss(2 * phis[1]))
    torch.testing.assert_close(grads[0][2], gramian.value_and_grad(phis[2])[1])


@pytest.mark.filterwarnings("ignore::gramian.errors.OvercompleteWarning")
def test_tensors_without_a_group_or_a_vector() -> None:
    for shape in ((8, 0, 2), (8, 3, 0), (0, 3, 2), (0, 0, 0)):
        tensors = [torch.zeros(shape) for _ in range(3)]
        total, grads = gramian.foreach.value_and_grad(tensors)
        assert total == sum(gramian.loss(each) for each in tensors)
        assert [grad.shape for grad in grads] == [torch.Size(shape)] * 3
        assert gramian.foreach.step_(tensors, lr=0.1) == total


class TestErrorsNameTheTensorAndWriteNothing:
    def test_dtype(self) -> None:
        tensors = [torch.randn(4, 2), torch.ones(4, 2, dtype=torch.int64)]
        before = tensors[0].clone()
        with pytest.raises(DtypeError, match="tensor 1: phi must be of dtype"):
            foreach.step_(tensors, lr=0.1)
        assert torch.equal(tensors[0], before)

    def test_rank(self) -> None:
        with pytest.raises(LayoutError, match="tensor 2: without a layout"):
            foreach.value_and_grad([torch.randn(4, 2), torch.randn(4, 2), torch.randn(4)])

    def test_layouts(self) -> None:
        with pytest.raises(OptionError, match="one layout for all tensors or one for each; got 1 for 2"):
            foreach.step_([torch.randn(4, 2), torch.randn(4, 2)], lr=0.1, layouts=["o i -> i () o"])

    @pytest.mark.filterwarnings("ignore:a group of n = ")
    def test_polyak(self) -> None:
        tensors = [torch.randn(4, 2), torch.randn(2, 4)]
        before = tensors[0].clone()
        with pytest.raises(ShapeError, match="tensor 1: the polyak rule needs"):
            foreach.step_(tensors, lr=0.1, rule="polyak")
        assert torch.equal(tensors[0], before)

    def test_one_tensor_is_not_a_list(self) -> None:
        with pytest.raises(OptionError, match=r"must be a sequence of tensors; got a Tensor; try \[phi\]"):
            foreach.step_(torch.randn(3, 4, 2), lr=0.1)
