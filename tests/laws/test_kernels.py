"""Every kernel with every penalty of the table: the numbers of the dense kernel, and X symmetric bit for bit."""

import importlib.util

import pytest
import torch
from torch import Tensor

import gramian
from gramian.errors import OptionError
from gramian.kernels import dispatch
from gramian.kernels.base import Problem
from tests.cases import ALL_CASES, PenaltyCase, over_all_penalties

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")

KERNELS = {
    "panel": (40, 2, 30),
    "lanes": (20, 70, 4),
    "folded": (20, 70, 4),
    "whole": (40, 3, 30),
    "fused": (20, 7, 4),
    "tiled": (20, 2, 7),
}
"""A shape of each with n ≤ l, where norms are the same by every kernel."""

over_kernels = pytest.mark.parametrize(
    "kernel", [pytest.param(name, marks=needs_triton if name in ("fused", "tiled") else ()) for name in KERNELS]
)


def numbers(kernel: str, phi: Tensor, case: PenaltyCase) -> dict[str, Tensor]:
    """All that a kernel makes, through the public face, with a probe that it was this kernel that made it."""
    options = {"beta": 0.7, "penalty": case.at(*phi.shape[1:])}
    with gramian.kernels.use(kernel), gramian.kernels.watch() as used:
        value, grad = gramian.value_and_grad(phi, **options)
        leaf = phi.clone().requires_grad_()
        loss = gramian.loss(leaf, **options)
        loss.backward()
        stepped, descended = phi.clone(), phi.clone()
        before = gramian.step_(stepped, lr=0.05, rule="proximal" if case.shrinks else "polyak", **options)
        gramian.step_(descended, lr=0.001, rule="subgradient", **options)
    assert set(used) == {kernel}
    return {
        "value": value, "grad": grad, "loss": loss.detach(), "backward": leaf.grad, "stepped": stepped,
        "before": before, "descended": descended,
    }  # fmt: skip


@over_kernels
@over_all_penalties
def test_the_numbers_of_the_dense_kernel(kernel, case) -> None:
    shape = KERNELS[kernel]
    phi = case.draw(shape)
    phi = phi if case.scale < 1 else phi / shape[0] ** 0.5
    problem = Problem.of(phi, case.at(*shape[1:]))
    reason = next(each for each in dispatch.LADDER if each.name == kernel).cannot(problem)
    if reason is not None:
        assert kernel in ("panel", "tiled")
        with pytest.raises(OptionError, match=f"the {kernel} kernel was forced, but cannot take"):
            numbers(kernel, phi, case)
        return
    close = 1e-12 if case.at(*shape[1:]).separable else 1e-8
    found, expected = numbers(kernel, phi, case), numbers("dense", phi, case)
    for name, each in found.items():
        torch.testing.assert_close(
            each, expected[name], rtol=close, atol=close, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert case is ALL_CASES["0 l1"] or found["grad"].any()


@over_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_x_is_symmetric_bit_for_bit(kernel, dtype) -> None:
    # A penalty of the largest entry or of eigenvalues takes one of X_jk and X_kj, were they not the same number.
    for shape in (KERNELS[kernel], (33, 5, 3), (64, 2, 8)):
        phi = torch.randn(shape).to(dtype)
        with gramian.kernels.use(kernel):
            X = gramian.kernels.choose(phi, gramian.penalties.L1()).residual(phi)
        assert torch.equal(X, X.mT)
        assert X.any()


@over_all_penalties
def test_the_kernel_that_is_chosen_makes_the_numbers_of_many_groups(case) -> None:
    for shape in ((16, 300, 4), (5, 40, 3)):
        phi = case.draw(shape).float()
        penalty = case.at(*shape[1:])
        value, grad = gramian.value_and_grad(phi, penalty=penalty)
        with gramian.kernels.use("dense"):
            exact = gramian.value_and_grad(phi.double(), penalty=penalty)
        torch.testing.assert_close(value.double(), exact[0], rtol=1e-5, atol=1e-5)
        error = (grad.double() - exact[1]).abs().amax(dim=(0, 2))
        size = exact[1].abs().amax(dim=(0, 2)) + 1e-3
        # At a kink the rounding of X decides a sign: few groups of random ones are there.
        assert (error > 1e-3 * size).double().mean() <= 0.01
