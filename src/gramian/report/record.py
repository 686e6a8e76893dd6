"""What a report is made from: everything measured, and nothing drawn yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gramian.coding import Control, GaborAgreement, GaborFit, GroupPlanes, GroupState, PhaseResponse
from gramian.typing import Phi

__all__ = ["HeldOutPicture", "LearningRecord"]

Picture = Float[Tensor, "height width *channels"]


@dataclass(frozen=True)
class HeldOutPicture:
    """A picture that learning never saw, coded with the learned dictionary.

    Attributes:
        name: Name of the picture.
        whole: Height and width of the picture, of which the upper left part may be coded.
        original: Grey values in [0, 1], of the part that is coded.
        whitened: The whitened picture, in units of the patches' standard deviation.
        whitened_reconstruction: What the codes say of it.
        reconstruction: The same as grey values.
        snr: Signal-to-noise ratio of whole codes on the samples of this picture, all its overlapping patches, dB.
        active_groups: Mean number of active groups of a patch.
        amplitudes: ‖a_i‖ of every group at every place.
        directions: a_i/‖a_i‖ of every group at every place; 0 where it is silent.
    """

    name: str
    whole: tuple[int, int]
    original: Picture
    whitened: Picture
    whitened_reconstruction: Picture
    reconstruction: Picture
    snr: float
    active_groups: float
    amplitudes: Float[Tensor, "m rows columns"]
    directions: Float[Tensor, "m n rows columns"]


@dataclass(frozen=True)
class LearningRecord:
    """A learning run, ready to be drawn.

    Attributes:
        title: Heading of the report.
        settings: The settings of the run, in the order to be shown.
        versions: Names and versions of what it ran on.
        steps: How many steps were made, of how many.
        patch: Side of a patch, pixels.
        channels: Numbers of a pixel: 1, or 3 for colours.
        initial_phi: The dictionary before the first step.
        phi: The learned dictionary.
        lam: Sparsity λ as it is after learning, with which everything here is inferred.
        images: Where the pictures are; None for those that packages ship.
        usage: Mean amplitude of every group on held-out patches.
        state: State of the groups.
        metrics: Rows of metrics.
        patches: On how many held-out patches the two ratios and the use of groups are measured.
        active: Number of coefficients at which the two ratios are taken.
        snr_active: SNR with as many coefficients, dB.
        snr_debiased: The same after least squares on the support, dB.
        held_out: A coded picture.
        shift: Correlations of responses under a shift, by the number of pixels.
        phase: Responses to gratings of every phase.
        planes: The plane within each group that codes of held-out patches use most; None for single atoms.
        gabor: The Gabor functions nearest to the atoms; nan where none was fitted, which the least used groups of a
            large dictionary are.
        agreement: How alike those of a group are.
    """

    title: str
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    steps: tuple[int, int]
    patch: int
    channels: int
    initial_phi: Phi
    phi: Phi
    lam: float
    images: str | None
    usage: Float[Tensor, " m"]
    state: GroupState
    metrics: Sequence[Mapping[str, float]]
    patches: int
    active: int
    snr_active: float
    snr_debiased: float
    held_out: HeldOutPicture
    shift: Mapping[int, Control]
    phase: PhaseResponse
    planes: GroupPlanes | None
    gabor: GaborFit
    agreement: GaborAgreement

    @property
    def grey_phi(self) -> Phi:
        """The dictionary with the mean of the channels of every pixel."""
        return self.phi.unflatten(0, (self.patch**2, self.channels)).mean(dim=1)
