"""The product with signs in bfloat16: exact terms, any strides and scales, and numbers that are not finite."""

import math

import pytest
import torch
from torch import Tensor

import gramian
from gramian.kernels.gpu import signs
from gramian.kernels.gpu.signs import sign_product
from tests.cases import overcomplete_is_meant
from tests.kernels.cases import HAS_TRITON, draw

pytestmark = [overcomplete_is_meant, pytest.mark.skipif(not HAS_TRITON, reason="needs Triton 3.3")]


def product(phi: Tensor, G: Tensor, scale: float = 1.0) -> Tensor:
    out = phi.new_empty(phi.shape[0], phi.shape[1], G.shape[2])
    sign_product(phi, G, scale, out)
    return out


def draw_signs(*shape: int) -> Tensor:
    return torch.randint(-1, 2, shape).to(torch.bfloat16)


@pytest.mark.parametrize("exponents", [(-100, 127), (-3, 3)], ids=str)
def test_every_bit_of_a_number_is_multiplied(exponents) -> None:
    n = 90
    bits = torch.randint(0, 1 << 23, (40, 2, n), dtype=torch.int64)
    bits |= (torch.randint(exponents[0] + 127, exponents[1] + 128, bits.shape) << 23) & (0xFF << 23)
    phi = bits.to(torch.int32).view(torch.float32) * draw_signs(40, 2, n).float().sign().add(0.5).sign()
    phi[0, 0, 0] = torch.finfo(torch.float32).max
    order, sign = torch.randperm(n), torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    G = torch.zeros(n, n).scatter_(0, order[None], sign[None])  # one sign in every column
    found = product(phi, G.to(torch.bfloat16).expand(2, n, n))
    assert torch.equal(found, phi[:, :, order] * sign)


def test_numbers_near_the_smallest_one_lose_their_last_bits_only() -> None:
    phi = torch.randn(20, 1, 70) * 2.0**-120
    found = product(phi, torch.eye(70, dtype=torch.bfloat16)[None])
    error = (found.double() - phi.double()).abs().amax()
    assert 0 < error < 2.0**-125  # the interpreter, too, treats subnormal numbers as 0


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_error_is_that_of_a_float32_product(size) -> None:
    phi, G = draw((64, 1, 700), torch.float32) * size, draw_signs(1, 700, 64)
    P = phi.permute(1, 0, 2)
    exact = (P.double() @ G.double()).permute(1, 0, 2)
    error = (product(phi, G).double() - exact).square().mean().sqrt()
    plain = ((P @ G.float()).permute(1, 0, 2).double() - exact).square().mean().sqrt()
    assert error < plain
    assert 0 < error < 1e-6 * exact.abs().amax()


def test_strides_sums_and_several_tiles() -> None:
    phi, G = draw((70, 2, 20), torch.float32), draw_signs(2, 70, 20).mT
    exact = 0.7 * (phi.permute(1, 0, 2).double() @ G.double()).permute(1, 0, 2)
    for view in (phi, phi.permute(2, 1, 0).contiguous().permute(2, 1, 0)):
        start = draw((2, 70, 70), torch.float32)
        out = start.clone().permute(1, 0, 2)
        sign_product(view, G, 0.7, out)
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-5)
        out = start.clone().permute(1, 0, 2)
        sign_product(view, G, 0.7, out, add=True)
        torch.testing.assert_close(out.double(), start.permute(1, 0, 2) + exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["products", "tiled"])
def test_the_gradient_of_l1_in_float32(monkeypatch, kernel) -> None:
    calls = []
    original = signs.sign_product
    for module in ("products", "tiled"):
        name = f"gramian.kernels.gpu.{module}.sign_product"
        monkeypatch.setattr(name, lambda *args, **options: (calls.append(args[1].dtype), original(*args, **options)))
    phi = draw((50, 2, 70), torch.float32)
    with gramian.kernels.use("reference"):
        expected = gramian.value_and_grad(phi.double(), beta=0.7)
    for strips in (False, True):
        if strips:
            monkeypatch.setattr("gramian.kernels.gpu.tiled._ROOM", 40 * 128)
        with gramian.kernels.use(kernel):
            value, grad = gramian.value_and_grad(phi, beta=0.7)
        torch.testing.assert_close(value.double(), expected[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(grad.double(), expected[1], rtol=1e-5, atol=1e-5)
    assert set(calls) == {torch.bfloat16}
    calls.clear()
    monkeypatch.setattr(signs, "_multiplies_bfloat16", lambda _: False)
    with gramian.kernels.use(kernel):
        torch.testing.assert_close(gramian.value_and_grad(phi, beta=0.7)[1], grad, rtol=1e-5, atol=1e-5)
        gramian.value_and_grad(phi, penalty="huber")
    assert not calls


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # by NumPy, in Triton's interpreter
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("kernel", ["products", "tiled"])
def test_a_group_that_is_not_finite_is_nan_and_no_other_group(kernel, bad) -> None:
    phi = draw((20, 3, 17), torch.float32)
    with gramian.kernels.use(kernel):
        clean = gramian.value_and_grad(phi)[1]
        phi[4, 1, 16] = bad
        value, grad = gramian.value_and_grad(phi)
    assert not value.isfinite()  # of 1e30 too: its square overflows
    assert grad[:, 1].isnan().all()
    assert torch.equal(grad[:, ::2], clean[:, ::2])
