"""The linear map from codes to samples, x = Σ_i Φ_i a_i, for dictionaries of every kind."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from gramian.coding.prior import Codes, dictionary_matrix
from gramian.errors import OptionError, ShapeError
from gramian.typing import Phi

__all__ = ["Convolution", "Dense", "Synthesis", "as_synthesis"]

Samples = Float[Tensor, "batch *shape"]

_TF32 = 2.0**-10
"""Unit of rounding of products in TF32, which CUDA may take for those of float32."""

_PRODUCTS, _MARGIN = 10, 1.08
"""How many products an estimate of an eigenvalue takes, and how much it, which is from below, is enlarged."""


class Synthesis(ABC):
    """A linear map from codes [batch, m, n, …] to samples [batch, …], with its transpose."""

    @abstractmethod
    def zeros(self, x: Samples) -> Codes:
        """Give codes of zero for samples.

        Raises:
            ShapeError: If the samples do not fit the atoms.
        """

    @abstractmethod
    def synthesise(self, codes: Codes) -> Samples:
        """Give Σ_i Φ_i a_i."""

    @abstractmethod
    def analyse(self, x: Samples) -> Codes:
        """Give the correlations Φᵀx."""

    def bound(self, x: Samples) -> float:
        """Bound the largest eigenvalue of ΦᵀΦ, which is that of ΦΦᵀ, from above, to about eight per cent.

        It is looked for in the space of samples, which is the same however groups are spread over processes.
        """
        start = torch.randn((1, *x.shape[1:]), generator=torch.Generator().manual_seed(0), device="cpu").to(x)
        return largest_eigenvalue(lambda v: self.synthesise(self.analyse(v)), start)

    def longest(self, x: Samples) -> float:
        """Bound the length of the longest atom from above."""
        return self.bound(x) ** 0.5

    def roundoff(self, x: Samples) -> float:
        """Give the unit of rounding of products with the dictionary, which some devices make coarser than numbers."""
        coarse = x.is_cuda and x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
        return _TF32 if coarse else torch.finfo(x.dtype).eps

    def descent(self, x: Samples, rate: float) -> Callable[[Codes], Codes]:
        """Give the map a ↦ a + rate·Φᵀ(x − Φa): a gradient step on ½‖x − Φa‖²."""
        return lambda codes: codes + rate * self.analyse(x - self.synthesise(codes))

    @abstractmethod
    def gradient(self, error: Samples, codes: Codes) -> Phi:
        """Give the mean of (x − Φa)aᵀ: where atoms are pulled, as Φ[l, m, n].

        Args:
            error: x − Φa.
            codes: Codes a.

        Returns:
            The mean over samples; of larger samples, which atoms are placed in, over as many parts as atoms would cover
            side by side.
        """

    def total(self, each: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Sum what each holder of groups has, over the holders; here there is one."""
        return each

    def largest(self, each: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Give the largest of what each holder of groups has."""
        return each


class Dense(Synthesis):
    """Atoms as long as samples.

    The gradient goes through the Gram matrix of all atoms where that is cheaper: m·n ≤ 2l.

    Args:
        phi: Φ[l, m, n].

    Examples:
        >>> import torch
        >>> dense = Dense(torch.eye(4).reshape(4, 2, 2))
        >>> dense.synthesise(torch.ones(1, 2, 2)).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, phi: Phi) -> None:
        self.phi = phi
        self.groups = phi.shape[1:]
        self.D = dictionary_matrix(phi)
        self.by_gram = self.D.shape[1] <= 2 * self.D.shape[0]
        self._gram: Tensor | None = None

    @property
    def gram(self) -> Float[Tensor, "atoms atoms"]:
        """The Gram matrix of all atoms."""
        if self._gram is None:
            self._gram = self.D.mT @ self.D
        return self._gram

    def zeros(self, x: Samples) -> Codes:
        if x.ndim != 2 or x.shape[1] != self.D.shape[0]:
            raise ShapeError(
                f"samples must have shape [batch, {self.D.shape[0]}], the length of an atom; got {list(x.shape)}"
            )
        return x.new_zeros((x.shape[0], *self.groups))

    def synthesise(self, codes: Codes) -> Samples:
        return codes.flatten(1) @ self.D.mT

    def analyse(self, x: Samples) -> Codes:
        return (x @ self.D).unflatten(1, self.groups)

    def longest(self, x: Samples) -> float:  # noqa: ARG002
        return _longest(self.D.mT)

    def gradient(self, error: Samples, codes: Codes) -> Phi:
        return (error.mT @ codes.flatten(1)).div_(len(error)).view(self.phi.shape)

    def descent(self, x: Samples, rate: float) -> Callable[[Codes], Codes]:
        pull = rate * (x @ self.D)
        if self.by_gram:
            move = torch.eye(self.gram.shape[0], dtype=x.dtype, device=x.device) - rate * self.gram
            return lambda codes: torch.addmm(pull, codes.flatten(1), move).unflatten(1, self.groups)

        def through_samples(codes: Codes) -> Codes:
            flat = codes.flatten(1)
            return torch.addmm(flat + pull, flat @ self.D.mT, self.D, alpha=-rate).unflatten(1, self.groups)

        return through_samples


