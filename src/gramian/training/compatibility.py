"""Whether a rule, a penalty and the sizes of a parameter go together: known before anything is changed."""

from collections.abc import Iterable

import torch

from gramian.errors import GramianError
from gramian.penalties import Penalty
from gramian.rules import RULES, Rule, step_
from gramian.rules.apply import check_hard, check_together
from gramian.training.selection import Target

__all__ = ["check_fit"]

_BETWEEN = 1e-2
"""How far the vectors of a rehearsal are from orthonormal."""


def check_fit(targets: Iterable[Target], rule: Rule, penalty: Penalty, *, hard: bool) -> None:
    """Refuse what would fail at the first step: after the optimiser has changed weights.

    The rules and penalties of the package say what they need. Those of others make one step of a small tensor of the
    same m and n first.

    Args:
        targets: What is to be stepped.
        rule: The update rule.
        penalty: The penalty.
        hard: Whether they are to be orthonormal to rounding, not only drawn there.

    Raises:
        OptionError, ShapeError: If they do not go together, by the name of the parameter.

    Cost:
        Nothing for the package's own; else at most 4·m·n³ flops for each size.
    """
    rehearsed: set[object] = set()
    for target in targets:
        try:
            check = check_hard if hard else check_together
            check(rule, penalty, target.shape)
            like = (target.shape, target.parameter.dtype, target.parameter.device)
            if like not in rehearsed and not (rule in RULES.values() and _is_known(penalty)):
                _rehearse(target, rule, penalty)
                rehearsed.add(like)
        except GramianError as error:
            raise type(error)(f"{target.name}: {error}") from None


def _is_known(penalty: Penalty) -> bool:
    """Tell whether a penalty, and each that it is made of, is of this package."""
    inner = [each for held in vars(penalty).values() for each in (held if isinstance(held, tuple) else (held,))]
    return type(penalty).__module__.startswith("gramian.") and all(
        _is_known(each) for each in inner if isinstance(each, Penalty)
    )


def _rehearse(target: Target, rule: Rule, penalty: Penalty) -> None:
    length, m, n = target.shape
    shape = (min(length, n), m, n)
    device = target.parameter.device
    phi = torch.linspace(-_BETWEEN, _BETWEEN, shape[0] * m * n, device=device).reshape(shape)
    phi += torch.eye(shape[0], n, device=device)[:, None, :]
    step_(phi.to(target.parameter.dtype), lr=_BETWEEN, beta=1.0, rule=rule, penalty=penalty)
