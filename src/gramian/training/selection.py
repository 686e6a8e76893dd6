"""Selecting parameters of a network by policy, glob, regular expression or predicate; nothing is left out silently."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from gramian.errors import LayoutError, OptionError
from gramian.layout import Layout, as_layout
from gramian.training.policy import Proposal, propose

__all__ = ["Layouts", "Left", "Selector", "Target", "choose_parameters", "select_parameters"]

Selector = str | re.Pattern[str] | Callable[[str, Tensor], bool] | Iterable[str]
"""A glob of parameter names, several of them, a regular expression (searched), or a function of name and parameter."""

Layouts = Mapping[str | re.Pattern[str], Layout | str]
"""Layouts by glob or regular expression of parameter names; the first that matches is taken."""


@dataclass(frozen=True)
class Target:
    """A parameter that is acted on."""

    name: str
    parameter: Tensor
    layout: Layout
    shape: tuple[int, int, int]
    """(l, m, n)."""
    reason: str


@dataclass(frozen=True)
class Left:
    """A parameter that is left out, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


def select_parameters(
    model: nn.Module, select: Selector | None = None, layouts: Layouts | Layout | str | None = None
) -> tuple[list[Target], list[Left]]:
    """Choose parameters of a model and say how each is laid out.

    Args:
        model: Any module.
        select: Which parameters; by default those that `propose` chooses.
        layouts: Layouts by name; or one for all that are selected. Where none is given, that of `propose`.

    Returns:
        What is acted on, and what is left out, both in the order of the model.

    Raises:
        OptionError: If nothing is selected, a glob or a regular expression matches no parameter, or a selected
            parameter is frozen or re-parametrised.
        LayoutError: If a selected parameter has no layout, or does not fit it.

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
        >>> chosen, left = select_parameters(model, "1.*weight")
        >>> chosen[0].name, chosen[0].shape, [(each.name, each.reason) for each in left]
        ('1.weight', (4, 1, 2), [('0.weight', 'not selected'), ('0.bias', 'not selected'), ('1.bias', 'not selected')])
    """
    proposals = propose(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not parameters:
        raise OptionError("the model must have parameters; got none")
    picked = _picked(select, parameters, proposals)
    given = _given(layouts, parameters)
    targets: list[Target] = []
    left: list[Left] = []
    owners: dict[int, str] = {}
    for name, parameter in parameters.items():
        proposal = proposals[name]
        reason = _refusal(
            name, parameter, proposal, owners, picked=name in picked, asked=select is not None or name in given
        )
        if reason is not None:
            left.append(Left(name, tuple(parameter.shape), reason))
            continue
        targets.append(_target(name, parameter, proposal, given.get(name), layouts))
        owners[id(parameter)] = name
    if not targets:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in left[:8])
        raise OptionError(
            f"at least one parameter must be selected; got none of {len(left)} ({reasons}"
            f"{'; …' if len(left) > 8 else ''}); try select='*weight' with layouts={{'*weight': 'o i -> i () o'}}"
        )
    return targets, left


def choose_parameters(
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    proposals: Mapping[str, Proposal],
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
) -> tuple[dict[str, tuple[Layout, str]], dict[str, str]]:
    """Choose among tensors that are only named and sized yet, as `select_parameters` does among those of a model.

    Args:
        shapes: The shape of each tensor, by name.
        read: Gives a tensor, for a selecting function.
        proposals: What is proposed for each.
        select: Which; by default those that are proposed.
        layouts: Layouts by name; or one for all that are selected.

    Returns:
        Layout and reason of each that is chosen; and the reason for each that is left out.

    Raises:
        OptionError: If nothing is selected, or a glob or a regular expression matches nothing.
        LayoutError: If a selected one has no layout, or does not fit it.
    """
    if select is None:
        picked = {name for name in shapes if proposals[name].chosen}
    elif callable(select):
        picked = {name for name in shapes if select(name, read(name))}
    else:
        patterns: list[str | re.Pattern[str]] = [select] if isinstance(select, (str, re.Pattern)) else list(select)
        picked = {name for pattern in patterns for name in _matching(pattern, shapes, "select")}
    given = _given(layouts, shapes)
    one = None if isinstance(layouts, Mapping) else layouts
    chosen: dict[str, tuple[Layout, str]] = {}
    left: dict[str, str] = {}
    for name, shape in shapes.items():
        if name not in picked:
            left[name] = "not selected" if select is not None else proposals[name].reason
            continue
        layout, reason, _ = _laid_out(name, shape, proposals[name], given.get(name, one))
        chosen[name] = (layout, reason)
    if not chosen:
        raise OptionError(f"at least one tensor must be selected; got none of {len(left)}; try select='*weight'")
    return chosen, left


