"""The loss, its closed-form gradient, and its derivatives by a group, a vector and a row of Φ."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import ShapeError
from gramian.frozen import FrozenVectors, as_frozen
from gramian.kernels import reference
from gramian.kernels.dispatch import choose
from gramian.layout import Layout, as_phi, from_phi
from gramian.options import check_beta, real_number, whole_number
from gramian.penalties import Penalty, as_penalty
from gramian.typing import GroupMatrices, Phi, Scalar

__all__ = ["grad_group", "grad_slice", "grad_vector", "loss", "residual", "value_and_grad"]


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
        return (beta * choose(groups, mu).value(groups, mu)).sum()
    # torch.compile does not accept a Function with a jvp, and does not need one.
    function = _GramLoss if torch.compiler.is_compiling() else _ForwardGramLoss
    value, _ = function.apply(groups, beta, mu)  # pyright: ignore
    return value  # pyright: ignore


def value_and_grad(
    phi: Tensor,
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
    against: FrozenVectors | None = None,
    against_beta: float | None = None,
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

    Returns:
        The loss, a 0-dimensional tensor, and the gradient, a new tensor of the shape and dtype of `phi`.

    Raises:
        DataError, DtypeError, LayoutError, OptionError, ShapeError: As for `loss`.

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
    values, grad = choose(groups, mu).value_and_grad(groups, mu, beta)
    value = values.sum()
    if against is not None:
        strength, frozen = _strength(beta, against_beta), as_frozen(against, layout)
        Y = _cross_gram(groups, frozen, layout)
        sizes = Y.abs().sum(dim=(1, 2))
        value = value + strength * sizes.sum()
        S = Y.sign() * (strength * (1 + 0 * sizes))[:, None, None]  # as in the kernels, a NaN must not be lost
        grad = (grad + reference.combine(frozen.like(Y), S)).to(groups.dtype)
    return value, from_phi(grad, phi, layout)


def grad_group(
    phi: Tensor,
    a: int,
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
) -> Float[Tensor, "l n"]:
    r"""Compute ∂L/∂Φ_a = 2βΦ_aG_a, the derivative by one group.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        a: Which group; negative counts from the end.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        A new tensor of shape [l, n].

    Raises:
        ShapeError: If there is no such group.
        DtypeError, LayoutError, OptionError: As for `loss`.

    Cost:
        4·l·n² flops: the other groups are not computed.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.randn(8, 3, 2)
        >>> torch.equal(gramian.grad_group(phi, 1), gramian.value_and_grad(phi)[1][:, 1, :])
        True
    """
    beta = check_beta(beta)
    with torch.no_grad():
        groups = as_phi(phi, layout)
        a = _index(a, groups.shape[1], "a", "group")
        which = slice(a, a + 1)
        group, mu = groups[:, which, :], as_penalty(penalty).select_groups(which)
        return choose(group, mu).value_and_grad(group, mu, beta)[1][:, 0, :]


def grad_vector(
    phi: Tensor,
    a: int,
    b: int,
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
) -> Float[Tensor, " l"]:
    r"""Compute ∂L/∂Φ_ab = 2β Σ_j Φ_aj sign(Φ_ajᵀΦ_ab − δ_jb), the derivative by one vector.

    The factor 2 counts both entries, X_jb and X_bj, for each other vector of the group; the norm of the vector
    occurs once, in X_bb, but its derivative has the factor 2.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        a: Which group; negative counts from the end.
        b: Which vector of the group; negative counts from the end.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        A new tensor of shape [l].

    Raises:
        ShapeError: If there is no such group or vector.
        DtypeError, LayoutError, OptionError: As for `loss`.

    Cost:
        4·l·n flops for an element-wise penalty (one column of X), 4·l·n² for any other; independent of m.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
        >>> gramian.grad_vector(phi, 0, 1).tolist()
        [3.0, 2.0]
    """
    mu = as_penalty(penalty)
    if not mu.accepts_blocks:
        column = grad_group(phi, a, beta=beta, penalty=mu, layout=layout)
        return column[:, _index(b, column.shape[1], "b", "vector")]
    beta = check_beta(beta)
    with torch.no_grad():
        groups = as_phi(phi, layout)
        a = _index(a, groups.shape[1], "a", "group")
        b = _index(b, groups.shape[2], "b", "vector")
        P = groups[:, a, :].to(reference.compute_dtype(groups.dtype))
        with reference.full_precision(P):
            x = P.mT @ P[:, b]
            x[b] -= 1
            # As in the kernels: a NaN in the column must not be lost by the sign.
            g = mu.subgradient(x) * (2 * beta * (1 + 0 * x.abs().sum()))
            return (P @ g).to(groups.dtype)


def grad_slice(
    phi: Tensor,
    p: int,
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
) -> Float[Tensor, "m n"]:
    r"""Compute Q_p = Γ[p, :, :], the slice of the gradient tensor Γ = ∂L/∂Φ at one coordinate of the vectors.

    Γ_pab = 2β Σ_j Φ_paj (G_a)_jb, so row a of Q_p is 2β times row p of Φ_a times G_a.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        p: Which coordinate, 0 ≤ p < l; negative counts from the end.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        A new tensor of shape [m, n].

    Raises:
        ShapeError: If there is no such coordinate.
        DtypeError, LayoutError, OptionError: As for `loss`.

    Cost:
        2·m·l·n² flops for the Gram products, 2·m·n² for the slice.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
        >>> gramian.grad_slice(phi, 1).tolist()
        [[2.0, 2.0]]
    """
    beta, mu = check_beta(beta), as_penalty(penalty)
    with torch.no_grad():
        groups = as_phi(phi, layout)
        p = _index(p, groups.shape[0], "p", "coordinate")
        X = reference.residual(groups)
        G = reference.scaled_subgradient(X, mu.value(X), mu, beta)
        return reference.apply(groups[p : p + 1], G)[0].to(groups.dtype)


def residual(phi: Tensor, *, layout: Layout | str | None = None) -> GroupMatrices:
    r"""Form the Gram residual X_i = Φ_iᵀΦ_i − I of every group.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        layout: Which axes are vector, group and member.

    Returns:
        A new tensor of shape [m, n, n], float32 for the 16-bit formats. Differentiable.

    Raises:
        DtypeError, LayoutError: As for `loss`.

    Cost:
        2·m·l·n² flops, m·n² numbers.

    Examples:
        >>> import torch, gramian
        >>> gramian.residual(torch.tensor([[1.0, 0.5], [0.0, 1.0]])).tolist()
        [[[0.0, 0.5], [0.5, 0.25]]]
    """
    return reference.residual(as_phi(phi, layout))


def _strength(beta: float, against_beta: float | None) -> float:
    """Return the strength against frozen vectors: by default the one within groups."""
    return beta if against_beta is None else real_number(against_beta, name="against_beta", zero=True)


def _cross_gram(phi: Phi, against: FrozenVectors, layout: Layout | str | None) -> Float[Tensor, "m k n"]:
    """Form QᵀΦ_i for every group, in the compute dtype. Differentiable."""
    frozen = as_frozen(against, layout)
    frozen.check(phi.shape)
    wide = phi.to(reference.compute_dtype(phi.dtype))
    return reference.cross_gram(wide, frozen.like(wide))


def _index(index: int, size: int, name: str, what: str) -> int:
    index = whole_number(index, name=name, least=None)
    if not -size <= index < size:
        remedy = f"try 0 to {size - 1}" if size else "the axis is empty"
        raise ShapeError(f"{name} must name one of the {size} {what}s; got {name}={index}; {remedy}")
    return index % size


def _gradient(phi: Phi, beta: float, penalty: Penalty) -> Phi:
    """Compute the gradient, differentiably, in the compute dtype."""
    return reference.REFERENCE.value_and_grad(phi.to(reference.compute_dtype(phi.dtype)), penalty, beta)[1]


class _GramLoss(torch.autograd.Function):
    """L and its gradient Γ as two outputs, so that Γ is saved and nothing is computed twice.

    Because Γ is an output, a second backward passes through this function as the cotangent of Γ.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(phi: Tensor, beta: float, penalty: Penalty) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The gradient stays in the compute dtype, so that a 16-bit gradient is rounded after it is scaled.
        wide = phi.to(reference.compute_dtype(phi.dtype))
        values, grad = choose(wide, penalty).value_and_grad(wide, penalty, beta)
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
