"""The loss, and its closed-form gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import DtypeError, ShapeError
from gramian.frozen import FrozenVectors, as_frozen
from gramian.kernels import reference
from gramian.kernels.base import is_plain
from gramian.kernels.dispatch import choose
from gramian.layout import Layout, as_phi, from_phi
from gramian.objective.autograd import gram_loss
from gramian.options import check_beta, real_number
from gramian.penalties import Penalty, as_penalty
from gramian.typing import Phi, Scalar

__all__ = ["loss", "value_and_grad"]


def loss(
    phi: Tensor,
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
    against: FrozenVectors | None = None,
    against_beta: float | None = None,
) -> Scalar:
    r"""Compute the loss, which measures how far the groups of a tensor are from orthonormal.

    L = β Σ_i μ(Φ_iᵀΦ_i − I), with μ(X) = Σ_jk |X_jk| for the default penalty. Differentiable: the backward pass
    uses the closed form 2βΦ_iG_i, stored as one tensor of the size of Φ; every n × n matrix is freed in the forward
    pass. A second backward gives the almost-everywhere Hessian, 2βV_iG_i for l1. Works under `torch.func` (grad,
    vmap, jvp, hessian) and `torch.compile(fullgraph=True)`.

    At X_jk = 0 the absolute value has a kink; there the gradient uses sign(0) = 0, a member of the Clarke
    subdifferential. A NaN or an infinite entry makes the loss NaN or infinite and the gradient of its group NaN;
    other groups are not affected. An empty axis gives an empty sum.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; float64, float32, bfloat16 or float16.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.
        against: Frozen vectors: a tensor in the layout of `phi` with any number of vectors, several of these, or a
            `gramian.frozen.FrozenBasis`. They add β_a Σ_i Σ_jk |Q_iᵀΦ_i|_jk, with an orthonormal basis Q_i of their
            span. Pass a basis if you call this more than once: it is computed anew from tensors.
        against_beta: Strength β_a ≥ 0 against frozen vectors; β by default.

    Returns:
        A 0-dimensional tensor: float32 for the 16-bit formats, otherwise of the dtype of `phi`.

    Raises:
        DtypeError: If `phi` is not a dense tensor of such a dtype.
        LayoutError: If `phi` does not fit the layout, or has neither 2 nor 3 axes and no layout.
        OptionError: If β is negative or not finite, or there is no penalty of that name.
        DataError, DtypeError, LayoutError, OptionError, ShapeError: If the frozen vectors are invalid, as for
            `gramian.frozen.FrozenBasis`, or do not fit `phi`.

    Cost:
        4·m·l·n² flops (gradient included), and 4·m·l·k·n for k frozen vectors; m·n² numbers during the call, l·m·n
        until backward.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.eye(4)[:, :2].clone().requires_grad_()  # two orthonormal vectors
        >>> gramian.loss(phi).item()
        0.0
        >>> gramian.loss(2 * phi).item()  # |4 − 1| for each of the two
        6.0

    References:
        Paiton et al., "Subspace locally competitive algorithms", 2020, for the loss over groups; the derivative
        by differentials after Magnus and Neudecker, "Matrix Differential Calculus", chapter 18.
    """
    beta, mu = check_beta(beta), as_penalty(penalty)
    groups = as_phi(phi, layout)
    if against is not None:
        strength = _strength(beta, against_beta)
        cross = strength * _cross_gram(groups, against, layout).abs().sum()
        return loss(groups, beta=beta, penalty=mu) + cross if beta > 0 else cross
    if not (torch.is_grad_enabled() and groups.requires_grad):
        kernel = choose(groups, mu, differentiated=torch.is_grad_enabled())
        return (beta * kernel.value(groups, mu)).sum()
    return gram_loss(groups, beta, mu)


def value_and_grad(
    phi: Tensor,
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
    against: FrozenVectors | None = None,
    against_beta: float | None = None,
    out: Tensor | None = None,
) -> tuple[Scalar, Tensor]:
    r"""Compute the loss and its gradient at once, without an autograd graph.

    ∂L/∂Φ_i = 2βΦ_iG_i with G_i = sign(Φ_iᵀΦ_i − I) for l1, and β_a Q_i sign(Q_iᵀΦ_i) against frozen vectors; see `loss`
    for kinks, dtypes and non-finite entries.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.
        against: Frozen vectors, as in `loss`.
        against_beta: Strength β_a ≥ 0 against frozen vectors; β by default.
        out: A tensor of the shape, dtype and device of `phi` that the gradient is written to; by default a new one.
            For large tensors new memory can cost more time than the computation.

    Returns:
        The loss, a 0-dimensional tensor, and the gradient, of the shape and dtype of `phi`: `out` if it is given.

    Raises:
        DataError, DtypeError, LayoutError, OptionError, ShapeError: As for `loss`.
        DtypeError, ShapeError: If `out` has another shape, dtype or device, or if its entries share memory with each
            other or with `phi`.

    Cost:
        4·m·l·n² flops, and 4·m·l·k·n for k frozen vectors; m·n² + l·m·n numbers.

    Examples:
        >>> import torch, gramian
        >>> value, grad = gramian.value_and_grad(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
        >>> value.item(), grad.tolist()
        (1.25, [[1.0, 3.0], [2.0, 2.0]])
    """
    beta, mu = check_beta(beta), as_penalty(penalty)
    groups = as_phi(phi, layout).detach()
    kernel = choose(groups, mu)
    target = None if out is None else _gradient_memory(out, phi, layout)
    if target is None:
        values, grad = kernel.value_and_grad(groups, mu, beta)
    else:
        values, grad = kernel.value_and_grad_into(target, groups, mu, beta), target
    value = values.sum()
    if against is not None:
        strength, frozen = _strength(beta, against_beta), as_frozen(against, layout)
        Y = _cross_gram(groups, frozen, layout)
        sizes = Y.abs().sum(dim=(1, 2))
        value = value + strength * sizes.sum()
        S = Y.sign() * (strength * (1 + 0 * sizes))[:, None, None]  # as in the kernels, a NaN must not be lost
        grad = (grad + reference.combine(frozen.like(Y), S)).to(groups.dtype)
    if out is None:
        return value, from_phi(grad, phi, layout)
    if grad is not target:
        out.detach().copy_(from_phi(grad, phi, layout))
    return value, out


def _strength(beta: float, against_beta: float | None) -> float:
    """Return the strength against frozen vectors: by default the one within groups."""
    return beta if against_beta is None else real_number(against_beta, name="against_beta", zero=True)


def _cross_gram(phi: Phi, against: FrozenVectors, layout: Layout | str | None) -> Float[Tensor, "m k n"]:
    """Form QᵀΦ_i for every group, in the compute dtype. Differentiable."""
    frozen = as_frozen(against, layout)
    frozen.check(phi.shape)
    wide = phi.to(reference.compute_dtype(phi.dtype))
    return reference.cross_gram(wide, frozen.like(wide))


def _gradient_memory(out: Tensor, phi: Tensor, layout: Layout | str | None) -> Phi | None:
    """Check where the gradient of Φ is to be written; return it as Φ[l, m, n], or None if that would be a copy."""
    if out.shape != phi.shape:
        raise ShapeError(
            f"out must have the shape of phi, {list(phi.shape)}; got {list(out.shape)}; try torch.empty_like(phi)"
        )
    if out.dtype != phi.dtype or out.device != phi.device:
        raise DtypeError(
            f"out must have the dtype and be on the device of phi, {phi.dtype} on {phi.device}; got {out.dtype} on "
            f"{out.device}; try torch.empty_like(phi)"
        )
    if torch.compiler.is_compiling() or not (is_plain(out) and is_plain(phi)) or out.numel() == 0:
        return None
    if any(stride == 0 and size > 1 for stride, size in zip(out.stride(), out.shape, strict=True)):
        raise ShapeError(
            f"out must not have entries that share memory; got strides {list(out.stride())} for shape "
            f"{list(out.shape)}; try torch.empty_like(phi)"
        )
    memory = out.untyped_storage().data_ptr()
    if memory == phi.untyped_storage().data_ptr():
        raise ShapeError("out must not share memory with phi; got views of one tensor; try torch.empty_like(phi)")
    target = as_phi(out.detach(), layout)
    if target.untyped_storage().data_ptr() != memory:
        return None
    torch.autograd.graph.increment_version(out)  # kernels write through pointers
    return target
