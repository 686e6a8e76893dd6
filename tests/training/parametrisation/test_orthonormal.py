"""A weight that is orthonormal at every forward."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import gramian
from gramian.errors import DataError, DtypeError, LayoutError, OptionError, OvercompleteWarning, ShapeError
from gramian.training import Orthonormal, orthonormal


def error(weight: Tensor, layout: str) -> float:
    return gramian.residual(weight.detach().double(), layout=layout).abs().max().item()


def trained(layer: nn.Module, optimizer: torch.optim.Optimizer, steps: int, x: Tensor) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        y = layer(x)
        (y * torch.randn(y.shape, generator=generator).to(y.dtype)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("layer", "layout"),
    [
        (lambda: nn.Linear(20, 8), "o i -> i () o"),
        (lambda: nn.Linear(8, 20), "o i -> o () i"),
        (lambda: nn.Conv2d(20, 6, 3, groups=2), "(g o) i h w -> (i h w) g o; g=2"),
    ],
    ids=["rows", "columns", "filters"],
)
@pytest.mark.parametrize("retract", [True, False])
@pytest.mark.parametrize(("dtype", "level"), [(torch.float32, 2e-6), (torch.bfloat16, 0.02)])
def test_it_stays_orthonormal_in_training(layer, layout, retract, dtype, level) -> None:
    layer = orthonormal(layer().to(dtype), retract=retract)
    before = layer.weight.detach().clone()
    x = torch.randn(4, 20, 6, 6) if isinstance(layer, nn.Conv2d) else torch.randn(4, layer.in_features)
    trained(layer, torch.optim.Adam(layer.parameters(), lr=0.05), 10, x.to(dtype))
    assert layer.weight.dtype == dtype
    assert (layer.weight - before).abs().max() > 0.05
    assert error(layer.weight, layout) < level
    for same in (layer.weight.stride(), layer.parametrizations.weight.original.stride()):
        assert same == before.stride()


def test_registered_without_the_layout_of_a_layer() -> None:
    layer = nn.Linear(12, 8)
    parametrize.register_parametrization(layer, "weight", Orthonormal("(m n) i -> i m n; n=2"))
    assert error(layer.weight, "(m n) i -> i m n; n=2") < 1e-6
    assert error(layer.weight, "o i -> i () o") > 0.05


def test_heads_within_a_model() -> None:
    model = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, dropout=0.0)
    for name in ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight"):
        assert orthonormal(model, name) is model
    heads = "(three h d) i -> i (three h) d; h=3, three=3"
    x = torch.randn(2, 5, 12)
    trained(model, torch.optim.AdamW(model.parameters(), lr=0.02), 3, x)
    assert error(model.self_attn.in_proj_weight, heads) < 2e-6
    assert error(model.self_attn.out_proj.weight, "o (h d) -> o h d; h=3") < 2e-6
    assert error(model.linear1.weight, "o i -> o () i") < 2e-6
    model.eval()
    with torch.no_grad():
        assert model(x).isfinite().all()


def test_a_recurrent_layer() -> None:
    layer = orthonormal(nn.LSTM(7, 5), "weight_hh_l0")
    before = layer.weight_hh_l0.detach().clone()
    optimizer, x = torch.optim.Adam(layer.parameters(), lr=0.05), torch.randn(3, 2, 7)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x)[0].sum().backward()
        optimizer.step()
    assert (layer.weight_hh_l0 - before).abs().max() > 0.02
    assert error(layer.weight_hh_l0, "(gate o) i -> i gate o; gate=4") < 2e-6


@pytest.mark.parametrize("retract", [True, False])
def test_a_resumed_run_has_the_same_bits(retract) -> None:
    def start(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        layer = orthonormal(nn.Linear(12, 8), retract=retract)
        return layer, torch.optim.Adam(layer.parameters(), lr=0.02)

    x = torch.randn(4, 12)
    whole, first = start(0), start(0)
    trained(*first, 3, x)
    trained(*whole, 3, x)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    assert "parametrizations.weight.original" in first[0].state_dict()
    file.seek(0)
    second = start(1)
    for part, state in zip(second, torch.load(file), strict=True):
        part.load_state_dict(state)
    assert torch.equal(second[0].weight, first[0].weight)
    trained(*second, 3, x)
    trained(*whole, 3, x)
    assert torch.equal(second[0].weight, whole[0].weight)


class TestRetraction:
    def moved(self, *, retract: bool = True) -> tuple[nn.Module, Tensor]:
        layer = orthonormal(nn.Linear(12, 8, dtype=torch.float64), retract=retract)
        parameter = layer.parametrizations.weight.original
        with torch.no_grad():
            parameter.add_(0.01 * torch.randn_like(parameter))
        return layer, parameter

    def test_it_changes_the_parameter_and_no_weight(self) -> None:
        layer, parameter = self.moved()
        before = parameter.detach().clone()
        with torch.no_grad():
            weight = layer.weight
        assert torch.equal(parameter, before)  # without gradients it writes nothing
        assert torch.equal(layer.eval().weight, weight)
        assert torch.equal(parameter, before)
        assert torch.equal(layer.train().weight, weight)
        assert torch.equal(parameter, weight)
        assert torch.equal(layer.weight, weight)

    def test_two_forwards_before_a_backward(self) -> None:
        layer, parameter = self.moved()
        x = torch.randn(3, 12, dtype=torch.float64)
        (layer(x).sum() + layer(2 * x).sum()).backward()
        grad, parameter.grad = parameter.grad, None
        (3 * layer(x).sum() - 2 * layer.bias.sum()).backward()
        torch.testing.assert_close(parameter.grad, grad)

    def test_the_gradients_with_and_without(self) -> None:
        (layer, parameter), G = self.moved(), torch.randn(8, 12, dtype=torch.float64)
        other = copy.deepcopy(layer)
        other.parametrizations.weight[0].retract = False
        (layer.weight * G).sum().backward()
        (other.weight * G).sum().backward()
        exact = other.parametrizations.weight.original.grad
        assert torch.linalg.norm(parameter.grad - exact) < 0.05 * torch.linalg.norm(exact)

    def test_a_frozen_weight_is_not_written(self) -> None:
        layer, parameter = self.moved()
        parameter.requires_grad_(False)
        before = parameter.clone()
        assert not torch.equal(layer.weight, before)
        assert torch.equal(parameter, before)


def test_what_else_changes_the_parameter() -> None:
    layer = orthonormal(nn.Linear(12, 8))
    averaged = torch.optim.swa_utils.AveragedModel(layer)
    trained(layer, torch.optim.SGD(layer.parameters(), lr=0.1), 3, torch.randn(4, 12))
    averaged.update_parameters(layer)
    averaged.update_parameters(orthonormal(nn.Linear(12, 8)))
    assert error(averaged.module.weight, "o i -> i () o") < 1e-6


def test_a_line_search() -> None:
    torch.manual_seed(0)
    layer = orthonormal(nn.Linear(6, 4, bias=False, dtype=torch.float64), retract=False)
    target = gramian.orthogonalize(torch.randn(6, 4, dtype=torch.float64)).phi.mT
    with torch.no_grad():
        layer.weight = target + 0.3 * torch.randn_like(target)
    optimizer = torch.optim.LBFGS(layer.parameters(), line_search_fn="strong_wolfe", max_iter=40)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (layer.weight - target).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(layer.weight, target, rtol=0, atol=1e-5)


def test_assigned_copied_and_removed() -> None:
    layer = orthonormal(nn.Linear(12, 8))
    parameter = layer.parametrizations.weight.original
    value = torch.randn(8, 12)
    layer.weight = value
    assert layer.parametrizations.weight.original is parameter
    torch.testing.assert_close(layer.weight, gramian.training.orthogonalize_(value.clone()))
    exact = layer.weight.detach().clone()
    layer.weight = exact
    assert torch.equal(layer.weight, exact)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        parameter.mul_(2)
    assert torch.equal(twin.weight, exact)
    parametrize.remove_parametrizations(layer, "weight")
    assert layer.weight is parameter
    assert error(parameter, "o i -> i () o") < 1e-6


def test_a_cached_weight_is_computed_once() -> None:
    layer = orthonormal(nn.Linear(12, 8))
    with parametrize.cached():
        assert layer.weight is layer.weight


def test_attach_leaves_it_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    orthonormal(model, "0.weight")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert [target.name for target in gramian.attach(optimizer, model, beta=1.0).targets] == ["1.weight"]


def test_errors() -> None:
    layer = nn.Linear(4, 3)
    with pytest.raises(OptionError, match=r"must be a torch\.nn\.Module"):
        orthonormal(layer.weight)
    with pytest.raises(OptionError, match="'wieght', which has none"):
        orthonormal(layer, "wieght")
    with pytest.raises(LayoutError, match="must have a layout; got none"):
        orthonormal(layer, "bias")
    with pytest.raises(LayoutError, match=r"weight: .* the 3 axes"):
        orthonormal(layer, layout="a b c -> a b c")
    with pytest.raises(ShapeError, match="weight: groups must have n <= l"), pytest.warns(OvercompleteWarning):
        orthonormal(layer, layout="o i -> o () i")
    with pytest.raises(OptionError, match="a plain parameter with a shape"):
        orthonormal(nn.LazyLinear(3))
    with pytest.raises(DtypeError, match="weight: phi must be of dtype"):
        orthonormal(nn.Linear(4, 3, dtype=torch.complex64))
    nn.init.zeros_(layer.weight)
    with pytest.raises(DataError, match="weight: the vectors of each group"):
        orthonormal(layer)
    assert type(layer) is nn.Linear
    nn.init.normal_(layer.weight)
    orthonormal(layer)
    with pytest.raises(OptionError, match="is parametrised already"):
        orthonormal(layer)
    with pytest.raises(OptionError, match="a plain parameter with a shape"):
        orthonormal(layer, "parametrizations.weight.original")
