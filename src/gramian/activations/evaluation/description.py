r"""Description length: the bits that transmit the active groups and the codes of a sample."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.activations.evaluation.encoded import EncodedSamples
from gramian.activations.evaluation.geometry import CodeMoments

__all__ = ["DescriptionLength", "description_length", "gaussian_bits"]

_EXACT = 1e-6
"""Smallest error of the described codes, relative to the power; without an error they need infinitely many bits."""


@dataclass(frozen=True)
class DescriptionLength:
    """Mean number of bits of a sample.

    Attributes:
        support: Bits that say which groups are active.
        codes: Bits of the coefficients of the active groups.
        gaussian: Bits of a Gaussian code of the samples with their covariance, without a dictionary, at the same error.
        distortion: Mean square error D of a coefficient.
    """

    support: float
    codes: float
    gaussian: float
    distortion: float

    @property
    def total(self) -> float:
        """Bits of the support and of the codes."""
        return self.support + self.codes


def description_length(codes: EncodedSamples, moments: CodeMoments) -> DescriptionLength:
    r"""Compute how many bits describe a sample by its active groups and their codes.

    The error D = E‖x − Φa‖²/l of an entry is the precision to which codes are described. The support needs
    Σ_i H(p_i) bits: whether group i is active is coded separately, with its frequency p_i and H(p) = −p log₂ p − (1 −
    p) log₂(1 − p). The coefficients of an active group need Σ_j max(0, ½ log₂(λ_ij/D)) bits, where λ_ij are the
    eigenvalues of the covariance of the group's codes while it is active: the rate of a Gaussian source at error D, an
    upper bound for any distribution of this covariance. Rounding to multiples of √(12 D), with an entropy code, needs
    about ¼ bit more for each coefficient. For comparison, `gaussian` describes the samples themselves as a Gaussian
    source with their covariance, at the same total error, the sum of that of the reconstruction and that of the codes.

    The dictionary is not counted, as it is transmitted once. Frames are assumed to be orthonormal, so that errors of
    codes are errors of samples.

    Args:
        codes: The codes of samples.
        moments: The moments of these codes.

    Cost:
        O(l³ + m·n³) flops.

    References:
        Ayonrinde, Pearce and Sharkey, "Interpretability as compression: reconsidering SAE explanations of neural
        activations with MDL-SAEs", arXiv 2410.11179, 2024; Cover and Thomas, "Elements of information theory", 2006,
        chapter 10.
    """
    length = len(codes.covariance)
    frequency = codes.counts.double() / codes.samples
    off = 1 - frequency
    support = (torch.special.entr(frequency) + torch.special.entr(off)).sum() / torch.log(frequency.new_tensor(2.0))
    distortion = max(codes.error, _EXACT * codes.power) / (codes.samples * length)
    covariance = moments.second - moments.mean[:, :, None] * moments.mean[:, None]
    variances = torch.linalg.eigvalsh(covariance).clamp_min(0)
    rate = gaussian_bits(variances, distortion).sum(dim=1)
    error = distortion * length + float(frequency @ variances.clamp_max(distortion).sum(dim=1))
    powers = torch.linalg.eigvalsh(codes.covariance).clamp_min(0)
    level = _water_level(powers, error)
    gaussian = float(gaussian_bits(powers, level).sum()) if level > 0 else 0.0
    return DescriptionLength(float(support), float(frequency @ rate), gaussian, distortion)


def gaussian_bits(variances: Float[Tensor, "*shape"], distortion: float) -> Float[Tensor, "*shape"]:
    """Compute max(0, ½ log₂(variance/distortion)), the rate of Gaussian sources at a mean square error.

    Examples:
        >>> gaussian_bits(torch.tensor([16.0, 1.0, 0.5]), 1.0).tolist()
        [2.0, 0.0, 0.0]
    """
    return 0.5 * (variances / (distortion or 1.0)).clamp_min(1).log2()


def _water_level(powers: Float[Tensor, " l"], error: float) -> float:
    """Return the level θ with Σ_k min(θ, σ_k²) = error: reverse water-filling."""
    ascending = powers.sort().values
    rest = len(ascending) - torch.arange(len(ascending), dtype=ascending.dtype)
    # With θ at the k-th smallest power, k smaller ones contribute themselves, and the others θ each.
    filled = ascending.cumsum(dim=0) - ascending + ascending * rest
    place = int(torch.searchsorted(filled, error))
    if place == len(ascending):
        return float(ascending[-1])
    return (error - float(ascending[:place].sum())) / float(rest[place])
