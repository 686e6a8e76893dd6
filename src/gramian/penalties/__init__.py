"""The penalty family: functions μ(X) of the Gram residual X = PᵀP − I, each a value, a subgradient and a prox."""

from gramian.errors import OptionError
from gramian.penalties.base import Penalty
from gramian.penalties.combinations import Scaled, Sum
from gramian.penalties.cosine import Cosine
from gramian.penalties.entrywise import L1, Elementwise, Huber, SquaredFrobenius
from gramian.penalties.logdet import LogDet
from gramian.penalties.norms import Coherence, Frobenius, Spectral
from gramian.penalties.pairs import TargetGram, Weighted

__all__ = [
    "L1",
    "PENALTIES",
    "Coherence",
    "Cosine",
    "Elementwise",
    "Frobenius",
    "Huber",
    "LogDet",
    "Penalty",
    "Scaled",
    "Spectral",
    "SquaredFrobenius",
    "Sum",
    "TargetGram",
    "Weighted",
    "as_penalty",
]

PENALTIES: dict[str, Penalty] = {
    "l1": L1(),
    "huber": Huber(),
    "squared_frobenius": SquaredFrobenius(),
    "frobenius": Frobenius(),
    "spectral": Spectral(),
    "coherence": Coherence(),
    "logdet": LogDet(),
}
"""The penalties that can be chosen by name, with default parameters."""


def as_penalty(penalty: str | Penalty) -> Penalty:
    """Return the penalty with this name; a `Penalty` is returned unchanged.

    Args:
        penalty: Name or `Penalty`.

    Returns:
        The penalty.

    Raises:
        OptionError: If there is no penalty of that name.

    Examples:
        >>> from gramian.penalties import as_penalty
        >>> as_penalty("l1")
        L1(diagonal=True)
    """
    if isinstance(penalty, str) and penalty in PENALTIES:
        return PENALTIES[penalty]
    if not isinstance(penalty, Penalty):
        if isinstance(penalty, type) and issubclass(penalty, Penalty):
            raise OptionError(
                f"penalty must be an object; got the class {penalty.__name__}; try penalty={penalty.__name__}(...)"
            )
        raise OptionError(
            f"penalty must be one of {', '.join(map(repr, PENALTIES))} or a gramian.Penalty; got {penalty!r}"
        )
    return penalty
