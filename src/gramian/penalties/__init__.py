"""The penalty family: functions μ(X) of the Gram residual X = PᵀP − I, each a value, a dual and a shrink."""

from gramian.errors import OptionError
from gramian.penalties.base import ElementwisePenalty, Penalty
from gramian.penalties.coherence import Coherence
from gramian.penalties.cosine import Cosine
from gramian.penalties.elementwise import Elementwise
from gramian.penalties.frobenius import Frobenius
from gramian.penalties.huber import Huber
from gramian.penalties.l1 import L1
from gramian.penalties.logdet import LogDet
from gramian.penalties.spectral import Spectral
from gramian.penalties.squared_frobenius import SquaredFrobenius
from gramian.penalties.sums import Scaled, Sum
from gramian.penalties.target import Target
from gramian.penalties.weighted import Weighted

__all__ = [
    "L1",
    "PENALTIES",
    "Coherence",
    "Cosine",
    "Elementwise",
    "ElementwisePenalty",
    "Frobenius",
    "Huber",
    "LogDet",
    "Penalty",
    "Scaled",
    "Spectral",
    "SquaredFrobenius",
    "Sum",
    "Target",
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
"""The penalties that have a name, with their default parameters."""


def as_penalty(penalty: str | Penalty) -> Penalty:
    """Turn a name or a `Penalty` into a `Penalty`.

    Raises:
        OptionError: If there is no penalty of that name.
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
