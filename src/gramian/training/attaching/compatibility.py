"""Checks, before any weight changes, that a rule, a penalty and the sizes of each parameter are compatible."""

from collections.abc import Iterable

import torch

from gramian.errors import GramianError
from gramian.penalties import Penalty
from gramian.rules import RULES, Rule, step_
from gramian.rules.registry import check_compatible, check_hard
from gramian.selection import SelectedParameter

__all__ = ["check_fit"]

_DISTANCE = 1e-2
"""How far the vectors of a trial step are from orthonormal."""


def check_fit(targets: Iterable[SelectedParameter], rule: Rule, penalty: Penalty, *, hard: bool) -> None:
    """Raise the errors that would otherwise be raised at the first step, after the optimiser has changed weights.

    For rules and penalties of this package the requirements are known. Others are tried by one step of a small tensor
    with the same m and n.

    Args:
        targets: The selected parameters.
        rule: The update rule.
        penalty: The penalty.
        hard: Whether the penalty is a hard constraint.

    Raises:
        OptionError, ShapeError: If they are not compatible, with the name of the parameter.

    Cost:
        None for rules and penalties of this package; otherwise at most 4·m·n³ flops for each size.
    """
    tried: set[object] = set()
    for target in targets:
        try:
            check = check_hard if hard else check_compatible
            check(rule, penalty, target.shape)
            kind = (target.shape, target.parameter.dtype, target.parameter.device)
            if kind not in tried and not (rule in RULES.values() and _is_known(penalty)):
                _try_step(target, rule, penalty)
                tried.add(kind)
        except GramianError as error:
            raise type(error)(f"{target.name}: {error}") from None


def _is_known(penalty: Penalty) -> bool:
    """Tell whether a penalty, and every penalty within it, belongs to this package."""
    inner = [value for held in vars(penalty).values() for value in (held if isinstance(held, tuple) else (held,))]
    return type(penalty).__module__.startswith("gramian.") and all(
        _is_known(part) for part in inner if isinstance(part, Penalty)
    )


def _try_step(target: SelectedParameter, rule: Rule, penalty: Penalty) -> None:
    length, m, n = target.shape
    shape = (min(length, n), m, n)
    device = target.parameter.device
    phi = torch.linspace(-_DISTANCE, _DISTANCE, shape[0] * m * n, device=device).reshape(shape)
    phi += torch.eye(shape[0], n, device=device)[:, None, :]
    step_(phi.to(target.parameter.dtype), lr=_DISTANCE, beta=1.0, rule=rule, penalty=penalty)
