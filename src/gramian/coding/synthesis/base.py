"""The base class of linear maps from codes to samples, and bounds on their spectrum."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.model import Codes
from gramian.errors import OptionError
from gramian.typing import Phi

__all__ = ["TF32", "Samples", "Synthesis", "largest_eigenvalue", "longest_atom"]

Samples = Float[Tensor, "batch *shape"]

TF32 = 2.0**-10
"""Unit of rounding in TF32, which CUDA may use for products of float32 tensors."""

_PRODUCTS, _MARGIN = 10, 1.08
"""Number of products for an estimate of an eigenvalue, and the factor that turns this lower bound into an upper one."""


class Synthesis(ABC):
    """A linear map from codes [batch, m, n, …] to samples [batch, …], with its transpose."""

    @abstractmethod
    def zeros(self, x: Samples) -> Codes:
        """Return zero codes of the shape that fits the samples.

        Raises:
            ShapeError: If the samples do not fit the atoms.
        """

    @abstractmethod
    def synthesise(self, codes: Codes) -> Samples:
        """Compute Σ_i Φ_i a_i."""

    @abstractmethod
    def analyse(self, x: Samples) -> Codes:
        """Compute the correlations Φᵀx."""

    def bound(self, x: Samples) -> float:
        """Bound the largest eigenvalue of ΦᵀΦ from above, to about eight per cent.

        The bound is computed from ΦΦᵀ, which has the same largest eigenvalue and whose size does not depend on how
        groups are distributed over processes.
        """
        start = torch.randn((1, *x.shape[1:]), generator=torch.Generator().manual_seed(0), device="cpu").to(x)
        return largest_eigenvalue(lambda v: self.synthesise(self.analyse(v)), start)

    def longest(self, x: Samples) -> float:
        """Bound the length of the longest atom from above."""
        return self.bound(x) ** 0.5

    def roundoff(self, x: Samples) -> float:
        """Return the unit of rounding of products with the dictionary; in TF32 it exceeds that of the data type."""
        coarse = x.is_cuda and x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
        return TF32 if coarse else torch.finfo(x.dtype).eps

    def descent(self, x: Samples, rate: float) -> Callable[[Codes], Codes]:
        """Return the map a ↦ a + rate·Φᵀ(x − Φa), a gradient step on ½‖x − Φa‖²."""
        return lambda codes: codes + rate * self.analyse(x - self.synthesise(codes))

    @abstractmethod
    def gradient(self, error: Samples, codes: Codes) -> Phi:
        """Compute the mean of (x − Φa)aᵀ, the negative gradient of the reconstruction error, as Φ[l, m, n].

        Args:
            error: x − Φa.
            codes: Codes a.

        Returns:
            The mean over samples. If samples are larger than atoms, the sum over samples is divided by the number of
            atoms that fit side by side into all samples.
        """

    def total(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Sum the values over the processes that share the groups; in this class there is one process."""
        return values

    def largest(self, values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return the maximum of the values over the processes that share the groups."""
        return values


def longest_atom(atoms: Float[Tensor, "atoms *kernel"]) -> float:
    """Compute the length of the longest atom."""
    return float(torch.linalg.vector_norm(atoms.flatten(1), dim=1).max())


def largest_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """Bound the largest eigenvalue of a positive matrix from above, to about eight per cent, with the Lanczos method.

    Args:
        product: v ↦ Av.
        start: A random vector, of any shape.

    Raises:
        OptionError: If the matrix is not finite.

    Returns:
        The largest Ritz value after at most 10 products, enlarged by eight per cent. From a random start, its expected
        relative error is at most 0.1·(ln N/9)², below 8 % for N up to 3000, for any gaps between the eigenvalues.

    References:
        Kuczyński and Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random
        start", 1992.
    """
    tiny = torch.finfo(start.dtype).tiny
    vector = start.double().reshape(-1)
    count = min(_PRODUCTS, vector.numel())
    basis = vector.new_zeros((count + 1, vector.numel()))
    basis[0] = vector / torch.linalg.vector_norm(vector)
    tridiagonal = vector.new_zeros((count, count))
    for k in range(count):
        image = product(basis[k].to(start.dtype).view_as(start)).double().reshape(-1)
        inner = basis[: k + 1] @ image
        tridiagonal[k, k] = inner[k]
        image = image - inner @ basis[: k + 1]
        image = image - (basis[: k + 1] @ image) @ basis[: k + 1]  # again, against rounding errors
        length = torch.linalg.vector_norm(image)
        if k + 1 < count:
            tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = length
        if not length > 1e-6 * tridiagonal[0, 0].abs():
            tridiagonal = tridiagonal[: k + 1, : k + 1]
            break
        torch.div(image, length, out=basis[k + 1])
    if not bool(tridiagonal.isfinite().all()):
        raise OptionError("atoms must be finite, and so must their products; got NaN, infinity, or numbers too large")
    return max(_MARGIN * float(torch.linalg.eigvalsh(tridiagonal)[-1]), tiny)
