"""torch.compile with no break in the graph, forward and backward, on a backend that needs no C++ compiler."""

import pytest
import torch

import gramian
from tests.cases import ALL_CASES, LAYOUT_CASES, overcomplete_is_meant

slow = pytest.mark.slow

pytestmark = pytest.mark.filterwarnings(
    # All from inside torch, while it traces.
    r"ignore:<class 'torch\.autograd\.function\.Function'> should not be instantiated:DeprecationWarning",
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)


def value_and_grad(function, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = phi.detach().clone().requires_grad_()
    value = function(leaf)
    value.backward()
    return value.detach(), leaf.grad


@pytest.mark.parametrize(
    "case",
    [
        # To trace one takes seconds.
        pytest.param(case, id=name, marks=[] if name == "l1" else slow)
        for name, case in ALL_CASES.items()
    ],
)
def test_forward_and_backward(case) -> None:
    penalty = case.at(2, 4)

    def loss(phi: torch.Tensor) -> torch.Tensor:
        return gramian.loss(phi.sin(), beta=0.7, penalty=penalty)

    phi = case.draw((6, 2, 4)).float()
    torch.testing.assert_close(value_and_grad(compiled(loss), phi), value_and_grad(loss, phi))


@slow
def test_other_shapes_of_the_same_graph() -> None:
    fast = compiled(gramian.loss)
    for shape in [(6, 2, 4), (6, 2, 4), (7, 3, 5)]:
        phi = torch.randn(shape)
        torch.testing.assert_close(value_and_grad(fast, phi), value_and_grad(gramian.loss, phi))
        assert value_and_grad(fast, phi)[1].any()


@slow
def test_sixteen_bits() -> None:
    phi = torch.randn(6, 2, 4).bfloat16()
    torch.testing.assert_close(value_and_grad(compiled(gramian.loss), phi), value_and_grad(gramian.loss, phi))


@pytest.mark.parametrize(
    "name",
    ["rows by four", "grouped conv", "split and merged across"],
)
@overcomplete_is_meant
@slow
def test_layouts(name) -> None:
    case = LAYOUT_CASES[name]
    layout = gramian.Layout(case.pattern, **case.sizes)

    def loss(parameter: torch.Tensor) -> torch.Tensor:
        return gramian.loss(parameter, layout=layout)

    fast = compiled(loss)
    for scale in (1, 2):
        parameter = torch.randn(scale * case.shape[0], *case.shape[1:])
        torch.testing.assert_close(value_and_grad(fast, parameter), value_and_grad(loss, parameter))


@slow
def test_a_layout_created_inside() -> None:
    def loss(parameter: torch.Tensor) -> torch.Tensor:
        return gramian.loss(parameter, layout=gramian.Layout("(m n) i -> i m n", n=4))

    weight = torch.randn(8, 5)
    torch.testing.assert_close(value_and_grad(compiled(loss), weight), value_and_grad(loss, weight))


def test_a_pattern_for_a_layout() -> None:
    def loss(weight: torch.Tensor) -> torch.Tensor:
        return gramian.loss(weight, layout="o i -> i () o")

    weight = torch.randn(4, 8)
    torch.testing.assert_close(value_and_grad(compiled(loss), weight), value_and_grad(loss, weight))


def test_without_a_gradient() -> None:
    phi = torch.randn(6, 2, 4)
    torch.testing.assert_close(compiled(gramian.loss)(phi), gramian.loss(phi))
    torch.testing.assert_close(compiled(gramian.value_and_grad)(phi), gramian.value_and_grad(phi))
    torch.testing.assert_close(compiled(gramian.residual)(phi), gramian.residual(phi))


@slow
def test_under_autocast() -> None:
    phi = torch.randn(6, 2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = value_and_grad(compiled(gramian.loss), phi)
    torch.testing.assert_close(fast, value_and_grad(gramian.loss, phi))


@pytest.mark.parametrize(
    "rule", ["proximal", pytest.param("polyak", marks=slow), pytest.param("subgradient", marks=slow)]
)
def test_a_step(rule) -> None:
    def step(weight: torch.Tensor) -> torch.Tensor:
        return gramian.step_(weight, lr=0.1, rule=rule, layout="o i -> i () o")

    weight = torch.randn(4, 20)
    twin = weight.clone()
    torch.testing.assert_close(compiled(step)(weight), step(twin))
    torch.testing.assert_close(weight, twin)


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8))


@slow
@pytest.mark.parametrize("what", ["model", "step", "both"])
def test_a_compiled_model_and_a_compiled_optimiser(what) -> None:
    torch._dynamo.reset()
    plain, model = network(), network()
    fast = torch.compile(model, backend="aot_eager") if what != "step" else model
    steppers, attachments = [], []
    for each in (plain, fast):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        attachments.append(gramian.attach(optimizer, each, beta=0.3))
        compiling = each is fast and what != "model"
        steppers.append((each, torch.compile(optimizer.step, backend="aot_eager") if compiling else optimizer.step))
    for step in range(5):
        x = torch.randn(16, 12, generator=torch.Generator().manual_seed(step))
        for each, advance in steppers:
            each.zero_grad()
            each(x).square().mean().backward()
            advance()
    assert attachments[0].steps == attachments[1].steps == 5
    for one, two in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, two)
