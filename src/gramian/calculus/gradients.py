"""The derivative of a Gram penalty, computed in several ways that follow the mathematics; slow, for small sizes.

Use `gramian.value_and_grad` for speed. These functions are for reading, and check one another.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.calculus.vec import commutation_matrix, unvec, vec
from gramian.errors import ShapeError
from gramian.penalties import Penalty, as_penalty
from gramian.typing import GroupMatrix, Phi

__all__ = [
    "derivative_by_vector",
    "gradient_by_index",
    "gradient_by_vec",
    "gram_jacobian",
    "hessian_vector_product",
    "residual",
]

Group = Float[Tensor, "l n"]


def residual(P: Float[Tensor, "... l n"]) -> GroupMatrix:
    """Form X = PᵀP − I.

    Args:
        P: One group with its vectors as columns, or several groups, [..., l, n].

    Returns:
        X, of shape [..., n, n].

    Examples:
        >>> import torch
        >>> residual(torch.eye(3)[:, :2]).abs().sum().item()
        0.0
    """
    return P.mT @ P - torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)


def gram_jacobian(P: Group) -> Float[Tensor, "nn ln"]:
    """Form ∂vec(PᵀP − I)/∂(vec P)ᵀ = (I + K_nn)(I_n ⊗ Pᵀ).

    Args:
        P: One group [l, n].

    Returns:
        A matrix of shape [n², l·n].

    Cost:
        n³·l numbers.

    Examples:
        >>> import torch
        >>> P, V = torch.randn(2, 5, 3, dtype=torch.float64)
        >>> torch.allclose(unvec(gram_jacobian(P) @ vec(V), 3), P.mT @ V + V.mT @ P)
        True

    References:
        Magnus and Neudecker, "Matrix Differential Calculus", chapter 9.
    """
    n = P.shape[1]
    eye = torch.eye(n, dtype=P.dtype, device=P.device)
    swap = commutation_matrix(n, n, dtype=P.dtype).to(P.device)
    return (torch.eye(n * n, dtype=P.dtype, device=P.device) + swap) @ torch.kron(eye, P.mT.contiguous())


def gradient_by_vec(P: Group, penalty: str | Penalty = "l1") -> Group:
    """Compute ∂μ/∂P through vec: vec ∂μ/∂P = Jᵀ vec G.

    Args:
        P: One group [l, n].
        penalty: Name or `Penalty`.

    Returns:
        The gradient [l, n].

    Examples:
        >>> import torch, gramian
        >>> P = torch.randn(5, 3, dtype=torch.float64)
        >>> torch.allclose(gradient_by_vec(P), gramian.value_and_grad(P)[1])
        True
    """
    return unvec(gram_jacobian(P).mT @ vec(as_penalty(penalty).subgradient(residual(P))), P.shape[0])


def gradient_by_index(phi: Phi, penalty: str | Penalty = "l1") -> Phi:
    """Compute Γ_pab = 2 Σ_j Φ_paj (G_a)_jb, one entry at a time: ∂L/∂Φ for β = 1.

    Args:
        phi: Φ[l, m, n].
        penalty: Name or `Penalty`.

    Returns:
        Γ, of the shape of Φ.

    Cost:
        A loop in Python over l·m·n².

    Examples:
        >>> import torch, gramian
        >>> phi = torch.randn(4, 2, 3, dtype=torch.float64)
        >>> torch.allclose(gradient_by_index(phi), gramian.value_and_grad(phi)[1])
        True
    """
    length, m, n = phi.shape
    gradient = torch.zeros_like(phi)
    for i in range(m):
        X = torch.zeros(n, n, dtype=phi.dtype, device=phi.device)
        for j in range(n):
            for k in range(n):
                X[j, k] = sum(phi[q, i, j] * phi[q, i, k] for q in range(length)) - (1 if j == k else 0)
        G = as_penalty(penalty).subgradient(X)
        for p in range(length):
            for k in range(n):
                gradient[p, i, k] = 2 * sum(phi[p, i, j] * G[j, k] for j in range(n))
    return gradient


def derivative_by_vector(phi: Phi, a: int, b: int, penalty: str | Penalty = "l1") -> Float[Tensor, " l"]:
    """Compute ∂L/∂Φ_ab = 2 Σ_j Φ_aj G_jb for β = 1, term by term.

    Args:
        phi: Φ[l, m, n].
        a: Index of the group.
        b: Index of the vector in the group.
        penalty: Name or `Penalty`.

    Returns:
        A vector of length l.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.randn(4, 2, 3, dtype=torch.float64)
        >>> torch.allclose(derivative_by_vector(phi, 1, 2), gramian.grad_vector(phi, 1, 2))
        True
    """
    G = as_penalty(penalty).subgradient(residual(phi[:, a, :]))
    terms = [2 * phi[:, a, j] * G[j, b] for j in range(phi.shape[2])]
    return torch.stack(terms).sum(dim=0)


def hessian_vector_product(P: Group, V: Group, penalty: str | Penalty = "l1") -> Group:
    """Compute the derivative of 2PG(X) in the direction V: 2VG + 2P·dG[PᵀV + VᵀP], where it exists.

    For l1 the second term is zero almost everywhere, because the signs do not change.

    Args:
        P: One group [l, n].
        V: A direction [l, n].
        penalty: Name or `Penalty`.

    Returns:
        The product [l, n].

    Raises:
        ShapeError: If P and V differ in shape.

    Examples:
        >>> import torch
        >>> P, V = torch.randn(2, 5, 3, dtype=torch.float64)
        >>> torch.allclose(hessian_vector_product(P, V), 2 * V @ torch.sign(residual(P)))
        True
    """
    if P.shape != V.shape:
        raise ShapeError(f"P and V must have the same shape; got {list(P.shape)} and {list(V.shape)}")
    mu = as_penalty(penalty)
    half = P.mT @ V
    result: Any = torch.autograd.functional.jvp(mu.subgradient, residual(P), half + half.mT)
    G, dG = result
    return 2 * V @ G + 2 * P @ dG
