"""The loss, its closed-form gradient, and its derivatives by a group, a vector and a row of Φ."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from gramian import kernels
from gramian.errors import OptionError, ShapeError
from gramian.kernels import dense
from gramian.layout import Layout, as_phi, from_phi
from gramian.penalties import Penalty, as_penalty
from gramian.typing import GroupMatrices, Phi, Scalar

__all__ = ["as_number", "check_beta", "grad_group", "grad_slice", "grad_vector", "loss", "residual", "value_and_grad"]


def loss(
    phi: Tensor, *, beta: float = 1.0, penalty: str | Penalty = "l1", layout: Layout | str | None = None
) -> Scalar:
    r"""Measure how far the groups of a tensor are from orthonormal.

    L = β Σ_i μ(Φ_iᵀΦ_i − I), with μ(X) = Σ_jk |X_jk| for the default penalty. Differentiable: the backward pass
    is the closed form 2βΦ_iG_i, held as one tensor of the size of Φ while every n × n matrix is freed in the
    forward pass. A second backward gives the almost-everywhere Hessian, 2βV_iG_i for l1. Works under
    `torch.func` (grad, vmap, jvp, hessian) and `torch.compile(fullgraph=True)`.

    At X_jk = 0 the absolute value has a kink; there the gradient takes sign(0) = 0, one member of the Clarke
    subdifferential. A NaN or an infinite entry makes the loss NaN or infinite and the gradient of its own group
    NaN; other groups are untouched. An empty axis gives an empty sum.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout; float64, float32, bfloat16 or float16.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        A 0-dimensional tensor, float32 for the 16-bit formats, else of the dtype of `phi`.

    Raises:
        DtypeError: If `phi` is not a dense tensor of such a dtype.
        LayoutError: If `phi` does not fit the layout, or has neither 2 nor 3 axes and no layout.
        OptionError: If β is negative or not finite, or the penalty has no such name.

    Cost:
        4·m·l·n² flops (gradient included); m·n² numbers during the call, l·m·n until backward.

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
    beta = check_beta(beta)
    rule = as_penalty(penalty)
    groups = as_phi(phi, layout)
    if not (torch.is_grad_enabled() and groups.requires_grad):
        return (beta * kernels.choose(groups, rule).value(groups, rule)).sum()
    # torch.compile refuses a Function with a jvp, and has no use for one.
    function = _GramLoss if torch.compiler.is_compiling() else _ForwardGramLoss
    value, _ = function.apply(groups, beta, rule)  # pyright: ignore
    return value  # pyright: ignore


def value_and_grad(
    phi: Tensor, *, beta: float = 1.0, penalty: str | Penalty = "l1", layout: Layout | str | None = None
) -> tuple[Scalar, Tensor]:
    r"""Compute the loss and its gradient at once, without an autograd graph.

    ∂L/∂Φ_i = 2βΦ_iG_i with G_i = sign(Φ_iᵀΦ_i − I) for l1; see `loss` for kinks, dtypes and non-finite entries.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        beta: Strength β ≥ 0.
        penalty: Name or `Penalty`.
        layout: Which axes are vector, group and member.

    Returns:
        The loss, a 0-dimensional tensor, and the gradient, a new tensor of the shape and dtype of `phi`.

    Raises:
        DtypeError, LayoutError, OptionError: As for `loss`.

    Cost:
        4·m·l·n² flops; m·n² + l·m·n numbers.

    Examples:
        >>> import torch, gramian
        >>> value, grad = gramian.value_and_grad(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
        >>> value.item(), grad.tolist()
        (1.25, [[1.0, 3.0], [2.0, 2.0]])
    """
    beta, rule = check_beta(beta), as_penalty(penalty)
    groups = as_phi(phi, layout).detach()
    values, grad = kernels.choose(groups, rule).value_and_grad(groups, rule, beta)
    return values.sum(), from_phi(grad, phi, layout)


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
        4·l·n² flops: the other groups are not touched.

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
        group, rule = groups[:, which, :], as_penalty(penalty).of_groups(which)
        return kernels.choose(group, rule).value_and_grad(group, rule, beta)[1][:, 0, :]


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

    The factor 2 counts both places, X_jb and X_bj, where the vector meets each of its fellows; its own norm
    stands once in X_bb, but twice in Φ_abᵀΦ_ab.

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
        4·l·n flops for an element-wise penalty (one column of X), 4·l·n² for any other; never the whole tensor.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
        >>> gramian.grad_vector(phi, 0, 1).tolist()
        [3.0, 2.0]
    """
    rule = as_penalty(penalty)
    if not rule.entrywise:
        column = grad_group(phi, a, beta=beta, penalty=rule, layout=layout)
        return column[:, _index(b, column.shape[1], "b", "vector")]
    beta = check_beta(beta)
    with torch.no_grad():
        groups = as_phi(phi, layout)
        a = _index(a, groups.shape[1], "a", "group")
        b = _index(b, groups.shape[2], "b", "vector")
        P = groups[:, a, :].to(dense.compute_dtype(groups.dtype))
        with dense.full_precision(P):
            x = P.mT @ P[:, b]
            x[b] -= 1
            # As in the kernel: a NaN in the column must not vanish in a sign.
            g = rule.dual(x) * (2 * beta * (1 + 0 * x.abs().sum()))
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

    Γ_pil = 2β Σ_j Φ_pij G_ijl, so row i of Q_p is 2β times row p of Φ_i times G_i.

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
    beta = check_beta(beta)
    rule = as_penalty(penalty)
    with torch.no_grad():
        groups = as_phi(phi, layout)
        p = _index(p, groups.shape[0], "p", "coordinate")
        X = dense.residual(groups)
        G = dense.scaled_dual(X, rule.value(X), rule, beta)
        return dense.apply(groups[p : p + 1], G)[0].to(groups.dtype)


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
    return dense.residual(as_phi(phi, layout))


def as_number(value: float, name: str) -> float:
    """Return an option as a float: of a number, of NumPy too, or of a tensor of one number.

    Raises:
        OptionError: If it is none: text, a truth value, None, an array; or a tensor that a gradient is wanted by.
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        tangent = forward_ad.unpack_dual(value).tangent
        if value.requires_grad or tangent is not None or is_functorch_wrapped_tensor(value):
            raise OptionError(
                f"{name} must be a constant, for no gradient by it is computed; got a tensor that is differentiated by "
                f"or transformed; try {name}.detach(), or loss(phi) * {name} for a strength that is learned"
            )
        boolean = value.dtype == torch.bool
    else:
        boolean = isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", "") in ("b", "S", "U")
    if not boolean and not isinstance(value, (str, bytes, bytearray)):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass
    raise OptionError(f"{name} must be a number; got {type(value).__name__}; try {name}=0.1")