def _picked(select: Selector | None, parameters: Mapping[str, Tensor], proposals: Mapping[str, Proposal]) -> set[str]:
    if select is None:
        # Tied weights have several names; where one of them speaks against it, it is left out under all.
        refused = {id(p) for name, p in parameters.items() if not proposals[name].chosen}
        return {name for name, p in parameters.items() if proposals[name].chosen and id(p) not in refused}
    if callable(select):
        return {name for name, parameter in parameters.items() if select(name, parameter)}
    patterns: list[str | re.Pattern[str]] = [select] if isinstance(select, (str, re.Pattern)) else list(select)
    picked: set[str] = set()
    for pattern in patterns:
        picked |= _matching(pattern, parameters, "select")
    return picked


def _given(layouts: Layouts | Layout | str | None, parameters: Mapping[str, object]) -> dict[str, Layout | str]:
    if not isinstance(layouts, Mapping):
        return {}
    found: dict[str, Layout | str] = {}
    for pattern, layout in layouts.items():
        for name in _matching(pattern, parameters, "layouts"):
            found.setdefault(name, layout)
    return found


def _matching(pattern: str | re.Pattern[str], parameters: Mapping[str, object], option: str) -> set[str]:
    if isinstance(pattern, str):
        matched = {name for name in parameters if fnmatchcase(name, pattern)}
    elif isinstance(pattern, re.Pattern):  # pyright: ignore[reportUnnecessaryIsInstance]
        matched = {name for name in parameters if pattern.search(name)}
    else:
        raise OptionError(f"{option} must name parameters by a glob or a compiled regular expression; got {pattern!r}")
    if not matched:
        shown = pattern if isinstance(pattern, str) else pattern.pattern
        some = ", ".join(repr(name) for name in list(parameters)[:6])
        raise OptionError(
            f"every pattern in {option} must match a parameter; got {shown!r}, which matches none of the "
            f"{len(parameters)}: {some}{', …' if len(parameters) > 6 else ''}"
        )
    return matched


def _refusal(
    name: str,
    parameter: Tensor,
    proposal: Proposal,
    owners: Mapping[int, str],
    *,
    picked: bool,
    asked: bool,
) -> str | None:
    """Say why a parameter is left out, None if it is not; an error if it was asked for by name."""
    if not picked:
        return "not selected" if asked and proposal.chosen else _why_not(proposal, asked)
    if id(parameter) in owners:
        return f"the same tensor as {owners[id(parameter)]}"
    problem = None
    if "re-parametrised" in proposal.reason:
        problem = f"{name} must be a plain parameter; {proposal.reason}; try select without it"
    elif not parameter.requires_grad:
        problem = f"{name} must be trained to be selected; got requires_grad=False; try select without it"
    if problem is None:
        return None
    if asked:
        raise OptionError(problem)
    return "frozen: requires_grad is False"


def _why_not(proposal: Proposal, asked: bool) -> str:  # noqa: FBT001
    if asked:
        return "not selected"
    return "tied to one that is left out" if proposal.chosen else proposal.reason


def _target(
    name: str, parameter: Tensor, proposal: Proposal, given: Layout | str | None, layouts: Layouts | Layout | str | None
) -> Target:
    chosen = given if given is not None or isinstance(layouts, Mapping) else layouts
    layout, reason, shape = _laid_out(name, tuple(parameter.shape), proposal, chosen)
    return Target(name, parameter, layout, shape, reason)


def _laid_out(
    name: str, shape: tuple[int, ...], proposal: Proposal, given: Layout | str | None
) -> tuple[Layout, str, tuple[int, int, int]]:
    """Give layout, reason and (l, m, n)."""
    reason = proposal.reason if given is None else "laid out as asked"
    layout = as_layout(given, len(shape)) if given is not None else proposal.layout
    if layout is None:
        raise LayoutError(
            f"{name} of shape {list(shape)} was selected but has no layout ({proposal.reason}); try "
            f"layouts={{{name!r}: '... -> vector group member'}}"
        )
    try:
        length, m, n = layout.phi_shape(shape)
    except LayoutError as error:
        raise LayoutError(f"{name}: {error}") from None
    return layout, f"{reason}; n > l: it cannot be orthonormal" if n > length else reason, (length, m, n)
