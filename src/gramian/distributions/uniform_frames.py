"""The uniform distribution of orthonormal frames, and the constraint that a matrix is one."""

# torch declares arg_constraints and support as properties; its distributions replace them by class attributes.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from gramian.coding.priors.radial import log_sphere
from gramian.errors import OptionError
from gramian.options import whole_number

__all__ = ["OrthonormalColumns", "UniformFrames"]


class OrthonormalColumns(constraints.Constraint):
    """Matrices [l, n] with ΦᵀΦ = I up to rounding: no entry of ΦᵀΦ − I exceeds 8√l·ε, with ε of the dtype of Φ.

    The products are in float64. Frames from a QR decomposition, from a singular value decomposition, from
    `torch.nn.init.orthogonal_` and from `gramian.orthogonalize` are within this bound in their dtype.
    """

    is_discrete = False
    event_dim = 2

    def __repr__(self) -> str:  # that of torch omits the first letter of a class
        return "OrthonormalColumns()"

    def check(self, value: Float[Tensor, "*batch l n"]) -> Bool[Tensor, "*batch"]:
        """Return whether each matrix has orthonormal columns."""
        wide = value.double()
        residual = wide.mT @ wide - torch.eye(value.shape[-1], dtype=wide.dtype, device=wide.device)
        tolerance = 8 * value.shape[-2] ** 0.5 * torch.finfo(value.dtype).eps
        return (residual.abs() <= tolerance).all(dim=-1).all(dim=-1)


class UniformFrames(Distribution):
    r"""The uniform (Haar) distribution on the Stiefel manifold V of frames Φ[l, n] with ΦᵀΦ = I.

    If Φ is uniform, so is QΦR for all orthogonal Q and R. A sample is the polar factor of a matrix of independent
    normal variates, which has exactly this invariance.

    `log_prob` is the constant −log vol(V), with respect to the Hausdorff measure of V in the Euclidean metric of the
    matrix entries, ‖dΦ‖_F:

        vol(V) = 2^{n(n−1)/4} · Π_{k=l−n+1}^{l} area(S^{k−1})    with    area(S^{k−1}) = 2π^{k/2}/Γ(k/2).

    The product is the volume for the metric in which each rotation within the frame counts once (Muirhead, Theorem
    2.1.15). In ‖dΦ‖_F each of the n(n−1)/2 rotations moves two columns, so it is longer by √2 (Edelman et al., section
    2.4.1). Densities for that other measure differ by the constant n(n−1)/4·log 2. Without validation, `log_prob`
    does not check that a value is a frame.

    Args:
        length: Length l of the vectors.
        size: Number n ≤ l of vectors of a frame; the event shape is [l, n].
        dtype: Dtype of samples, by default torch's default. They are computed in float64 and rounded.
        device: Device of samples, by default torch's default.
        validate_args: Whether to check values, as for all distributions of torch.

    Raises:
        OptionError: If a size is not a positive whole number, or n > l.

    Cost:
        A singular value decomposition in float64 for each sample, O(l·n²); O(1) for a density, O(l·n²) with validation.

    Examples:
        >>> import torch
        >>> frames = UniformFrames(8, 3)
        >>> phi = frames.sample((5,))
        >>> phi.shape, frames.support.check(phi).tolist()
        (torch.Size([5, 8, 3]), [True, True, True, True, True])
        >>> circle = UniformFrames(2, 1)
        >>> torch.allclose(circle.entropy().exp(), torch.tensor(2 * torch.pi))
        True

    References:
        Muirhead, "Aspects of multivariate statistical theory", 1982; Chikuse, "Statistics on special manifolds", 2003,
        Theorem 2.2.1; Edelman, Arias and Smith, "The geometry of algorithms with orthogonality constraints", 1998.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  # as in torch
    support = OrthonormalColumns()
    has_rsample = True

    def __init__(
        self,
        length: int,
        size: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.length, self.size = whole_number(length, name="length"), whole_number(size, name="size")
        if self.size > self.length:
            raise OptionError(
                f"size must be at most length for vectors to be orthonormal; got {size} vectors of length {length}; "
                f"try size={length}"
            )
        # An empty tensor, which holds the dtype and the device.
        self._like = torch.empty(0, dtype=dtype, device=device)
        super().__init__(torch.Size(), torch.Size([self.length, self.size]), validate_args=validate_args)

    def __repr__(self) -> str:
        return f"UniformFrames(length: {self.length}, size: {self.size})"

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "UniformFrames":
        """Return the distribution of independent frames of this batch shape."""
        new = cast("UniformFrames", self._get_checked_instance(UniformFrames, _instance))
        new.length, new.size, new._like = self.length, self.size, self._like
        shape = torch.empty(self.batch_shape, device="meta").expand(torch.Size(batch_shape)).shape
        super(UniformFrames, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Float[Tensor, "*batch l n"]:
        """The mean, 0."""
        return self._like.new_zeros(()).expand(self._extended_shape())

    @property
    def variance(self) -> Float[Tensor, "*batch l n"]:
        """The variance of each entry, 1/l; different entries are uncorrelated."""
        return self._like.new_full((), 1 / self.length).expand(self._extended_shape())

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*samples l n"]:
        """Draw frames [*sample_shape, *batch, l, n]. There are no parameters, so samples have no gradient."""
        shape = self._extended_shape(torch.Size(sample_shape))
        normal = torch.randn(shape, dtype=torch.float64, device=self._like.device)
        left, _, right = torch.linalg.svd(normal, full_matrices=False)
        frames = left @ right
        # One Newton–Schulz step: the decomposition leaves an error of about ten ε.
        frames = 1.5 * frames - 0.5 * frames @ (frames.mT @ frames)
        return frames.to(self._like.dtype)

    def log_prob(self, value: Float[Tensor, "*samples l n"]) -> Float[Tensor, "..."]:
        """Compute −log vol(V) for frames [*samples, l, n]; the result has the shape of samples and batch, broadcast."""
        if self._validate_args:
            self._validate_sample(value)
        return value.new_full(torch.broadcast_shapes(value.shape[:-2], self.batch_shape), -self._log_volume())

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Compute log vol(V), the entropy with respect to the measure of `log_prob`."""
        return self._like.new_full((), self._log_volume()).expand(self.batch_shape)

    def _log_volume(self) -> float:
        spheres = sum(log_sphere(k) for k in range(self.length - self.size + 1, self.length + 1))
        return spheres + self.size * (self.size - 1) / 4 * math.log(2)
