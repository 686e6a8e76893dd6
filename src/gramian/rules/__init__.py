r"""Update rules: from Φ and a penalty to a change of Φ.

Each rule is a pure function of Φ[l, m, n]; `step_` brings it to a parameter, in place, through a layout.
"""

from gramian.rules.base import Rule, Step, check_lr, coordinatewise, groupwise, is_coordinatewise, is_groupwise
from gramian.rules.gradient import check_tall, polyak, subgradient
from gramian.rules.prox import proximal
from gramian.rules.step import RULES, as_rule, step_

__all__ = [
    "RULES",
    "Rule",
    "Step",
    "as_rule",
    "check_lr",
    "check_tall",
    "coordinatewise",
    "groupwise",
    "is_coordinatewise",
    "is_groupwise",
    "polyak",
    "proximal",
    "step_",
    "subgradient",
]
