"""Products with selected groups, whole and in chunks, beside the definition."""

import pytest
import torch

from gramian.coding.encoders import products
from gramian.coding.encoders.products import largest_groups, largest_products, selected_products, weighted_sum


def problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(9, 6, dtype=dtype), torch.randn(11, 3, 6, dtype=dtype), torch.randn(11, 3, dtype=dtype)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("limit", [1, 9 * 3 * 4, 2**24])
def test_largest_groups_beside_the_definition(monkeypatch, limit, scaled, biased) -> None:
    monkeypatch.setattr(products, "LARGEST", limit)
    x, rows, bias = problem()
    scale = torch.rand(11, dtype=torch.float64) + 0.5 if scaled else None
    exact = torch.einsum("bl,mnl->bmn", x, rows) + (bias if biased else 0)
    lengths = exact.norm(dim=2) * (1 if scale is None else scale)
    expected = lengths.sort(dim=1, descending=True)
    norms, groups, values = largest_products(x, rows, bias if biased else None, 4, scale=scale)
    torch.testing.assert_close(norms, expected.values[:, :4])
    torch.testing.assert_close(groups, expected.indices[:, :4])
    torch.testing.assert_close(values, exact.gather(1, groups[..., None].expand(-1, -1, 3)))


def test_the_gradient_in_chunks_is_that_of_the_whole(monkeypatch) -> None:
    x, rows, bias = problem()
    grads = []
    for limit in (2**24, 1):
        monkeypatch.setattr(products, "LARGEST", limit)
        leaves = [each.clone().requires_grad_() for each in (x, rows, bias)]
        _, groups, values = largest_products(*leaves, 4)
        weighted_sum(values, leaves[1], groups).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for one, two in zip(*grads, strict=True):
        assert one.any()
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("limit", [1, 4 * 3 * 6 * 2, 2**24])
def test_weighted_sums_and_their_gradients(monkeypatch, limit) -> None:
    monkeypatch.setattr(products, "LARGEST", limit)
    x, rows, _ = problem()
    groups = largest_groups(x, rows, None, 4)[1]
    values = torch.randn(9, 4, 3, dtype=torch.float64, requires_grad=True)
    leaf = rows.clone().requires_grad_()
    dense = torch.zeros(9, 11, 3, dtype=torch.float64).scatter(1, groups[..., None].expand(-1, -1, 3), values)
    torch.testing.assert_close(weighted_sum(values, leaf, groups), torch.einsum("bmn,mnl->bl", dense, leaf))
    assert torch.autograd.gradcheck(lambda v, r: weighted_sum(v, r, groups), (values, leaf))
    torch.testing.assert_close(selected_products(x, rows, groups), torch.einsum("bl,bknl->bkn", x, rows[groups]))
    assert torch.autograd.gradcheck(lambda a, r: selected_products(a, r, groups), (x.requires_grad_(), leaf))


def test_more_groups_asked_for_than_there_are() -> None:
    x, rows, bias = problem()
    assert largest_products(x, rows, bias, 40)[1].sort(dim=1).values.tolist() == [list(range(11))] * 9
