"""Other libraries' methods, each as one call on the same Φ[l, m, n], prepared before it is timed.

A soft penalty computes a loss and its gradient. A hard constraint gets the gradient of a task and computes a whole
step: for a parametrisation, the forward and the backward pass of the constrained weight.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import gramian
from gramian.typing import Phi

Work = Callable[[], object]


@cache
def spams() -> Any:
    """Import SPAMS with AVX2: with AVX-512 the OpenBLAS of its wheel is slower, and crashes at 4096 atoms."""
    before = os.environ.get("OPENBLAS_CORETYPE")
    os.environ["OPENBLAS_CORETYPE"] = before or "Haswell"  # read when the library is loaded
    try:
        return importlib.import_module("spams")
    finally:
        if before is None:
            del os.environ["OPENBLAS_CORETYPE"]


@dataclass(frozen=True)
class Method:
    """A method that computes a gradient or a step."""

    name: str
    kind: str  # 'penalty' or 'constraint'
    ready: Callable[[Phi], Work]
    package: str | None = None
    unfit: Callable[[tuple[int, int, int]], str | None] = lambda shape: None  # why a shape is skipped  # noqa: ARG005
    exact: bool = False  # whether it computes L and its gradient, which are then checked


def ours(phi: Phi) -> Work:
    return lambda: gramian.value_and_grad(phi)


def our_step(phi: Phi) -> Work:
    """Time steps from feasible groups, as in most of training."""
    current = torch.linalg.qr(phi.permute(1, 0, 2))[0].permute(1, 0, 2).contiguous() if _feasible(phi) else phi.clone()
    return lambda: gramian.step_(current, lr=0.1)


def our_first_step(phi: Phi) -> Work:
    """Repeat the step from the random start: with a learning rate of 1e-9 the groups hardly change."""
    fixed = phi.clone()
    return lambda: gramian.step_(fixed, lr=1e-9)


def _feasible(phi: Phi) -> bool:
    return phi.shape[2] <= phi.shape[0]


def autograd(phi: Phi) -> Work:
    """Compute the loss with the usual six lines of code and its gradient with autograd."""
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
    """Compute the closed form in plain torch."""
    P = phi.permute(1, 0, 2)
    identity = torch.eye(phi.shape[2])

    def work() -> tuple[Tensor, Tensor]:
        X = torch.bmm(P.mT, P) - identity
        return X.abs().sum(), 2 * torch.bmm(P, torch.sign(X)).permute(1, 0, 2)

    return work


def keras(phi: Phi) -> Work:
    """Compute the mean of |cos| over pairs: another loss with the same matrix products, of one matrix."""
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
    """Return the version of a method's package; None if it is not installed, '' if it needs none."""
    if method.package is None:
        return ""
    try:
        return importlib.metadata.version(method.package)
    except importlib.metadata.PackageNotFoundError:
        return None


def prepare(method: Method, phi: Phi) -> Work:
    """Prepare a method and silence the warnings of its package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.ready(phi)
