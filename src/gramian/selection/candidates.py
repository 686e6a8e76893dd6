"""The selection itself, the same for parameters of a model, tensors in a mapping and tensors in a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.errors import GramianError, LayoutError, OptionError
from gramian.layout import Layout, as_layout
from gramian.selection.candidate import Candidate
from gramian.selection.patterns import Layouts, Matcher, Pattern, Selector, as_selector
from gramian.selection.policy import Proposal
from gramian.typing import FLOATING_DTYPES

__all__ = ["SelectedCandidate", "SkippedParameter", "select_candidates", "unusable_reason"]

_SHOWN = 8
"""Reasons that a message lists."""


@dataclass(frozen=True)
class SelectedCandidate:
    """A selected tensor with its layout, the sizes (l, m, n) and the reason."""

    candidate: Candidate
    layout: Layout
    shape: tuple[int, int, int]
    reason: str


@dataclass(frozen=True)
class SkippedParameter:
    """A parameter, or a tensor of a file, that is skipped.

    Attributes:
        name: Its name.
        reason: Why it is skipped.
        shape: Its shape; None if it has none, such as a lazy parameter or an entry that is not a tensor.
    """

    name: str
    reason: str
    shape: tuple[int, ...] | None = None


def select_candidates(
    candidates: Sequence[Candidate],
    select: Selector | None,
    layouts: Layouts | Layout | str | None,
    *,
    exclude: Selector | None = None,
    to_train: bool = False,
    strict: bool = True,
) -> tuple[list[SelectedCandidate], list[SkippedParameter]]:
    """Select tensors and determine the layout of each.

    Args:
        candidates: What may be selected.
        select: Which of them; by default those that are proposed.
        layouts: Layouts by pattern, or one for all that are selected. Where none is given, the proposed one.
        exclude: Which are left out, whether they are selected or proposed.
        to_train: Whether updates will be written to the tensors. Then a tensor under several names is selected once,
            and tensors that are frozen, without values or computed from others are skipped; an error if one of them was
            selected by name.
        strict: Whether to raise errors. Otherwise a tensor that causes one is skipped, with the error as the reason.

    Returns:
        The selected tensors and the skipped ones, both in the order of the candidates.

    Raises:
        OptionError: If nothing is selected, a pattern matches nothing, or a tensor selected by name cannot be trained.
        LayoutError: If a selected tensor has no layout, or does not fit it.
    """
    patterns, excluding = as_selector(select), as_selector(exclude, name="exclude")
    matcher = Matcher(candidates, strict=strict)
    requested = _requested(candidates, patterns, matcher, to_train=to_train)
    excluded = _excluded(candidates, excluding or (), matcher, to_train=to_train)
    by_name = matcher.by_name(_checked(layouts), "layouts")
    for_all = None if isinstance(layouts, Mapping) else layouts
    selected: list[SelectedCandidate] = []
    skipped: list[SkippedParameter] = []
    first_names: dict[int, str] = {}
    for candidate in candidates:
        by_user = patterns is not None or candidate.name in by_name
        try:
            if candidate.name in excluded:
                reason = excluded[candidate.name]
            elif candidate.name not in requested:
                reason = _reason_not_requested(candidate.proposal, by_default=patterns is None)
            else:
                reason = _reason_not_trained(candidate, first_names, by_user=by_user) if to_train else None
            if reason is None:
                selected.append(_with_layout(candidate, by_name.get(candidate.name, for_all)))
                if to_train:
                    first_names[id(candidate.read())] = candidate.name
                continue
        except GramianError as error:
            if strict:
                raise
            reason = str(error)
        skipped.append(SkippedParameter(candidate.name, reason, candidate.shape))
    if strict and not selected:
        reasons = "; ".join(f"{parameter.name}: {parameter.reason}" for parameter in skipped[:_SHOWN])
        raise OptionError(
            f"at least one parameter must be selected; got none of {len(skipped)} ({reasons}"
            f"{'; …' if len(skipped) > _SHOWN else ''}); try select='*weight' with layouts={{'*weight': "
            "'o i -> i () o'}"
        )
    return selected, skipped


def unusable_reason(tensor: Tensor) -> str | None:
    """Return why the values of a tensor cannot be measured or updated; None if they can."""
    if tensor.layout != torch.strided:
        return f"sparse: of layout {tensor.layout}"
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.numel() == 0:
        return "it is empty"
    return None if tensor.dtype in FLOATING_DTYPES else f"of dtype {tensor.dtype}"


def _requested(
    candidates: Sequence[Candidate], patterns: Sequence[Pattern] | None, matcher: Matcher, *, to_train: bool
) -> set[str]:
    if patterns is not None:
        return matcher.selected_by(patterns)
    # A tied weight has several names; if the policy skips it under one of them, it is skipped under all.
    others = [candidate for candidate in candidates if not candidate.proposal.chosen]
    skipped = {id(candidate.read()) for candidate in others} if to_train else set[int]()
    proposed = [candidate for candidate in candidates if candidate.proposal.chosen]
    return {candidate.name for candidate in proposed if not skipped or id(candidate.read()) not in skipped}


def _excluded(
    candidates: Sequence[Candidate], patterns: Sequence[Pattern], matcher: Matcher, *, to_train: bool
) -> dict[str, str]:
    """Return the reason for each name that is excluded; a tied weight is excluded under all of its names."""
    reasons = dict.fromkeys(matcher.matching_any(patterns, "exclude"), "excluded")
    if to_train and reasons:
        tensors = {id(candidate.read()) for candidate in candidates if candidate.name in reasons}
        for candidate in candidates:
            if id(candidate.read()) in tensors:
                reasons.setdefault(candidate.name, "tied to an excluded parameter")
    return reasons


def _checked(layouts: Layouts | Layout | str | None) -> Layouts:
    """Return layouts by pattern, or none if one layout is for all."""
    if layouts is None or isinstance(layouts, (Layout, str)):
        return {}
    if not isinstance(layouts, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"layouts must be one layout, or layouts by glob or another pattern; got {type(layouts).__name__}; try "
            "layouts={'*weight': 'o i -> i () o'}"
        )
    return layouts


def _reason_not_requested(proposal: Proposal, *, by_default: bool) -> str:
    if not by_default:
        return "not selected"
    return "tied to a skipped parameter" if proposal.chosen else proposal.reason


def _reason_not_trained(candidate: Candidate, first_names: Mapping[int, str], *, by_user: bool) -> str | None:
    """Return why a requested parameter cannot be trained; None if it can.

    Raises:
        OptionError: If it cannot, and the user selected it or gave it a layout.
    """
    name, proposal, parameter = candidate.name, candidate.proposal, candidate.read()
    if id(parameter) in first_names:
        return f"the same tensor as {first_names[id(parameter)]}"
    if proposal.lazy:
        return None
    if proposal.barred:
        reason, error = proposal.reason, f"{name} must be a plain parameter; {proposal.reason}"
    elif not parameter.requires_grad:
        reason = "frozen: requires_grad is False"
        error = f"{name} must be trained to be selected; got requires_grad=False"
    else:
        reason = unusable_reason(parameter)
        error = f"{name} must be a dense floating-point tensor with values; got one that is not ({reason})"
    if reason is not None and by_user:
        raise OptionError(f"{error}; try select without it")
    return reason


def _with_layout(candidate: Candidate, layout: Layout | str | None) -> SelectedCandidate:
    name, shape, proposal = candidate.name, candidate.shape, candidate.proposal
    if shape is None:
        raise OptionError(
            f"{name} must have a shape; got {proposal.reason}; try one batch through the model first, then this"
        )
    reason = proposal.reason if layout is None else "laid out as requested"
    resolved = as_layout(layout, len(shape)) if layout is not None else proposal.layout
    if resolved is None:
        raise LayoutError(
            f"{name} of shape {list(shape)} was selected but has no layout ({proposal.reason}); try "
            f"layouts={{{name!r}: '... -> vector group member'}}"
        )
    try:
        length, m, n = resolved.phi_shape(shape)
    except LayoutError as error:
        raise LayoutError(f"{name}: {error}") from None
    reason = f"{reason}; n > l: it cannot be orthonormal" if n > length else reason
    return SelectedCandidate(candidate, resolved, (length, m, n), reason)