def check_beta(beta: float) -> float:
    """Return β as a float if it is a finite number of at least zero.

    Raises:
        OptionError: If it is not.
    """
    if type(beta) is float and 0 <= beta < math.inf:
        return beta
    value = as_number(beta, "beta")
    if not (math.isfinite(value) and value >= 0):
        raise OptionError(f"beta must be a finite number of at least 0; got {beta!r}; try beta=1.0")
    return value


def _index(index: int, size: int, name: str, what: str) -> int:
    if isinstance(index, bool) or not isinstance(index, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"{name} must be an integer, the index of a {what}; got {name}={index!r}")
    if not -size <= index < size:
        remedy = f"try 0 to {size - 1}" if size else "an empty axis has none"
        raise ShapeError(f"{name} must name one of the {size} {what}s; got {name}={index}; {remedy}")
    return index % size


def _gradient(phi: Phi, beta: float, penalty: Penalty) -> Phi:
    """Give the gradient, differentiable, in the compute dtype."""
    return dense.value_and_grad(phi.to(dense.compute_dtype(phi.dtype)), penalty, beta)[1]


class _GramLoss(torch.autograd.Function):
    """L and its gradient Γ as two outputs, so that Γ is saved and nothing is computed twice.

    Because Γ is an output, a second backward arrives here as the cotangent of Γ.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(phi: Tensor, beta: float, penalty: Penalty) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The gradient stays in the compute dtype, so that a 16-bit one is rounded after it is scaled, not before.
        wide = phi.to(dense.compute_dtype(phi.dtype))
        values, grad = kernels.choose(wide, penalty).value_and_grad(wide, penalty, beta)
        return values.sum(), grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        phi, ctx.beta, ctx.penalty = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(phi, output[1])
        ctx.save_for_forward(phi, output[1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_value, of_grad = cotangents
        phi, grad = ctx.saved_tensors
        result = None if of_value is None else (of_value * grad).to(phi.dtype)
        if of_grad is not None:
            # The Hessian is symmetric, so its product with V is the vector-Jacobian product of the gradient.
            (second,) = torch.func.vjp(lambda p: _gradient(p, ctx.beta, ctx.penalty), phi)[1](of_grad)
            result = second if result is None else result + second
        return result, None, None


class _ForwardGramLoss(_GramLoss):
    """The same with forward-mode derivatives."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        phi, grad = ctx.saved_tensors
        direction = tangents[0]
        slope = (grad * direction).sum()
        curvature = torch.func.jvp(lambda p: _gradient(p, ctx.beta, ctx.penalty), (phi,), (direction,))[1]
        return slope, curvature
