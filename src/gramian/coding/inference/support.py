"""Least squares on the support: the codes of least energy for the groups that are active."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gramian.coding.model import Codes, group_norms
from gramian.coding.synthesis import Dense, Samples, Synthesis, as_synthesis
from gramian.errors import ShapeError
from gramian.options import real_number
from gramian.typing import Phi

__all__ = ["GroupAtoms", "refit", "ridge_codes"]

_MEMORY = 2**23
"""Numbers in the gathered atoms of one part of a batch: 64 MiB in float64."""
_LARGEST_SYSTEM = 512
"""Systems with more coefficients are solved by conjugate gradients."""
_GRADIENT_STEPS = 200


class GroupAtoms:
    """The atoms of a dictionary as rows, gathered by group.

    Args:
        phi: Φ[l, m, n].
    """

    def __init__(self, phi: Phi) -> None:
        length, self.m, self.n = phi.shape
        # One more group of zeros, for samples with fewer active groups than others.
        self.rows = torch.cat([phi.permute(1, 2, 0), phi.new_zeros(1, self.n, length)])

    def gather(self, groups: Int[Tensor, "batch k"]) -> Float[Tensor, "batch atoms l"]:
        """Return the atoms of these groups for each sample; group m stands for no group."""
        return self.rows[groups].flatten(1, 2)


def refit(x: Samples, phi: Phi | Synthesis, codes: Codes, *, ridge: float = 0.0) -> Codes:
    r"""Fit the coefficients of the active groups by least squares: min ½‖x − Φa‖² + ½ρ‖a‖² with a = 0 off the support.

    A penalty on amplitudes shortens codes; least squares on the support removes this bias, for the codes of any method.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.
        codes: Codes; their groups that are not 0 are the support of each sample.
        ridge: ρ ≥ 0, such as that of a Gaussian slab.

    Returns:
        Codes of the same shape. If the atoms of a support are linearly dependent, the solution of least norm to
        about 1e-6.

    Raises:
        ShapeError: If samples or codes do not fit the dictionary.
        OptionError: If ρ is negative or not a number.

    Cost:
        O(batch·(l·c² + c³)) flops for supports of c coefficients, in float64; memory for the atoms of the supports of a
        part of the batch, 64 MiB. Supports of more than 512 coefficients, and dictionaries other than matrices: at
        most 200 steps of conjugate gradients, each with two products with the dictionary.

    Examples:
        >>> import torch
        >>> phi = torch.eye(4).reshape(4, 2, 2)
        >>> refit(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), phi, torch.tensor([[[0.0, 0.5], [0.0, 0.0]]])).tolist()
        [[[1.0, 2.0], [0.0, 0.0]]]
    """
    synthesis = as_synthesis(phi)
    ridge = real_number(ridge, name="ridge", zero=True, attempt="0")
    expected = synthesis.zeros(x).shape
    if codes.shape != expected:
        raise ShapeError(f"codes must have shape {list(expected)}; got {list(codes.shape)}")
    with torch.no_grad():
        return ridge_codes(x, synthesis, group_norms(codes) > 0, ridge).to(codes.dtype)


def ridge_codes(x: Samples, synthesis: Synthesis, support: Bool[Tensor, "batch m *places"], ridge: float) -> Codes:
    """Fit the codes on a support, as `refit` does."""
    if not isinstance(synthesis, Dense):
        return _conjugate_gradients(x, synthesis, support, ridge)
    codes = synthesis.zeros(x)
    counts = support.sum(dim=1)
    atoms = GroupAtoms(synthesis.phi.double())
    remaining = counts > 0
    while bool(remaining.any()):
        # Samples with similar numbers of active groups, at most the next power of √2.
        smallest = int(counts[remaining].min())
        largest = max(smallest, int(1.5 * smallest))
        rows = (remaining & (counts <= largest)).nonzero()[:, 0]
        remaining[rows] = False
        largest = int(counts[rows].max())
        if largest * atoms.n > _LARGEST_SYSTEM:
            codes[rows] = _conjugate_gradients(x[rows], synthesis, support[rows], ridge)
            continue
        size = max(1, _MEMORY // (largest * atoms.n * len(synthesis.D)))
        for part in rows.split(size):
            codes[part] = _solve(x[part], atoms, support[part], largest, ridge).to(codes.dtype)
    return codes


def _solve(x: Samples, atoms: GroupAtoms, support: Bool[Tensor, "batch m"], largest: int, ridge: float) -> Codes:
    """Solve the normal equations of each sample with a Cholesky factorisation in float64."""
    m, n = atoms.m, atoms.n
    present, groups = support.to(torch.int8).topk(largest, dim=1)
    groups = torch.where(present > 0, groups, m)
    A = atoms.gather(groups)
    gram = A @ A.mT
    # The ridge for dependent atoms selects the solution of least norm. Not a batched LU solver, which can hang in MKL
    # with two threads at this size.
    diagonal = gram.diagonal(dim1=1, dim2=2)
    size = diagonal.sum(dim=1, keepdim=True) / (n * support.sum(dim=1, keepdim=True)).clamp_min(1)
    tiny = torch.finfo(A.dtype).tiny
    diagonal += (ridge + 1e-6 * size).clamp_min(tiny) + (diagonal == 0)
    factor = torch.linalg.cholesky_ex(gram).L
    target = (A @ x.double()[..., None])[..., 0]
    solution = torch.cholesky_solve(target[..., None], factor)[..., 0]
    # One step of refinement makes the error of the small ridge negligible for independent atoms.
    error = target - (A @ (A.mT @ solution[..., None]))[..., 0] - ridge * solution
    solution += torch.cholesky_solve(error[..., None], factor)[..., 0]
    codes = x.new_zeros((len(x), m + 1, n), dtype=torch.float64)
    codes.scatter_(1, groups[..., None].expand(-1, -1, n), solution.unflatten(1, (largest, n)))
    return codes[:, :m]


def _conjugate_gradients(x: Samples, synthesis: Synthesis, support: Tensor, ridge: float) -> Codes:
    mask = support.unsqueeze(2)

    def norm2(codes: Codes) -> Tensor:
        return synthesis.total(codes.square().flatten(1).sum(dim=1)).view(-1, *[1] * (codes.ndim - 1))

    codes = synthesis.zeros(x)
    gradient = synthesis.analyse(x) * mask
    direction, power = gradient, norm2(gradient)
    floor = (torch.finfo(x.dtype).eps ** 2 * power).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(_GRADIENT_STEPS):
        active = power > floor
        if not bool(active.any()):
            break
        image = synthesis.analyse(synthesis.synthesise(direction)) * mask + ridge * direction
        curvature = synthesis.total((direction * image).flatten(1).sum(dim=1)).view_as(power)
        rate = torch.where(active & (curvature > 0), power / curvature.clamp_min(torch.finfo(x.dtype).tiny), 0)
        codes = codes + rate * direction
        gradient = gradient - rate * image
        previous, power = power, norm2(gradient)
        direction = gradient + (power / previous.clamp_min(torch.finfo(x.dtype).tiny)) * direction
    return codes
