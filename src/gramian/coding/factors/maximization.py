"""The maximisation step: every parameter in closed form from expected moments."""

import torch
from torch import Tensor

from gramian.coding.factors.moments import Moments
from gramian.coding.factors.parameters import FactorParameters
from gramian.typing import Phi

__all__ = ["maximize", "update_frames"]

_ANCHOR = 1e-6
"""Weight of the previous frame in its update, relative to the largest; it keeps unused directions in place."""

_LEAST_PI = 1e-7


def polar(matrix: Tensor) -> Tensor:
    """Compute the polar factor of [l, n] from its singular value decomposition."""
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vh


def update_frames(phi: Phi, moments: Moments, *, sweeps: int = 1) -> Phi:
    r"""Minimise the expected squared error over one group after the other, with Φ_iᵀΦ_i = I.

    With orthonormal frames the error is linear in Φ_i, so that the minimum is the polar factor of
    Σ E[(x − Σ_{j≠i} s_j Φ_j a_j) s_i a_iᵀ].
    """
    l, m, n = phi.shape  # noqa: E741
    new = phi.double().clone()
    xa, aa = moments.xa.double(), moments.aa.double()
    for _ in range(sweeps):
        for i in range(m):
            if moments.on[i] <= 0:
                continue
            block = aa[:, :, i].clone()
            block[i] = 0
            target = xa[:, i] - new.reshape(l, m * n) @ block.reshape(m * n, n)
            size = float(torch.linalg.matrix_norm(target))
            if size > 0:
                new[:, i] = polar(target + _ANCHOR * size * new[:, i])
    return new.to(phi)


def maximize(
    parameters: FactorParameters,
    moments: Moments,
    *,
    collapsed: bool,
    floor: float,
    frames: bool = True,
    center: bool = False,
) -> tuple[FactorParameters, Tensor]:
    r"""Maximise the bound over Φ, π, v, σ² and the mean for given moments.

    Args:
        parameters: The parameters of the moments.
        moments: Expected moments.
        collapsed: Whether v is maximised together with q(a_i | s_i), v_j = (E[c_j² | s_i = 1] − σ²)₊, which switches
            directions off; otherwise by v_j = E[a_j² | s_i = 1].
        floor: The least σ².
        frames: Whether Φ is updated.
        center: Whether the mean is updated.

    Returns:
        The parameters, and the rotations [m, n, n] from the former axes to the new ones; the moments are rotated in
        place.
    """
    l, m, n = parameters.phi.shape  # noqa: E741
    on = moments.on.double().clamp_min(1e-30)
    noise = max(moments.error / (moments.count * l), floor)
    pi = (on / moments.count).clamp(_LEAST_PI, 1 - 1e-6)
    used = moments.on > 0
    if collapsed:
        spread = moments.cc.double() / on[:, None, None] - parameters.noise * torch.eye(n).to(on)
    else:
        spread = moments.aa[range(m), :, range(m)].double() / on[:, None, None]
    values, vectors = torch.linalg.eigh(spread)
    values, vectors = values.flip(1).clamp_min(0), vectors.flip(2)
    variances = torch.where(used[:, None], values, parameters.variances.double())
    vectors = torch.where(used[:, None, None], vectors, torch.eye(n).to(vectors))
    phi = update_frames(parameters.phi, moments) if frames else parameters.phi
    moments.rotate_(vectors)
    phi = torch.einsum("lmi,mij->lmj", phi.double(), vectors)
    mean = parameters.mean
    if center:
        offset = (moments.x.double() - torch.einsum("lmi,mi->l", phi, moments.a.double())) / moments.count
        mean = offset.to(parameters.phi) + (0 if mean is None else mean)
    new = FactorParameters(phi.to(parameters.phi), pi.to(parameters.pi), variances.to(parameters.pi), noise, mean)
    return new, vectors
