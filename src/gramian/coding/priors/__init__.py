"""Priors over codes, which define how likely each group is to be active, and with what amplitude."""

from gramian.coding.priors.prior import GroupLaplace, Prior, group_soft_threshold
from gramian.coding.priors.scale_mixture import LaplacianScaleMixture
from gramian.coding.priors.spike_slab import GroupL0, SpikeSlab
from gramian.errors import OptionError

__all__ = [
    "PRIORS",
    "GroupL0",
    "GroupLaplace",
    "LaplacianScaleMixture",
    "Prior",
    "SpikeSlab",
    "as_prior",
    "group_soft_threshold",
]

PRIORS: dict[str, Prior] = {
    "group_laplace": GroupLaplace(),
    "nonnegative": GroupLaplace(nonnegative=True),
    "scale_mixture": LaplacianScaleMixture(),
    "group_l0": GroupL0(),
    "spike_slab": SpikeSlab(),
}
"""The priors by name."""


def as_prior(prior: str | Prior) -> Prior:
    """Look up a prior by name; return a `Prior` unchanged.

    Args:
        prior: Name or `Prior`.

    Returns:
        The prior.

    Raises:
        OptionError: If no prior has that name.

    Examples:
        >>> from gramian.coding import as_prior
        >>> as_prior("nonnegative").nonnegative
        True
    """
    if isinstance(prior, Prior):
        return prior
    if not isinstance(prior, str) or prior not in PRIORS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(f"prior must be one of {', '.join(map(repr, PRIORS))} or a Prior; got {prior!r}")
    return PRIORS[prior]