class Convolution(Synthesis):
    """Atoms smaller than samples, placed everywhere: x is the sum of all atoms at all places, times their coefficients.

    Args:
        weight: Kernels [m·n, channels, height, width], group by group, as `torch.nn.Conv2d` holds them.
        group_size: Atoms in a group, n.
        stride: Distance of places, pixels.

    Raises:
        ShapeError: If the kernels cannot be cut into groups.

    Examples:
        >>> import torch
        >>> atoms = Convolution(torch.randn(8, 1, 5, 5), group_size=2)
        >>> atoms.analyse(torch.randn(3, 1, 20, 20)).shape  # [batch, m, n, rows, columns]
        torch.Size([3, 4, 2, 16, 16])
    """

    def __init__(self, weight: Float[Tensor, "atoms channels height width"], group_size: int, stride: int = 1) -> None:
        if weight.ndim != 4 or weight.shape[0] % group_size:
            raise ShapeError(
                f"kernels must have shape [m·n, channels, height, width] with groups of {group_size}; got "
                f"{list(weight.shape)}"
            )
        if stride < 1:
            raise ShapeError(f"stride must be at least 1 pixel; got {stride}")
        self.weight = weight
        self.groups = (weight.shape[0] // group_size, group_size)
        self.stride = stride

    @classmethod
    def of(cls, phi: Phi, kernel: tuple[int, int, int], stride: int = 1) -> "Convolution":
        """Place the atoms of Φ[l, m, n] everywhere.

        Args:
            phi: The atoms, each a kernel as one vector.
            kernel: Shape of an atom, (channels, height, width).
            stride: Distance of places, pixels.

        Raises:
            ShapeError: If atoms do not have as many numbers as a kernel.

        Examples:
            >>> import torch
            >>> Convolution.of(torch.randn(25, 4, 2), (1, 5, 5)).weight.shape
            torch.Size([8, 1, 5, 5])
        """
        length, m, n = phi.shape
        if math.prod(kernel) != length:
            raise ShapeError(f"kernels of shape {list(kernel)} have {math.prod(kernel)} numbers; got atoms of {length}")
        return cls(phi.permute(1, 2, 0).reshape(m * n, *kernel), n, stride)

    def zeros(self, x: Samples) -> Codes:
        channels, *kernel = self.weight.shape[1:]
        if x.ndim != 4 or x.shape[1] != channels or min(a - b for a, b in zip(x.shape[2:], kernel, strict=True)) < 0:
            raise ShapeError(
                f"samples must have shape [batch, {channels}, height, width], at least {kernel[0]} × {kernel[1]}; got "
                f"{list(x.shape)}"
            )
        if any((a - b) % self.stride for a, b in zip(x.shape[2:], kernel, strict=True)):
            raise ShapeError(
                f"kernels at a distance of {self.stride} must cover a sample whole; got samples of {list(x.shape[2:])} "
                f"and kernels of {kernel}; try stride=1, or cut the samples"
            )
        places = [(a - b) // self.stride + 1 for a, b in zip(x.shape[2:], kernel, strict=True)]
        return x.new_zeros((x.shape[0], *self.groups, *places))

    def synthesise(self, codes: Codes) -> Samples:
        return functional.conv_transpose2d(codes.flatten(1, 2), self.weight, stride=self.stride)

    def analyse(self, x: Samples) -> Codes:
        return functional.conv2d(x, self.weight, stride=self.stride).unflatten(1, self.groups)

    def longest(self, x: Samples) -> float:  # noqa: ARG002
        return _longest(self.weight)

    def roundoff(self, x: Samples) -> float:
        coarse = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
        return _TF32 if coarse else super().roundoff(x)

    def gradient(self, error: Samples, codes: Codes) -> Phi:
        pull = conv2d_weight(error, list(self.weight.shape), codes.flatten(1, 2), stride=self.stride)
        pull /= error.numel() / self.weight[0].numel()
        return pull.view(*self.groups, -1).permute(2, 0, 1).contiguous()


def as_synthesis(phi: Phi | Synthesis) -> Synthesis:
    """Turn a dictionary Φ[l, m, n] into the map it stands for; a `Synthesis` is one already."""
    return phi if isinstance(phi, Synthesis) else Dense(phi)


def _longest(atoms: Float[Tensor, "atoms *kernel"]) -> float:
    return float(torch.linalg.vector_norm(atoms.flatten(1), dim=1).max())


def largest_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """Bound the largest eigenvalue of a positive matrix from above, to about eight per cent, by the Lanczos method.

    Args:
        product: v ↦ Av.
        start: A random vector, of any shape.

    Raises:
        OptionError: If the matrix is not finite.

    Returns:
        The largest Ritz value after at most 10 products, enlarged by eight per cent: from a random start it is low by
        0.1·(ln N/9)² at most in expectation, below 8 % for N up to 3000, however near to each other eigenvalues are.

    References:
        Kuczyński and Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with a random
        start", 1992.
    """
    tiny = torch.finfo(start.dtype).tiny
    wide = start.double().reshape(-1)
    count = min(_PRODUCTS, wide.numel())
    basis = wide.new_zeros((count + 1, wide.numel()))
    basis[0] = wide / torch.linalg.vector_norm(wide)
    tridiagonal = wide.new_zeros((count, count))
    for k in range(count):
        image = product(basis[k].to(start.dtype).view_as(start)).double().reshape(-1)
        inner = basis[: k + 1] @ image
        tridiagonal[k, k] = inner[k]
        image = image - inner @ basis[: k + 1]
        image = image - (basis[: k + 1] @ image) @ basis[: k + 1]  # once is not enough for rounding
        length = torch.linalg.vector_norm(image)
        if k + 1 < count:
            tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = length
        if not length > 1e-6 * tridiagonal[0, 0].abs():
            tridiagonal = tridiagonal[: k + 1, : k + 1]
            break
        torch.div(image, length, out=basis[k + 1])
    if not bool(tridiagonal.isfinite().all()):
        raise OptionError("atoms must be finite, and their products too; got NaN, infinity, or numbers too large")
    return max(_MARGIN * float(torch.linalg.eigvalsh(tridiagonal)[-1]), tiny)
