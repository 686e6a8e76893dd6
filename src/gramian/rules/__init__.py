r"""Update rules: from Φ and a penalty to a change of Φ.

Each rule is a pure function of Φ[l, m, n]; `step_` applies it to a parameter, in place, through a layout.
"""

from gramian.rules.base import Rule, Step, coordinatewise, groupwise
from gramian.rules.gradient import polyak, subgradient
from gramian.rules.prox import proximal
from gramian.rules.registry import RULES, as_rule
from gramian.rules.step import step_

__all__ = [
    "RULES",
    "Rule",
    "Step",
    "as_rule",
    "coordinatewise",
    "groupwise",
    "polyak",
    "proximal",
    "step_",
    "subgradient",
]
