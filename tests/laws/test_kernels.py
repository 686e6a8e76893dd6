"""Every kernel with every penalty of the table: it agrees with the reference kernel."""

import pytest
import torch

import gramian
from gramian.errors import OptionError
from gramian.kernels.base import KernelSpec
from gramian.kernels.dispatch import LADDER
from tests.cases import ALL_CASES, over_all_penalties
from tests.kernels.cases import KERNELS, numbers, over_kernels_and

# Each way through the launchers: device code for the penalty, or torch's G of entries, of matrices, of each group.
_INTERPRETED = ("l1", "huber", "squared_frobenius", "coherence", "weighted sum, of each group")


@over_kernels_and("case", ALL_CASES, interpreted=_INTERPRETED)
def test_agrees_with_the_reference(kernel, case) -> None:
    shape = KERNELS[kernel].small
    phi = case.draw(shape)
    phi = phi if case.scale < 1 else phi / shape[0] ** 0.5
    penalty = case.at(*shape[1:])
    problem = KernelSpec.of(phi, penalty)
    reason = next(each for each in LADDER if each.name == kernel).unsupported_reason(problem)
    if reason is not None:
        assert kernel in ("panel", "tiled")
        with pytest.raises(OptionError, match=f"the forced {kernel} kernel does not support"):
            numbers(kernel, phi, penalty)
        return
    if kernel == "registers" and not problem.epilogue:
        return  # then it computes what `fused` does
    close = 1e-12 if penalty.elementwise else 1e-8
    found, expected = numbers(kernel, phi, penalty), numbers("reference", phi, penalty)
    for name, each in found.items():
        torch.testing.assert_close(
            each, expected[name], rtol=close, atol=close, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert case is ALL_CASES["0 l1"] or found["grad"].any()


@over_all_penalties
def test_the_chosen_kernel_is_accurate_for_many_groups(case) -> None:
    for shape in ((16, 300, 4), (5, 40, 3)):
        phi = case.draw(shape).float()
        penalty = case.at(*shape[1:])
        value, grad = gramian.value_and_grad(phi, penalty=penalty)
        with gramian.kernels.use("reference"):
            exact = gramian.value_and_grad(phi.double(), penalty=penalty)
        torch.testing.assert_close(value.double(), exact[0], rtol=1e-5, atol=1e-5)
        error = (grad.double() - exact[1]).abs().amax(dim=(0, 2))
        size = exact[1].abs().amax(dim=(0, 2)) + 1e-3
        # At a kink the rounding of X decides a sign; few random groups are at one.
        assert (error > 1e-3 * size).double().mean() <= 0.01
