"""Selecting parameters of a network by policy, glob, regular expression or predicate; nothing is left out silently."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gramian.errors import GramianError, LayoutError, OptionError
from gramian.layout import Layout, as_layout
from gramian.training.policy import Proposal, propose
from gramian.training.wrappers import parameters_of

__all__ = [
    "Layouts",
    "Left",
    "Selector",
    "Target",
    "as_selector",
    "choose_parameters",
    "obstacle",
    "select_parameters",
    "select_where_possible",
]

Selector = str | re.Pattern[str] | Callable[[str, Tensor], bool] | Iterable[str]
"""A glob of parameter names, several of them, a regular expression (searched), or a function of name and parameter."""

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

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
    targets, left = _selected(model, as_selector(select), layouts, strict=True)
    if not targets:
        raise OptionError(
            f"at least one parameter must be selected; got none of {len(left)} ({_reasons(left)}); try "
            "select='*weight' with layouts={'*weight': 'o i -> i () o'}"
        )
    return targets, left


def select_where_possible(
    model: nn.Module, select: Selector | None = None, layouts: Layouts | Layout | str | None = None
) -> tuple[list[Target], list[Left]]:
    """Choose as `select_parameters` does, but leave out what cannot be taken, with its error as the reason."""
    return _selected(model, select, layouts, strict=False)


def _selected(
    model: nn.Module, select: Selector | None, layouts: Layouts | Layout | str | None, *, strict: bool
) -> tuple[list[Target], list[Left]]:
    places = parameters_of(model)
    proposals = propose(model)
    if not places and strict:
        raise OptionError("the model must have parameters; got none")
    parameters = {name: place.parameter for name, place in places.items()}
    names = _Names({name: place.raw for name, place in places.items()}, strict=strict)
    picked = _picked(select, parameters, proposals, names)
    given = _given(layouts, names)
    one = None if isinstance(layouts, Mapping) else layouts
    targets: list[Target] = []
    left: list[Left] = []
    owners: dict[int, str] = {}
    for name, parameter in parameters.items():
        proposal = proposals[name]
        asked = select is not None or name in given
        shape = () if is_lazy(parameter) else tuple(parameter.shape)
        try:
            reason = _refusal(name, parameter, proposal, owners, picked=name in picked, asked=asked)
            if reason is None:
                layout, why, sizes = _laid_out(name, shape, proposal, given.get(name, one))
                targets.append(Target(name, parameter, layout, sizes, why))
                owners[id(parameter)] = name
                continue
        except GramianError as error:
            if strict:
                raise
            reason = str(error)
        left.append(Left(name, shape, reason))
    return targets, left


def choose_parameters(
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    proposals: Mapping[str, Proposal],
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    *,
    raw: Mapping[str, str] | None = None,
) -> tuple[dict[str, tuple[Layout, str]], dict[str, str]]:
    """Choose among tensors that are only named and sized yet, as `select_parameters` does among those of a model.

    Args:
        shapes: The shape of each tensor, by name.
        read: Gives a tensor, for a selecting function.
        proposals: What is proposed for each.
        select: Which; by default those that are proposed.
        layouts: Layouts by name; or one for all that are selected.
        raw: Names that patterns may also match, by name.

    Returns:
        Layout and reason of each that is chosen; and the reason for each that is left out.

    Raises:
        OptionError: If nothing is selected, or a glob or a regular expression matches nothing.
        LayoutError: If a selected one has no layout, or does not fit it.
    """
    select = as_selector(select)
    names = _Names(raw or {name: name for name in shapes}, strict=True)
    if select is None:
        picked = {name for name in shapes if proposals[name].chosen}
    elif callable(select):
        picked = {name for name in shapes if select(name, read(name))}
    else:
        picked = {name for pattern in _patterns(select) for name in names.matching(pattern, "select")}
    given = _given(layouts, names)
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
        reasons = _reasons([Left(name, shapes[name], reason) for name, reason in left.items()])
        raise OptionError(
            f"at least one tensor must be selected; got none of {len(left)} ({reasons}); try select='*weight'"
        )
    return chosen, left


def as_selector(select: Selector | None) -> Selector | None:
    """Give a selection that can be made more than once, of what a user gives for one.

    Raises:
        OptionError: If it is none.
    """
    if select is None or isinstance(select, (str, re.Pattern)) or callable(select):
        return select
    if not isinstance(select, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"select must be a glob of names, several, a compiled regular expression or a function of name and "
            f"parameter; got {type(select).__name__}; try select='*weight'"
        )
    return list(select)


def _patterns(select: str | re.Pattern[str] | Iterable[str]) -> list[str | re.Pattern[str]]:
    return [select] if isinstance(select, (str, re.Pattern)) else list(select)


def _picked(
    select: Selector | None, parameters: Mapping[str, Tensor], proposals: Mapping[str, Proposal], names: "_Names"
) -> set[str]:
    if select is None:
        # Tied weights have several names; where one of them speaks against it, it is left out under all.
        refused = {id(p) for name, p in parameters.items() if not proposals[name].chosen}
        return {name for name, p in parameters.items() if proposals[name].chosen and id(p) not in refused}
    if callable(select):
        return {name for name, parameter in parameters.items() if select(name, parameter)}
    return {name for pattern in _patterns(select) for name in names.matching(pattern, "select")}


def _given(layouts: Layouts | Layout | str | None, names: "_Names") -> dict[str, Layout | str]:
    if layouts is None or isinstance(layouts, (Layout, str)):
        return {}
    if not isinstance(layouts, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"layouts must be one layout, or layouts by glob or regular expression; got {type(layouts).__name__}; try "
            "layouts={'*weight': 'o i -> i () o'}"
        )
    found: dict[str, Layout | str] = {}
    for pattern, layout in layouts.items():
        for name in names.matching(pattern, "layouts"):
            found.setdefault(name, layout)
    return found


class _Names:
    """The names of parameters, each with what torch calls it, which patterns may match as well."""

    def __init__(self, raw: Mapping[str, str], *, strict: bool) -> None:
        self._raw = raw
        self._strict = strict

    def matching(self, pattern: object, option: str) -> set[str]:
        """Give the names that a pattern matches.

        Raises:
            OptionError: If it is no pattern; or, if this is strict, matches none.
        """
        if isinstance(pattern, str):
            glob = pattern
            matched = {name for name, raw in self._raw.items() if fnmatchcase(name, glob) or fnmatchcase(raw, glob)}
        elif isinstance(pattern, re.Pattern):
            matched = {name for name, raw in self._raw.items() if pattern.search(name) or pattern.search(raw)}
        else:
            raise OptionError(
                f"{option} must name parameters by a glob or a compiled regular expression; got {pattern!r}"
            )
        if not matched and self._strict:
            shown = pattern if isinstance(pattern, str) else pattern.pattern
            some = ", ".join(repr(name) for name in list(self._raw)[:6])
            raise OptionError(
                f"every pattern in {option} must match a parameter; got {shown!r}, which matches none of the "
                f"{len(self._raw)}: {some}{', …' if len(self._raw) > 6 else ''}"
            )
        return matched


def obstacle(parameter: Tensor) -> str | None:
    """Say why the values of a tensor cannot be measured or changed; None if they can."""
    if parameter.layout != torch.strided:
        return f"sparse: of layout {parameter.layout}"
    if parameter.is_meta:
        return "on the meta device, without values"
    if parameter.numel() == 0:
        return "it is empty"
    return None if parameter.dtype in _DTYPES else f"of dtype {parameter.dtype}"


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
    if proposal.lazy:
        return None
    if proposal.barred:
        reason, error = proposal.reason, f"{name} must be a plain parameter; {proposal.reason}"
    elif not parameter.requires_grad:
        reason = "frozen: requires_grad is False"
        error = f"{name} must be trained to be selected; got requires_grad=False"
    else:
        reason = obstacle(parameter)
        error = f"{name} must be a dense floating-point tensor with values; got one that is not ({reason})"
    if reason is not None and asked:
        raise OptionError(f"{error}; try select without it")
    return reason


def _why_not(proposal: Proposal, asked: bool) -> str:  # noqa: FBT001
    if asked:
        return "not selected"
    return "tied to one that is left out" if proposal.chosen else proposal.reason


def _reasons(left: list[Left]) -> str:
    return "; ".join(f"{each.name}: {each.reason}" for each in left[:8]) + ("; …" if len(left) > 8 else "")


def _laid_out(
    name: str, shape: tuple[int, ...], proposal: Proposal, given: Layout | str | None
) -> tuple[Layout, str, tuple[int, int, int]]:
    """Give layout, reason and (l, m, n)."""
    if proposal.lazy:
        raise OptionError(
            f"{name} must have a shape; got {proposal.reason}; try one batch through the model first, then this"
        )
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
