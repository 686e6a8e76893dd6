"""Measure what the page shows of the features of a dictionary, on held-out samples."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.activations.evaluation.description import DescriptionLength, description_length
from gramian.activations.evaluation.encoded import Encoder, encode_samples
from gramian.activations.evaluation.geometry import circularity, code_moments, code_planes, effective_dimension
from gramian.activations.evaluation.neighbours import NearestSubspaces, nearest_subspaces
from gramian.activations.evaluation.points import Points, select_points
from gramian.activations.evaluation.together import CoActivation, coactivation
from gramian.typing import GroupScalars, Phi

__all__ = ["FeatureRecord", "feature_record"]

_BINS = 24


@dataclass(frozen=True, eq=False, repr=False)
class FeatureRecord:
    """Measurements of features; a feature is a group of the dictionary.

    Attributes:
        samples: Number of encoded samples.
        shape: Length l of a sample, number of features m, and size n of a group.
        unexplained: Σ‖x − Φa‖²/Σ‖x‖², the fraction of the variance that is not explained.
        active: Mean number of active features of a sample.
        dead: Fraction of the features that no sample uses.
        description: Bits of a sample.
        frequency: Fraction of the samples in which each feature is active.
        strength: Mean amplitude ‖a_i‖ of each feature while it is active; 0 for dead ones.
        largest: Largest amplitude of each feature.
        histogram: Number of samples of each feature by amplitude, in equal bins from 0 to the largest.
        dimension: Effective dimension: the participation ratio of the eigenvalues of E[a_i a_iᵀ], from 1 to n; 0 for
            dead features.
        axes: The principal plane of the codes of each feature.
        share: Fraction of the power of its codes in that plane.
        circularity: How much its codes lie on a circle in that plane, from 0 to 1.
        points: Some samples of each feature and their places in the plane.
        nearest: The features whose subspaces are nearest to each.
        together: The features that are active at the same time more often than independent ones.
    """

    samples: int
    shape: tuple[int, int, int]
    unexplained: float
    active: float
    dead: float
    description: DescriptionLength
    frequency: GroupScalars
    strength: GroupScalars
    largest: GroupScalars
    histogram: Int[Tensor, "m bins"]
    dimension: GroupScalars
    axes: Float[Tensor, "m n 2"]
    share: GroupScalars
    circularity: GroupScalars
    points: Points
    nearest: NearestSubspaces
    together: CoActivation

    @property
    def utilisation(self) -> GroupScalars:
        """Effective dimension of each feature, divided by n."""
        return self.dimension / self.shape[2]

    @property
    def mean_dimension(self) -> float:
        """Mean effective dimension of the features that are active in at least n samples; nan if there are none."""
        enough = self.frequency * self.samples >= self.shape[2] - 0.5
        return float(self.dimension[enough].mean())

    def __repr__(self) -> str:
        return (
            f"FeatureRecord({self.shape[1]} features of {self.shape[2]} dimensions, {self.samples} samples: "
            f"{self.unexplained:.2%} unexplained, {self.active:.3g} active, {self.dead:.1%} dead, "
            f"{self.description.total:.4g} bits, effective dimension {self.mean_dimension:.3g})"
        )


@torch.no_grad()
def feature_record(
    batches: Iterable[Tensor], phi: Phi, encode: Encoder, *, listed: int = 12, drawn: int = 120, seed: int = 0
) -> FeatureRecord:
    """Measure the features of a dictionary on samples.

    Args:
        batches: Held-out samples [batch, l], prepared as for training.
        phi: The dictionary Φ[l, m, n], with orthonormal groups.
        encode: Returns the sparse codes of a batch.
        listed: Number of listed samples of each feature, at all angles in its plane.
        drawn: Number of samples of each feature that are drawn in its plane.
        seed: Seed of the selection of drawn samples.

    Raises:
        ShapeError: If codes do not fit the dictionary or the samples.
        DataError: If there is no sample, or a number is not finite.

    Cost:
        Encoding, 2·l·(m·n)² flops for the nearest subspaces, and l³ for the eigenvalues of the samples' covariance.
        Memory in proportion to the active groups of all samples and to m, never for dense codes or all pairs of groups.

    Examples:
        >>> from gramian.coding import ManifoldSum, SparseCodes
        >>> data = ManifoldSum(32, n_factors=8, active=2)
        >>> samples, phi = data.draw(2000, seed=1), data.phi.float()
        >>> feature_record([samples.x], phi, lambda x: SparseCodes.of(samples.codes))
        FeatureRecord(8 features of 3 dimensions, 2000 samples: 0.00% unexplained, 2 active, 0.0% dead, ... bits,
        effective dimension 1.65)
    """
    codes = encode_samples(batches, phi, encode)
    moments = code_moments(codes)
    planes = code_planes(codes, moments)
    m, counts, strengths = codes.n_groups, codes.counts, codes.strengths
    total = torch.zeros(m, dtype=torch.float64).index_add_(0, codes.group, strengths.double())
    largest = torch.zeros(m).scatter_reduce_(0, codes.group, strengths, "amax")
    bins = (strengths / largest[codes.group] * _BINS).long().clamp_max(_BINS - 1)
    return FeatureRecord(
        samples=codes.samples,
        shape=(phi.shape[0], phi.shape[1], phi.shape[2]),
        unexplained=codes.error / codes.power if codes.power else 0.0,
        active=len(codes.group) / codes.samples,
        dead=float((counts == 0).double().mean()),
        description=description_length(codes, moments),
        frequency=counts.double() / codes.samples,
        strength=total / counts.clamp_min(1),
        largest=largest,
        histogram=(codes.group * _BINS + bins).bincount(minlength=m * _BINS).view(m, _BINS),
        dimension=effective_dimension(moments.second),
        axes=planes.axes,
        share=planes.share,
        circularity=circularity(codes, planes),
        points=select_points(codes, planes, listed=listed, drawn=drawn, seed=seed),
        nearest=nearest_subspaces(phi),
        together=coactivation(codes),
    )
