r"""Products of each sample with a few groups of rows, and the groups of largest product, in bounded memory.

Rows are stored as R[m, n, l]: m groups of n vectors of length l, the order in which they are gathered and sharded.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["LARGEST", "Rows", "largest_groups", "largest_products", "selected_products", "weighted_sum"]

Rows = Float[Tensor, "m n l"]
"""m groups of n vectors of length l."""

LARGEST = 2**24
"""Largest number of products of a batch with all groups (64 MiB in float32); beyond it, groups are visited in
chunks."""


def largest_products(
    x: Float[Tensor, "batch l"],
    rows: Rows,
    bias: Float[Tensor, "m n"] | None,
    count: int,
    *,
    scale: Float[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"], Float[Tensor, "batch k n"]]:
    """Compute R_i x + b_i for the groups of largest norm of each sample; differentiable in `x`, `rows` and `bias`.

    If the products of all groups are at most `LARGEST` numbers, they are computed once, and those of the selected
    groups are gathered from them. Otherwise the groups are selected chunk by chunk, and their rows are gathered.

    Args:
        x: Samples [batch, l].
        rows: R[m, n, l].
        bias: b[m, n]; None for 0.
        count: Number of groups to select.
        scale: Factors of the norms of the groups, [m]; by default 1.

    Returns:
        The norms in descending order, without a gradient; the indices of the groups; the products.
    """
    m, n, _ = rows.shape
    if len(x) * m * n > LARGEST:
        norms, groups = largest_groups(x, rows, bias, count, scale=scale)
        products = selected_products(x, rows, groups)
        return norms, groups, products if bias is None else products + bias[groups]
    products = _all_products(x, rows, bias)
    norms = _norms(products.detach(), scale)
    top = norms.topk(min(count, m), dim=1)
    return top.values, top.indices, products.gather(1, top.indices[..., None].expand(-1, -1, n))


def _norms(products: Float[Tensor, "batch m n"], scale: Float[Tensor, " m"] | None) -> Float[Tensor, "batch m"]:
    # For small n, twice as fast as a norm or a sum over the last axis on a CPU.
    norms = torch.einsum("bmn,bmn->bm", products, products).sqrt()
    return norms if scale is None else norms * scale


def _all_products(x: Float[Tensor, "batch l"], rows: Rows, bias: Float[Tensor, "m n"] | None) -> Tensor:
    """Compute R_i x + b_i for all groups, [batch, m, n]."""
    flat = rows.flatten(0, 1).mT
    products = x @ flat if bias is None else torch.addmm(bias.flatten(), x, flat)
    return products.unflatten(1, rows.shape[:2])


@torch.no_grad()
def largest_groups(
    x: Float[Tensor, "batch l"],
    rows: Rows,
    bias: Float[Tensor, "m n"] | None,
    count: int,
    *,
    scale: Float[Tensor, " m"] | None = None,
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Select the groups of largest ‖R_i x + b_i‖ of each sample.

    Args:
        x: Samples [batch, l].
        rows: R[m, n, l].
        bias: b[m, n]; None for 0.
        count: Number of groups to select.
        scale: Factors of the norms of the groups, [m]; by default 1.

    Returns:
        The norms in descending order, and the indices of the groups. Neither has a gradient.

    Cost:
        2·batch·l·m·n flops. Memory for products of the batch with some of the groups, at most `LARGEST` numbers
        unless `count` groups need more, and for two lists of the selected groups.
    """
    m, n, _ = rows.shape
    size = max(1, count, LARGEST // max(1, len(x) * n))
    best = x.new_zeros(len(x), 0), torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    for first in range(0, m, size):
        part = slice(first, first + size)
        products = _all_products(x, rows[part], None if bias is None else bias[part])
        norms = _norms(products, None if scale is None else scale[part])
        top = norms.topk(min(count, norms.shape[1]), dim=1)
        values, groups = torch.cat([best[0], top.values], dim=1), torch.cat([best[1], top.indices + first], dim=1)
        if first > 0:
            top = values.topk(min(count, values.shape[1]), dim=1)
            values, groups = top.values, groups.gather(1, top.indices)
        best = values, groups
    return best


def selected_products(
    x: Float[Tensor, "batch l"], rows: Rows, groups: Int[Tensor, "batch k"]
) -> Float[Tensor, "batch k n"]:
    """Compute R_i x for the selected groups of each sample; differentiable once in `x` and `rows`.

    Cost:
        2·batch·k·n·l flops; the gathered rows of a part of the samples are in memory, at most `LARGEST` numbers, in the
        backward pass too.
    """
    return _SelectedProducts.apply(x, rows, groups)  # pyright: ignore[reportReturnType]


class _SelectedProducts(torch.autograd.Function):
    """The products of selected groups, whose gradient gathers the rows again instead of keeping them."""

    @staticmethod
    def forward(x: Tensor, rows: Tensor, groups: Tensor) -> Tensor:
        _, n, length = rows.shape
        parts: list[Tensor] = []
        for part in _parts(groups, n * length):
            gathered = rows.index_select(0, groups[part].flatten()).view(-1, groups.shape[1] * n, length)
            parts.append(torch.bmm(gathered, x[part, :, None]).view(-1, groups.shape[1], n))
        return torch.cat(parts) if parts else x.new_zeros(0, groups.shape[1], n)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, rows, groups = ctx.saved_tensors
        _, n, length = rows.shape
        grad_x, grad_rows = torch.zeros_like(x), torch.zeros_like(rows)
        for part in _parts(groups, n * length):
            index = groups[part].flatten()
            outer = grad[part, :, :, None] * x[part, None, None, :]
            grad_rows.index_add_(0, index, outer.flatten(0, 1))
            gathered = rows.index_select(0, index).view(-1, groups.shape[1] * n, length)
            grad_x[part] = torch.bmm(grad[part].flatten(1)[:, None], gathered)[:, 0]
        return grad_x, grad_rows, None


def _parts(groups: Int[Tensor, "batch k"], numbers: int) -> list[slice]:
    """Split samples into parts for which at most `LARGEST` numbers are gathered."""
    batch, k = groups.shape
    size = max(1, LARGEST // max(1, k * numbers))
    return [slice(first, min(first + size, batch)) for first in range(0, batch, size)]


def weighted_sum(
    values: Float[Tensor, "batch k n"], rows: Rows, groups: Int[Tensor, "batch k"]
) -> Float[Tensor, "batch l"]:
    """Compute Σ_i R_iᵀ a_i over the selected groups of each sample; differentiable in `values` and `rows`.

    Cost:
        2·batch·k·n·l flops; no rows are gathered.
    """
    if not groups.shape[1]:  # embedding_bag refuses samples without groups
        return values.sum(dim=1) @ rows[0]
    n = rows.shape[1]
    index = (groups[..., None] * n + torch.arange(n, device=groups.device)).flatten(1)
    return functional.embedding_bag(index, rows.flatten(0, 1), per_sample_weights=values.flatten(1), mode="sum")
