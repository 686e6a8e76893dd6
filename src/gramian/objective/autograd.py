"""The loss as a differentiable function: its backward pass uses the closed form."""

from typing import Any

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.dispatch import choose
from gramian.penalties import Penalty
from gramian.typing import Phi, Scalar

__all__ = ["gram_loss"]


def gram_loss(phi: Phi, beta: float, penalty: Penalty) -> Scalar:
    """Compute the loss of Φ[l, m, n]; twice differentiable, also forward and under `torch.func` and `torch.compile`."""
    # torch.compile does not accept a Function with a jvp, and does not need one.
    function = _GramLoss if torch.compiler.is_compiling() else _ForwardGramLoss
    value, _ = function.apply(phi, beta, penalty)  # pyright: ignore
    return value  # pyright: ignore


class _GramLoss(torch.autograd.Function):
    """L and its gradient Γ as two outputs, so that Γ is saved and nothing is computed twice.

    Because Γ is an output, a second backward passes through this function as the cotangent of Γ.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(phi: Tensor, beta: float, penalty: Penalty) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The gradient stays in the compute dtype, so that a 16-bit gradient is rounded after it is scaled.
        dtype = reference.compute_dtype(phi.dtype)
        kernel = choose(phi, penalty)
        if kernel.widens and dtype != phi.dtype:
            grad = torch.empty_like(phi, dtype=dtype)
            return kernel.value_and_grad_into(grad, phi, penalty, beta).sum(), grad
        values, grad = kernel.value_and_grad(phi.to(dtype), penalty, beta)
        return values.sum(), grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        phi, ctx.beta, ctx.penalty = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(phi, output[1])
        ctx.save_for_forward(phi, output[1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        value_cotangent, grad_cotangent = cotangents
        phi, grad = ctx.saved_tensors
        result = None if value_cotangent is None else (value_cotangent * grad).to(phi.dtype)
        if grad_cotangent is not None:
            # The Hessian is symmetric, so its product with V is the vector-Jacobian product of the gradient.
            (second,) = torch.func.vjp(lambda p: _gradient(p, ctx.beta, ctx.penalty), phi)[1](grad_cotangent)
            result = second if result is None else result + second
        return result, None, None


class _ForwardGramLoss(_GramLoss):
    """`_GramLoss` with forward-mode derivatives."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        phi, grad = ctx.saved_tensors
        direction = tangents[0]
        slope = (grad * direction).sum()
        curvature = torch.func.jvp(lambda p: _gradient(p, ctx.beta, ctx.penalty), (phi,), (direction,))[1]
        return slope, curvature


def _gradient(phi: Phi, beta: float, penalty: Penalty) -> Phi:
    """Compute the gradient, differentiably, in the compute dtype."""
    return reference.REFERENCE.value_and_grad(phi.to(reference.compute_dtype(phi.dtype)), penalty, beta)[1]
