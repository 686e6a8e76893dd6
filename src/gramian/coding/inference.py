r"""Inference: the codes that minimise ½‖x − Σ Φ_i a_i‖² + λ Σ ‖a_i‖₂, with a certificate."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.prior import Codes, dictionary_matrix, group_norms
from gramian.errors import OptionError, ShapeError
from gramian.typing import Phi

__all__ = ["Inference", "InferenceMethod", "check_samples", "duality_gap", "largest_eigenvalue"]


@dataclass(frozen=True)
class Inference:
    """Codes, and how good they are certified to be.

    Attributes:
        codes: Coefficients [batch, m, n].
        iterations: How many iterations were made.
        gap: For each sample, an upper bound on its energy above the smallest possible.
        converged: Whether the sum of the gaps is at most the tolerance times the sum of the energies.
    """

    codes: Codes
    iterations: int
    gap: Float[Tensor, " batch"]
    converged: bool


@runtime_checkable
class InferenceMethod(Protocol):
    """A way to find the codes; every method has this signature and the same answer."""

    def __call__(
        self,
        x: Float[Tensor, "batch l"],
        phi: Phi,
        *,
        lam: float,
        max_iter: int = 500,
        tol: float = 1e-4,
        start: Codes | None = None,
    ) -> Inference:
        """Infer the codes of samples."""
        ...


def duality_gap(
    x: Float[Tensor, "batch l"], phi: Phi, codes: Codes, lam: float
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    r"""Bound how far the energy of codes is above its minimum.

    The dual problem is max ½‖x‖² − ½‖x − u‖² over all u with ‖Φ_iᵀu‖₂ ≤ λ. The residual r = x − Σ Φ_i a_i, scaled
    into that set, is such a u, and the difference between the two values bounds the error.

    Args:
        x: Samples.
        phi: Dictionary Φ[l, m, n].
        codes: Any codes.
        lam: Sparsity λ > 0.

    Returns:
        The gap, at least 0 up to rounding, and the energy, for each sample.

    Cost:
        Two products with the dictionary.

    Examples:
        >>> import torch
        >>> phi, x = torch.eye(2)[:, None, :], torch.tensor([[3.0, 4.0]])
        >>> gap, energy = duality_gap(x, phi, torch.tensor([[[1.8, 2.4]]]), lam=2.0)  # the optimum: shorter by λ
        >>> abs(gap.item()) < 1e-5, energy.item()
        (True, 8.0)
    """
    D = dictionary_matrix(phi)
    r = x - codes.flatten(1) @ D.mT
    primal = 0.5 * r.square().sum(dim=-1) + lam * group_norms(codes).sum(dim=-1)
    steepest = group_norms((r @ D).unflatten(-1, phi.shape[1:])).amax(dim=-1)
    shrink = (lam / steepest.clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1)
    dual = shrink * (x * r).sum(dim=-1) - 0.5 * shrink.square() * r.square().sum(dim=-1)
    return primal - dual, primal


def largest_eigenvalue(G: Float[Tensor, "atoms atoms"]) -> float:
    """Bound the largest eigenvalue of a Gram matrix from above, to about five per cent, by power iteration.

    The start is random, from a fixed seed: a row of G would miss eigenvectors that are zero there.
    """
    tiny = torch.finfo(G.dtype).tiny
    size = G.abs().amax().clamp_min(tiny)
    scaled = G / size
    v = torch.randn(G.shape[0], generator=torch.Generator().manual_seed(0)).to(G)
    estimate = 0.0
    for _ in range(100):
        norm = torch.linalg.vector_norm(v)
        v = scaled @ (v / norm.clamp_min(tiny))
        previous, estimate = estimate, float(torch.linalg.vector_norm(v))
        if estimate <= previous * (1 + 1e-3):
            break
    return max(1.05 * estimate * float(size), tiny)


def check_samples(x: Tensor, phi: Phi, lam: float) -> None:
    """Check that samples and dictionary fit together.

    Raises:
        ShapeError: If `x` is not [batch, l] with the l of `phi`.
        OptionError: If λ is not positive.
    """
    if x.ndim != 2 or x.shape[1] != phi.shape[0]:
        raise ShapeError(f"samples must have shape [batch, {phi.shape[0]}], the length of an atom; got {list(x.shape)}")
    if not lam > 0:
        raise OptionError(f"lam must be positive; got {lam!r}; try lam=1.0")
