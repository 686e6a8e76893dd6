"""The subspace locally competitive algorithm: inference as the dynamics of a network."""

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.inference import Inference, check_samples, duality_gap, largest_eigenvalue
from gramian.coding.prior import Codes, dictionary_matrix, group_norms, group_shrink
from gramian.typing import Phi

__all__ = ["lca"]

_CHECK_EVERY = 10


def lca(
    x: Float[Tensor, "batch l"],
    phi: Phi,
    *,
    lam: float,
    max_iter: int = 2000,
    tol: float = 1e-4,
    start: Codes | None = None,
) -> Inference:
    r"""Infer the codes of samples by the subspace LCA.

    Membrane potentials u leak, are driven by Dᵀx, and compete through the Gram matrix G of the atoms,
    u ← u + η(Dᵀx − u − (G − I)a), while each group fires with a = shrink_λ(u): group amplitude above the threshold, in
    the direction of the potentials.

    The rate is η = min(1, 1.9/L) with L the largest eigenvalue of G: a fixed rate that suits one dictionary diverges on
    another.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n].
        lam: Group threshold λ > 0.
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
        >>> lca(torch.randn(10, 32), phi, lam=1.0).converged
        True

    References:
        Rozell, Johnson, Baraniuk and Olshausen, "Sparse coding via thresholding and local competition in neural
        circuits", 2008; for groups, Paiton et al., "Subspace locally competitive algorithms", 2020.
    """
    check_samples(x, phi, lam)
    shape = (x.shape[0], *phi.shape[1:])
    with torch.no_grad():
        D = dictionary_matrix(phi)
        G = D.mT @ D
        rate = min(1.0, 1.9 / largest_eigenvalue(G))
        drive = x @ D
        codes = x.new_zeros(shape) if start is None else start
        # The potential of which `start` is the firing: each active group longer by the threshold.
        potential = codes * (1 + lam / group_norms(codes).clamp_min(torch.finfo(x.dtype).tiny))[..., None]
        iterations = 0
        for iterations in range(1, max_iter + 1):
            force = (drive - codes.flatten(1) @ G).unflatten(1, shape[1:]) + codes
            potential = torch.lerp(potential, force, rate)
            codes = group_shrink(potential, lam)
            if tol > 0 and iterations % _CHECK_EVERY == 0:
                gap, total = duality_gap(x, phi, codes, lam)
                if float(gap.sum()) <= tol * float(total.sum()):
                    break
        gap, total = duality_gap(x, phi, codes, lam)
    return Inference(codes, iterations, gap, float(gap.sum()) <= tol * float(total.sum()))
