"""FISTA with group soft thresholding: the default inference."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.inference import Inference, check_samples, duality_gap, largest_eigenvalue
from gramian.coding.prior import Codes, dictionary_matrix, group_shrink
from gramian.typing import Phi

__all__ = ["fista"]

_CHECK_EVERY = 10


def fista(
    x: Float[Tensor, "batch l"],
    phi: Phi,
    *,
    lam: float,
    max_iter: int = 500,
    tol: float = 1e-4,
    start: Codes | None = None,
) -> Inference:
    r"""Infer the codes of samples by accelerated proximal gradient descent.

    a ← shrink_λ/L(y − (Gy − Dᵀx)/L), y ← a + momentum, with G = DᵀD the Gram matrix of all atoms and L its largest
    eigenvalue.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n].
        lam: Sparsity λ > 0.
        max_iter: Most iterations.
        tol: Stop when the duality gap is at most this fraction of the energy, looked at every 10 iterations;
            0 runs all iterations.
        start: Codes to start from; default 0.

    Returns:
        Codes, iterations and the certified gap.

    Raises:
        ShapeError: If `x` does not fit the dictionary.
        OptionError: If λ is not positive.

    Cost:
        2·batch·(m·n)² flops an iteration; memory of a few codes.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> result = fista(torch.randn(10, 32), phi, lam=1.0)
        >>> result.codes.shape, result.converged
        (torch.Size([10, 8, 4]), True)

    References:
        Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", 2009.
    """
    check_samples(x, phi, lam)
    shape = (x.shape[0], *phi.shape[1:])
    with torch.no_grad():
        D = dictionary_matrix(phi)
        G = D.mT @ D
        L = largest_eigenvalue(G)
        descent = torch.eye(G.shape[0], dtype=G.dtype, device=G.device) - G / L
        pull = (x @ D) / L
        codes = x.new_zeros(shape) if start is None else start
        ahead, momentum = codes, 1.0
        iterations = 0
        for iterations in range(1, max_iter + 1):
            previous = codes
            codes = group_shrink(torch.addmm(pull, ahead.flatten(1), descent).unflatten(1, shape[1:]), lam / L)
            following = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
            ahead = torch.lerp(previous, codes, 1 + (momentum - 1) / following)
            momentum = following
            if tol > 0 and iterations % _CHECK_EVERY == 0:
                gap, total = duality_gap(x, phi, codes, lam)
                if float(gap.sum()) <= tol * float(total.sum()):
                    break
        gap, total = duality_gap(x, phi, codes, lam)
    return Inference(codes, iterations, gap, float(gap.sum()) <= tol * float(total.sum()))
