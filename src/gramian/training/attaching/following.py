"""Selected parameters of models and optimisers that change during training: tensors are replaced, groups are added."""

import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from gramian.errors import AttachmentWarning, GramianError
from gramian.layout import Layout
from gramian.selection import Layouts, SelectedParameter, Selector, SkippedParameter
from gramian.selection.candidates import unusable_reason
from gramian.selection.parameters import select_where_possible
from gramian.selection.wrappers import parameters_of
from gramian.torch_internals import parameter_at

__all__ = ["Following"]

_SHOWN = 6
"""Changes that a warning lists."""


class Following:
    """Selected parameters of a model, looked up by name at every step.

    That costs a few dictionary reads for each parameter. The whole model is searched again only if a name refers to
    another tensor, or the number of parameters of the optimiser has changed.

    Args:
        model: Held by a weak reference. Once it is deleted, the last parameters remain.
        optimizer: The optimiser of these parameters.
        targets: The selected parameters; this list is updated in place.
        skipped: The skipped parameters; this list is updated in place.
        select: The selection, for parameters that are added to the optimiser later.
        exclude: What is left out of it.
        layouts: Layouts by name, or one for all.
        check: Raises a `GramianError` if a parameter cannot be updated.
        taken: Returns the identities of the parameters that other attachments update.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        targets: list[SelectedParameter],
        skipped: list[SkippedParameter],
        select: Selector | None,
        exclude: Selector | None,
        layouts: Layouts | Layout | str | None,
        check: Callable[[SelectedParameter], None],
        taken: Callable[[Optimizer, "Following"], set[int]],
    ) -> None:
        self.targets = targets
        self.skipped = skipped
        self._model = weakref.ref(model)
        self._select = select
        self._exclude = exclude
        self._layouts = layouts
        self._check = check
        self._taken = taken
        self._resting: dict[str, SelectedParameter] = {}
        """Targets whose name refers to nothing that can be updated now."""
        self._seen: dict[str, Tensor | None] = {}
        """What those names referred to at the last step."""
        self._given_up: set[str] = set()
        self._count = _count(optimizer)
        self._spots = {name: (place.path, place.key) for name, place in parameters_of(model).items()}
        self._index()

    def current(self, optimizer: Optimizer) -> dict[int, SelectedParameter]:
        """Return the targets by the identity of the tensors to which their names refer now."""
        model = self._model()
        if model is not None and (_count(optimizer) != self._count or self._differs(model)):
            self._search(model, optimizer)
        return self._by_parameter

    def give_up(self, parameters: set[int], reason: str) -> list[str]:
        """Stop updating some parameters and return their names."""
        names = [target.name for target in self.targets if id(target.parameter) in parameters]
        for target in list(self.targets):
            if target.name in names:
                self._given_up.add(target.name)
                self._skip(target, reason)
        self._index()
        return names

    def _index(self) -> None:
        self._by_parameter = {id(target.parameter): target for target in self.targets}
        self._expected: list[tuple[tuple[str, ...], str, Tensor | None]] = [
            *((*self._spots[target.name], target.parameter) for target in self.targets),
            *((*self._spots[name], self._seen.get(name)) for name in self._resting),
        ]

    def _differs(self, model: nn.Module) -> bool:
        return any(parameter_at(model, path, key) is not expected for path, key, expected in self._expected)

    def _search(self, model: nn.Module, optimizer: Optimizer) -> None:
        places = parameters_of(model)
        self._spots.update({name: (place.path, place.key) for name, place in places.items()})
        in_optimizer = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        messages: list[str] = []
        for target in [*self.targets, *self._resting.values()]:
            place = places.get(target.name)
            parameter = None if place is None else place.parameter
            before = self._seen.get(target.name) if target.name in self._resting else target.parameter
            if parameter is not before:
                message = self._replace(target, parameter, in_optimizer, self._taken(optimizer, self))
                messages.extend([] if message is None else [f"{target.name}: {message}"])
        if _count(optimizer) != self._count:
            messages.extend(self._add_new(model, in_optimizer, self._taken(optimizer, self)))
            self._count = _count(optimizer)
        self._index()
        if messages:
            more = f"; and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
            warnings.warn(f"{'; '.join(messages[:_SHOWN])}{more}", AttachmentWarning, stacklevel=2)

    def _replace(
        self, target: SelectedParameter, parameter: Tensor | None, in_optimizer: set[int], taken: set[int]
    ) -> str | None:
        """Follow a target to the tensor to which its name refers now; return a message if that is not possible."""
        changed, reason = self._changed(target, parameter)
        if id(parameter) in taken:
            reason = "another attachment acts on the tensor that now has this name"
        if reason is not None:
            self._resting[target.name] = target
            self._seen[target.name] = parameter
            self._skip(target, reason)
            return f"{reason}, so nothing acts on it any more"
        if target.name in self._resting:
            self._resting.pop(target.name)
            self._add(changed)
        else:
            self.targets[:] = [changed if old.name == target.name else old for old in self.targets]
        if id(parameter) in in_optimizer:
            return None
        return (
            "another tensor has this name in the model now, which the optimizer does not have, so neither is updated; "
            "try add_param_group, or a new optimizer and attach again"
        )

    def _changed(self, target: SelectedParameter, parameter: Tensor | None) -> tuple[SelectedParameter, str | None]:
        if parameter is None:
            return target, "the model has no parameter of this name any more"
        reason = unusable_reason(parameter)
        if reason is not None:
            return target, reason
        try:
            sizes = target.layout.phi_shape(tuple(parameter.shape))
            changed = replace(target, parameter=parameter, shape=sizes)
            self._check(changed)
        except GramianError as error:
            return target, str(error)
        return changed, None

    def _add_new(self, model: nn.Module, in_optimizer: set[int], taken: set[int]) -> list[str]:
        """Add selected parameters that the optimiser has received since; return messages about the others."""
        messages: list[str] = []
        known = {*(target.name for target in self.targets), *self._resting, *self._given_up}
        acted_on = taken | {id(target.parameter) for target in self.targets}
        selected, _ = select_where_possible(model, self._select, self._layouts, exclude=self._exclude)
        for target in selected:
            if target.name in known or id(target.parameter) in acted_on or id(target.parameter) not in in_optimizer:
                continue
            try:
                self._check(target)
            except GramianError as error:
                messages.append(f"{error}, so nothing acts on it")
                self._skip(target, str(error))
            else:
                self._add(target)
        return messages

    def _add(self, target: SelectedParameter) -> None:
        self.targets.append(target)
        self.skipped[:] = [other for other in self.skipped if other.name != target.name]

    def _skip(self, target: SelectedParameter, reason: str) -> None:
        self.targets[:] = [other for other in self.targets if other.name != target.name]
        self.skipped[:] = [other for other in self.skipped if other.name != target.name]
        self.skipped.append(SkippedParameter(target.name, reason, tuple(target.parameter.shape)))


def _count(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)
