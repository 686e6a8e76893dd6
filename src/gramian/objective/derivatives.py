"""The derivatives of the loss with respect to a group, a vector and a slice of Φ, and the Gram residual."""

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import ShapeError
from gramian.kernels import reference
from gramian.kernels.dispatch import choose
from gramian.layout import Layout, as_phi
from gramian.options import check_beta, whole_number
from gramian.penalties import Penalty, as_penalty
from gramian.typing import GroupMatrices

__all__ = ["grad_group", "grad_slice", "grad_vector", "residual"]


def grad_group(
    phi: Tensor,
    a: int,
    *,
    beta: float = 1.0,
    penalty: str | Penalty = "l1",
    layout: Layout | str | None = None,
) -> Float[Tensor, "l n"]:
    r"""Compute ∂L/∂Φ_a = 2βΦ_aG_a, the derivative with respect to one group.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        a: Index of the group; a negative index counts from the end.
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
    r"""Compute ∂L/∂Φ_ab = 2β Σ_j Φ_aj sign(Φ_ajᵀΦ_ab − δ_jb), the derivative with respect to one vector.

    The factor 2 has two sources: the inner product with another vector j occurs twice, as X_jb and X_bj; the squared
    length occurs once, in X_bb, but its derivative is 2Φ_ab.

    Args:
        phi: Φ[l, m, n], one group [l, n], or any tensor with a layout.
        a: Index of the group; a negative index counts from the end.
        b: Index of the vector in the group; a negative index counts from the end.
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
        p: Index of the coordinate, 0 ≤ p < l; a negative index counts from the end.
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


def _index(index: int, size: int, name: str, what: str) -> int:
    index = whole_number(index, name=name, least=None)
    if not -size <= index < size:
        remedy = f"try 0 to {size - 1}" if size else "the axis is empty"
        raise ShapeError(f"{name} must name one of the {size} {what}s; got {name}={index}; {remedy}")
    return index % size
