"""The parameters of a model that are kept orthogonal, and those that are skipped, each with its reason."""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gramian.errors import OptionError
from gramian.layout import Layout
from gramian.selection.candidate import Candidate
from gramian.selection.candidates import SkippedParameter, select_candidates
from gramian.selection.patterns import Layouts, Selector
from gramian.selection.policy import propose
from gramian.selection.wrappers import parameters_of

__all__ = ["SelectedParameter", "candidates_of", "select_parameters", "select_where_possible"]


@dataclass(frozen=True)
class SelectedParameter:
    """A parameter that is kept orthogonal.

    Attributes:
        name: Its name, without the prefixes of wrappers.
        parameter: The tensor.
        layout: Its layout.
        shape: (l, m, n).
        reason: Why it is selected, and which vectors become orthonormal.
        angles_only: Whether their lengths are left free unless the user names a penalty.
    """

    name: str
    parameter: Tensor = field(repr=False)
    layout: Layout
    shape: tuple[int, int, int]
    reason: str
    angles_only: bool = False


def select_parameters(
    model: nn.Module,
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    *,
    exclude: Selector | None = None,
) -> tuple[list[SelectedParameter], list[SkippedParameter]]:
    """Select parameters of a model and determine the layout of each.

    Args:
        model: Any module.
        select: Which parameters; by default those that `propose` chooses.
        layouts: Layouts by pattern; or one for all that are selected. Where none is given, that of `propose`.
        exclude: Which of these are left out.

    Returns:
        The selected parameters and the skipped ones, both in the order of the model.

    Raises:
        OptionError: If nothing is selected, a pattern matches no parameter, or a selected parameter is frozen or
            re-parametrised.
        LayoutError: If a selected parameter has no layout, or does not fit it.

    Examples:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
        >>> selected, skipped = select_parameters(model, "1.*weight")
        >>> selected[0].name, selected[0].shape, [(each.name, each.reason) for each in skipped]
        ('1.weight', (4, 1, 2), [('0.weight', 'not selected'), ('0.bias', 'not selected'), ('1.bias', 'not selected')])
    """
    return _select(model, select, layouts, exclude, strict=True)


def select_where_possible(
    model: nn.Module,
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
    *,
    exclude: Selector | None = None,
) -> tuple[list[SelectedParameter], list[SkippedParameter]]:
    """Select as `select_parameters` does, but skip a parameter that causes an error, with the error as the reason."""
    return _select(model, select, layouts, exclude, strict=False)


def candidates_of(model: nn.Module) -> list[Candidate]:
    """Return every parameter of a model as a candidate of a selection."""
    proposals = propose(model)
    return [
        Candidate(
            name, place.raw, None if is_lazy(place.parameter) else tuple(place.parameter.shape), proposals[name],
            lambda parameter=place.parameter: parameter, place.modules,
        )
        for name, place in parameters_of(model).items()
    ]  # fmt: skip


def _select(
    model: nn.Module,
    select: Selector | None,
    layouts: Layouts | Layout | str | None,
    exclude: Selector | None,
    *,
    strict: bool,
) -> tuple[list[SelectedParameter], list[SkippedParameter]]:
    candidates = candidates_of(model)
    if not candidates and strict:
        raise OptionError("the model must have parameters; got none")
    selected, skipped = select_candidates(candidates, select, layouts, exclude=exclude, to_train=True, strict=strict)
    return [
        SelectedParameter(
            choice.candidate.name,
            choice.candidate.read(),
            choice.layout,
            choice.shape,
            choice.reason,
            choice.candidate.proposal.angles_only,
        )
        for choice in selected
    ], skipped
