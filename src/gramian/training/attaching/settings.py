"""The settings of each parameter: its strength β, rule and penalty, one for all parameters or given by pattern."""

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gramian.errors import OptionError
from gramian.penalties import L1, Penalty, as_penalty
from gramian.rules import Rule, as_rule
from gramian.selection import Pattern, SelectedParameter
from gramian.selection.parameters import candidates_of
from gramian.selection.patterns import Matcher
from gramian.training.attaching.by_pattern import ByPattern
from gramian.training.attaching.compatibility import check_fit
from gramian.training.attaching.strength import Beta, Scheduler, check_strength, strength_at

__all__ = ["Choice", "Settings"]

_SHOWN = 6
"""Names that a message lists."""

_ANGLES = L1(diagonal=False)
"""The default penalty where lengths are free."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The strength, the rule and the penalty of a parameter."""

    beta: Beta
    rule: Rule
    penalty: Penalty


class Settings:
    """The strength, rule and penalty of every parameter of a model.

    Args:
        model: The model, held by a weak reference.
        beta: Strength β for all parameters, or strengths by pattern.
        rule: Name or `Rule`, or these by pattern; 'proximal' for parameters that no pattern matches.
        penalty: Name or `Penalty`, or these by pattern. Default, and for parameters that no pattern matches: l1,
            without the diagonal where the policy leaves lengths free.

    Raises:
        OptionError: If a strength, a rule or a penalty is invalid, or a pattern matches nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        beta: Beta | Mapping[Pattern, Beta],
        rule: str | Rule | Mapping[Pattern, str | Rule],
        penalty: str | Penalty | Mapping[Pattern, str | Penalty] | None,
    ) -> None:
        self._model: weakref.ref[nn.Module] | None = weakref.ref(model)
        self.beta: Beta | dict[Pattern, Beta] = _each(beta, check_strength)
        self.rule = _each(rule, as_rule)
        self.penalty = None if penalty is None else _each(penalty, _known_penalty)
        options = (("beta", self.beta), ("rule", self.rule), ("penalty", self.penalty))
        by_pattern = {option: values for option, values in options if isinstance(values, dict)}
        matcher = Matcher(candidates_of(model), strict=True) if by_pattern else None
        self._patterns: dict[str, ByPattern[Any]] = {
            option: ByPattern(model, values, option, matcher)
            for option, values in by_pattern.items()
            if matcher is not None
        }
        self._choices: dict[str, Choice] = {}

    def of(self, target: SelectedParameter) -> Choice:
        """Return the strength, the rule and the penalty of a parameter.

        Raises:
            OptionError: If no pattern gives it a strength.
        """
        choice = self._choices.get(target.name)
        if choice is None:
            choice = self._choices[target.name] = self._choose(target)
        return choice

    def check(self, targets: Iterable[SelectedParameter]) -> None:
        """Raise the errors that would otherwise be raised at the first step.

        Raises:
            OptionError, ShapeError: As for `gramian.attach`.
        """
        targets = list(targets)
        without = [target.name for target in targets if self._value("beta", target) is None]
        if without:
            more = ", …" if len(without) > _SHOWN else ""
            raise OptionError(
                f"beta must have a value for every selected parameter; got none for {', '.join(without[:_SHOWN])}"
                f"{more}; try a last pattern '*' for all others"
            )
        for choice, some in self._by_choice(targets):
            check_fit(some, choice.rule, choice.penalty, hard=choice.beta == math.inf)

    def at(self, targets: Sequence[SelectedParameter], step: int) -> Iterator[tuple[float, Choice, list[Any]]]:
        """Yield the parameters that are treated alike, with their strength at a step.

        Args:
            targets: Selected parameters.
            step: Number of updates before this one.
        """
        for choice, some in self._by_choice(targets):
            yield strength_at(choice.beta, step), choice, some

    def with_beta(self, beta: Beta | Mapping[Pattern, Beta]) -> "Settings":
        """Return the same settings with another strength.

        Raises:
            OptionError: If the strength is invalid, or the model is deleted.
        """
        model = None if self._model is None else self._model()
        if model is None:
            raise OptionError("beta must be changed while the model exists; got an attachment whose model is deleted")
        return Settings(model, beta, self.rule, self.penalty)

    def strength(self, step: int) -> str:
        """Describe the strength at a step."""
        if isinstance(self.beta, dict):
            values = dict.fromkeys(f"{strength_at(beta, step):g}" for beta in self.beta.values())
            return f"β = {', '.join(values)} by pattern"
        varies = "" if isinstance(self.beta, float) else " now"
        return f"β = {strength_at(self.beta, step):g}{varies}"

    def rules(self) -> str:
        """Describe the rule and the penalty."""
        rule = self.rule if isinstance(self.rule, dict) else getattr(self.rule, "__name__", type(self.rule).__name__)
        penalty = "l1" if self.penalty is None else self.penalty
        return ", ".join(
            f"{name} by pattern" if isinstance(value, dict) else f"{name} {value}"
            for name, value in (("rule", rule), ("penalty", penalty))
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy belongs to an attachment that does nothing; weak references cannot be pickled.
        return {**vars(self), "_model": None}

    def _value(self, option: str, target: SelectedParameter) -> Any:
        """Return the user's value for a parameter, or None."""
        patterns = self._patterns.get(option)
        return getattr(self, option) if patterns is None else patterns.get(target.name)

    def _choose(self, target: SelectedParameter) -> Choice:
        beta, rule, penalty = (self._value(option, target) for option in ("beta", "rule", "penalty"))
        if beta is None:
            raise OptionError(f"{target.name}: beta must have a value for it; got none in its patterns")
        if rule is None:
            rule = "proximal"
        if penalty is None:
            penalty = _ANGLES if target.angles_only else "l1"
        choice = Choice(beta, as_rule(rule), as_penalty(penalty))
        # One object for equal choices, so that those of a step are compared by identity.
        known = (other for other in self._choices.values() if vars(other) == vars(choice))
        return next(known, choice)

    def _by_choice(self, targets: Sequence[SelectedParameter]) -> list[tuple[Choice, list[SelectedParameter]]]:
        groups: dict[int, tuple[Choice, list[SelectedParameter]]] = {}
        for target in targets:
            choice = self.of(target)
            groups.setdefault(id(choice), (choice, []))[1].append(target)
        return list(groups.values())


def _known_penalty(penalty: str | Penalty) -> str | Penalty:
    """Check a penalty, and keep its name."""
    as_penalty(penalty)
    return penalty


def _each(value: Any, check: Any) -> Any:
    """Check one value, or each value of a mapping."""
    if isinstance(value, Mapping) and not isinstance(value, Scheduler):
        if not value:
            raise OptionError("a mapping from patterns to values must not be empty; try one value for all parameters")
        return {pattern: check(each) for pattern, each in value.items()}
    return check(value)
