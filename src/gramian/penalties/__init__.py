"""The penalty family: functions μ(X) of the Gram residual X = PᵀP − I, each a value, a dual and a shrink."""

from gramian.errors import OptionError
from gramian.penalties.base import ElementwisePenalty, Penalty
from gramian.penalties.huber import Huber
from gramian.penalties.l1 import L1
from gramian.penalties.squared_frobenius import SquaredFrobenius

__all__ = ["L1", "PENALTIES", "ElementwisePenalty", "Huber", "Penalty", "SquaredFrobenius", "as_penalty"]

PENALTIES: dict[str, Penalty] = {"l1": L1(), "huber": Huber(), "squared_frobenius": SquaredFrobenius()}
"""The penalties that have a name, with their default parameters."""


def as_penalty(penalty: str | Penalty) -> Penalty:
    """Turn a name or a `Penalty` into a `Penalty`.

    Raises:
        OptionError: If there is no penalty of that name.
    """
    if isinstance(penalty, str) and penalty in PENALTIES:
        return PENALTIES[penalty]
    if not isinstance(penalty, Penalty):
        raise OptionError(
            f"penalty must be one of {', '.join(map(repr, PENALTIES))} or a gramian.Penalty; got {penalty!r}"
        )
    return penalty
