"""Measure dictionaries of pictures: Gabor functions of atoms, and how codes change over phase and shift."""

from gramian.errors import needs_extra

with needs_extra("gramian.images", "coding"):
    from gramian.images.evaluation.gabor import GaborFit, fit_gabor
    from gramian.images.evaluation.gabor_agreement import GaborAgreement, GaborSpread, group_agreement
    from gramian.images.evaluation.invariance import (
        Control,
        PhaseResponse,
        gratings,
        phase_response,
        random_groups,
        shift_control,
    )

__all__ = [
    "Control",
    "GaborAgreement",
    "GaborFit",
    "GaborSpread",
    "PhaseResponse",
    "fit_gabor",
    "gratings",
    "group_agreement",
    "phase_response",
    "random_groups",
    "shift_control",
]
