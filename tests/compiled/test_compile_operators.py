"""Kernels inside torch.compile: operators, here on a CPU, where they choose CPU kernels as on a GPU those of a GPU."""

from collections.abc import Iterator

import pytest
import torch

import gramian
from gramian.kernels.gpu import operators

slow = pytest.mark.slow
pytestmark = pytest.mark.filterwarnings(
    # All from inside torch, while it traces.
    r"ignore:<class 'torch\.autograd\.function\.Function'> should not be instantiated:DeprecationWarning",
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


@pytest.fixture(autouse=True)
def seen_on_a_cpu(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(operators, "_DEVICES", ("cpu",))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs() -> list[str]:
    return []


def compiled(function, graphs: list[str]):
    """Compile without a break, and record the operators of this package in the graphs that would be run."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def record(graph, _):
        graphs.extend(
            f"{node.target} {node.args[0] if 'auto_functionalized' in str(node.target) else ''}".strip()
            for node in graph.graph.nodes
            if "gramian" in f"{node.target} {node.args}"
        )
        return make_boxed_func(graph.forward)

    return torch.compile(function, backend=aot_autograd(fw_compiler=record, bw_compiler=record), fullgraph=True)


@pytest.mark.parametrize(
    ("penalty", "dtype"),
    [("huber", torch.float32), pytest.param("l1", torch.bfloat16, marks=slow)],
    ids=str,
)
def test_a_loss_and_its_gradient_are_one_node(graphs, penalty, dtype) -> None:
    def loss(phi: torch.Tensor) -> torch.Tensor:
        return gramian.loss(2 * phi, beta=0.7, penalty=penalty)

    phi = torch.randn(6, 70, 4).to(dtype)
    leaf, twin = phi.clone().requires_grad_(), phi.clone().requires_grad_()
    with gramian.kernels.watch() as used:
        value = compiled(loss, graphs)(leaf)
        value.backward()
    assert graphs == ["gramian.value_and_grad.default"]
    assert used  # at run time, as any call
    loss(twin).backward()
    torch.testing.assert_close(value, loss(phi))
    torch.testing.assert_close(leaf.grad, twin.grad)
    assert leaf.grad.any()


def test_a_step_writes_to_its_tensor(graphs) -> None:
    def step(weight: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
        return gramian.step_(weight, lr=lr, layout="o i -> i () o")

    weight = torch.randn(4, 20)
    twin = weight.clone()
    fast = compiled(step, graphs)
    for lr in (0.1, 0.02):  # one graph for any learning rate: it is a tensor, and not read while the graph is built
        torch.testing.assert_close(fast(weight, torch.tensor(lr)), gramian.step_(twin, lr=lr, layout="o i -> i () o"))
        torch.testing.assert_close(weight, twin)
    assert len(graphs) == 1
    assert "gramian.proximal_step_" in graphs[0]


@slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_step_of_a_layout_that_copies(graphs, dtype) -> None:
    def step(weight: torch.Tensor) -> torch.Tensor:
        return gramian.step_(weight, lr=0.1, layout="o i h w -> (i h w) () o")

    weight = torch.randn(4, 3, 2, 2).to(dtype)
    twin = weight.clone()
    torch.testing.assert_close(compiled(step, graphs)(weight), step(twin))
    torch.testing.assert_close(weight, twin)
    assert graphs == ["gramian.proximal_change.default"]


@slow
def test_a_penalty_that_device_code_does_not_compute_is_compiled(graphs) -> None:
    phi = torch.randn(6, 2, 4)
    fast = compiled(lambda phi: gramian.value_and_grad(phi, penalty="frobenius"), graphs)
    torch.testing.assert_close(fast(phi), gramian.value_and_grad(phi, penalty="frobenius"))
    assert not graphs


def test_operators_keep_their_promises() -> None:
    ops = torch.ops.gramian
    phi = torch.randn(5, 2, 3)
    cases = [
        (ops.value.default, (phi, 0, 0.0)),
        (ops.value_and_grad.default, (phi.clone().requires_grad_(), 1, 0.3, 0.7, False)),
        (ops.value_and_grad.default, (phi.permute(2, 1, 0).bfloat16(), 2, 0.0, 1.0, True)),
        (ops.proximal_step_.default, (phi, torch.tensor(0.1), 0.0, 1.0, 0, 0.0)),
        (ops.proximal_change.default, (phi.permute(2, 1, 0), None, 0.1, 1.0, 1, 0.3)),
    ]
    for operator, arguments in cases:
        # The last check of opcheck compiles each with symbolic sizes, which takes longer than all others.
        torch.library.opcheck(
            operator, arguments, test_utils=("test_schema", "test_autograd_registration", "test_faketensor")
        )


def test_the_derivatives_of_operators() -> None:
    phi = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    for wide in (False, True):
        assert torch.autograd.gradcheck(
            lambda p, wide=wide: torch.ops.gramian.value_and_grad(p, 2, 0.0, 0.7, wide), phi
        )
    assert torch.autograd.gradcheck(lambda p: torch.ops.gramian.value(p, 2, 0.0), phi)


def test_a_batch_is_a_tensor_with_more_groups() -> None:
    batch = torch.randn(3, 5, 2, 4)
    values, grads = torch.func.vmap(lambda phi: torch.ops.gramian.value_and_grad(phi, 1, 0.3, 0.7, False))(batch)
    for phi, value, grad in zip(batch, values, grads, strict=True):
        torch.testing.assert_close((value, grad), torch.ops.gramian.value_and_grad(phi, 1, 0.3, 0.7, False))
    torch.testing.assert_close(torch.func.vmap(lambda phi: torch.ops.gramian.value(phi, 1, 0.3))(batch) * 0.7, values)
