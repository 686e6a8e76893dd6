"""Orthonormal groups to start from."""

import pytest
import torch
from torch import nn

import gramian
from gramian.errors import DataError, LayoutError, OptionError, OvercompleteWarning, ShapeError
from gramian.selection import select_parameters


@pytest.mark.parametrize(
    ("shape", "layout", "phi"),
    [
        ((8, 20), None, "o i -> i () o"),
        ((20, 8), None, "o i -> o () i"),
        ((6, 4, 3, 3), None, "o i h w -> (i h w) () o"),
        ((40, 2, 3, 3), None, "o i h w -> o () (i h w)"),
        ((16, 5, 3), None, None),
        ((12, 8), gramian.Layout("(h d) i -> i h d", h=3), gramian.Layout("(h d) i -> i h d", h=3)),
    ],
    ids=["rows", "columns", "filters", "inputs", "groups", "heads"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_tensor(shape, layout, phi, dtype) -> None:
    weight = nn.Parameter(torch.randn(shape).to(dtype))
    assert gramian.orthogonalize_(weight, layout=layout) is weight
    assert weight.requires_grad
    error = gramian.residual(weight.detach(), layout=phi).abs().max()
    assert error < (1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_the_nearest_orthonormal_group() -> None:
    weight = torch.randn(6, 15, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
    torch.testing.assert_close(gramian.orthogonalize_(weight.clone()), U @ Vh)


def test_a_gain() -> None:
    weight = torch.randn(6, 15)
    torch.testing.assert_close(
        gramian.orthogonalize_(weight.clone(), gain=2**0.5), 2**0.5 * gramian.orthogonalize_(weight.clone())
    )


def test_a_module() -> None:
    model = nn.Sequential(nn.MultiheadAttention(12, 3), nn.Conv2d(4, 6, 3, groups=2), nn.GRU(6, 5), nn.Linear(8, 4))
    before = {name: each.clone() for name, each in model.named_parameters()}
    assert gramian.orthogonalize_(model, exclude=model[3]) is model
    targets, _ = select_parameters(model)
    assert len(targets) == 6
    for target in targets[:-1]:
        assert gramian.residual(target.parameter.detach(), layout=target.layout).abs().max() < 1e-5
    changed = {target.name for target in targets[:-1]}
    for name, each in model.named_parameters():
        assert (name in changed) != torch.equal(each, before[name])


def test_errors_write_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.zeros_(model[1].weight)
    before = model[0].weight.clone()
    with pytest.raises(DataError, match="linearly independent and finite; got others"):
        gramian.orthogonalize_(model)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(OptionError, match="must come with a module"):
        gramian.orthogonalize_(before, select="*")
    with pytest.raises(OptionError, match="must have layouts by pattern"):
        gramian.orthogonalize_(model, layout="o i -> i () o")
    with pytest.raises(OptionError, match="gain must be positive"):
        gramian.orthogonalize_(before, gain=0.0)
    with pytest.raises(ShapeError, match="n <= l"), pytest.warns(OvercompleteWarning):
        gramian.orthogonalize_(torch.randn(9, 4), layout="o i -> i () o")
    with pytest.raises(LayoutError):
        gramian.orthogonalize_(torch.randn(8))
