"""What people use today, each as one call on the same Φ[l, m, n]: made ready outside the clock, then timed.

A soft penalty gives a loss and its gradient. A hard constraint is given a gradient of a task, and makes one whole step:
for a parametrisation that is the forward and the backward pass of the constrained weight.
"""

import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import gramian
from gramian.typing import Phi

Work = Callable[[], object]


@dataclass(frozen=True)
class Method:
    """A way to make a gradient or a step."""

    name: str
    kind: str  # 'penalty' or 'constraint'
    ready: Callable[[Phi], Work]
    package: str | None = None
    unfit: Callable[[tuple[int, int, int]], str | None] = lambda shape: None  # why a shape is left out  # noqa: ARG005
    exact: bool = False  # gives the loss and gradient of L itself, which are checked


def ours(phi: Phi) -> Work:
    return lambda: gramian.value_and_grad(phi)


def our_step(phi: Phi) -> Work:
    """Near feasibility, where training spends its time."""
    moving = torch.linalg.qr(phi.permute(1, 0, 2))[0].permute(1, 0, 2).contiguous() if _feasible(phi) else phi.clone()
    return lambda: gramian.step_(moving, lr=0.1)


def our_first_step(phi: Phi) -> Work:
    """From the random start, again and again: a learning rate of 1e-9 takes the same time and leads nowhere."""
    still = phi.clone()
    return lambda: gramian.step_(still, lr=1e-9)


def _feasible(phi: Phi) -> bool:
    return phi.shape[2] <= phi.shape[0]


def autograd(phi: Phi) -> Work:
    """The six lines that people paste."""
    leaf = phi.permute(1, 0, 2).contiguous().requires_grad_()
    identity = torch.eye(phi.shape[2])

    def work() -> tuple[Tensor, Tensor]:
        leaf.grad = None
        loss = (leaf.mT @ leaf - identity).abs().sum()
        loss.backward()
        return loss.detach(), leaf.grad.permute(1, 0, 2)

    return work


def compiled(phi: Phi) -> Work:
    leaf = phi.permute(1, 0, 2).contiguous().requires_grad_()
    identity = torch.eye(phi.shape[2])
    torch._dynamo.reset()
    loss_of = torch.compile(lambda P: (P.mT @ P - identity).abs().sum())

    def work() -> tuple[Tensor, Tensor]:
        leaf.grad = None
        loss = loss_of(leaf)
        loss.backward()
        return loss.detach(), leaf.grad.permute(1, 0, 2)

    return work


def two_products(phi: Phi) -> Work:
    """The closed form, plainly."""
    P = phi.permute(1, 0, 2)
    identity = torch.eye(phi.shape[2])

    def work() -> tuple[Tensor, Tensor]:
        X = torch.bmm(P.mT, P) - identity
        return X.abs().sum(), 2 * torch.bmm(P, torch.sign(X)).permute(1, 0, 2)

    return work


def keras(phi: Phi) -> Work:
    """The mean of |cos| over pairs: another loss, at the cost of the same products; a matrix at a time."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    from keras import regularizers

    penalty = regularizers.OrthogonalRegularizer(factor=1.0, mode="columns")
    leaf = phi[:, 0].clone().requires_grad_()

    def work() -> Tensor:
        leaf.grad = None
        loss = penalty(leaf)
        loss.backward()
        return leaf.grad

    return work


def _parametrised(phi: Phi, constrain: Callable[[nn.Module], object]) -> Work:
    module = nn.Module()
    module.weight = nn.Parameter(torch.linalg.qr(phi.permute(1, 0, 2))[0].contiguous())
    constrain(module)
    pull = torch.randn_like(module.weight)

    def work() -> None:
        module.zero_grad(set_to_none=True)
        (module.weight * pull).sum().backward()

    return work


def torch_orthogonal(phi: Phi) -> Work:
    return _parametrised(phi, lambda module: nn.utils.parametrizations.orthogonal(module, "weight"))


def geotorch(phi: Phi) -> Work:
    import geotorch as library

    return _parametrised(phi, lambda module: library.orthogonal(module, "weight"))


def geoopt(phi: Phi) -> Work:
    import geoopt as library

    weight = library.ManifoldParameter(
        torch.linalg.qr(phi.permute(1, 0, 2))[0].contiguous(), library.EuclideanStiefel()
    )
    optimizer = library.optim.RiemannianSGD([weight], lr=1e-3)
    pull = torch.randn_like(weight)

    def work() -> None:
        weight.grad = pull.clone()
        optimizer.step()

    return work


def pogo(phi: Phi) -> Work:
    from pogo import POGO
    from pogo.base import VectorAdam

    weight = nn.Parameter(torch.linalg.qr(phi.permute(1, 0, 2))[0].mT.contiguous())
    optimizer = POGO([weight], VectorAdam(), lr=1e-3)
    pull = torch.randn_like(weight)

    def work() -> None:
        weight.grad = pull.clone()
        optimizer.step()

    return work


def _one_matrix(shape: tuple[int, int, int]) -> str | None:
    return None if shape[1] == 1 else "takes one matrix"


def _tall(shape: tuple[int, int, int]) -> str | None:
    length, _, n = shape
    return None if n <= length else "needs n ≤ l"


def _tall_and_light(shape: tuple[int, int, int]) -> str | None:
    length, m, n = shape
    if m * length * n * min(length, 256) > 2**28:
        return "takes minutes, and 20 GB"
    return _tall(shape)


METHODS = (
    Method("gramian", "penalty", ours, exact=True),
    Method("two products", "penalty", two_products, exact=True),
    Method("autograd", "penalty", autograd, exact=True),
    Method("autograd, compiled", "penalty", compiled, exact=True),
    Method("keras", "penalty", keras, "keras", _one_matrix),
    Method("gramian step", "constraint", our_step),
    Method("gramian step, far", "constraint", our_first_step),
    Method("pogo", "constraint", pogo, "pogo-torch", _tall),
    Method("geoopt", "constraint", geoopt, "geoopt", _tall),
    Method("torch orthogonal", "constraint", torch_orthogonal, None, _tall_and_light),
    Method("geotorch", "constraint", geotorch, "geotorch", _tall_and_light),
)


def version(method: Method) -> str | None:
    """Give the version of a method's package; None if it is not installed, '' if it needs none."""
    if method.package is None:
        return ""
    try:
        return importlib.metadata.version(method.package)
    except importlib.metadata.PackageNotFoundError:
        return None


def prepare(method: Method, phi: Phi) -> Work:
    """Make a method ready, without its package's own warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.ready(phi)
