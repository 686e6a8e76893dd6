"""The tensors that stand under the names of selected parameters now: models and optimisers change while they train."""

import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from gramian.errors import AttachmentWarning, GramianError
from gramian.layout import Layout
from gramian.training.selection import Layouts, Left, Selector, Target, obstacle, select_where_possible
from gramian.training.wrappers import parameters_of

__all__ = ["Following"]

_SHOWN = 6


class Following:
    """Selected parameters of a model, looked up again at every step.

    The look costs a few dictionary reads for each parameter. Only where another tensor stands under a name, or the
    optimiser has got more or fewer parameters, the model is gone through again.

    Args:
        model: Kept by a weak reference; once it is gone, the parameters are those that it had.
        optimizer: Whose parameters are counted.
        targets: What was selected; the list is kept up to date.
        left: What was left out; the list is kept up to date.
        select: How it was selected; for parameters that come to the optimiser later.
        layouts: Layouts by name, or one for all.
        check: Raises a `GramianError` for a parameter that cannot be stepped.
        taken: Gives the parameters that others act on.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        targets: list[Target],
        left: list[Left],
        select: Selector | None,
        layouts: Layouts | Layout | str | None,
        check: Callable[[Target], None],
        taken: Callable[[Optimizer, "Following"], set[int]],
    ) -> None:
        self.targets = targets
        self.left = left
        self._model = weakref.ref(model)
        self._select = select
        self._layouts = layouts
        self._check = check
        self._taken = taken
        self._resting: dict[str, Target] = {}
        """Targets under whose names nothing stands that can be stepped; and what does, if anything."""
        self._seen: dict[str, Tensor | None] = {}
        self._given_up: set[str] = set()
        self._count = _count(optimizer)
        self._spots = {name: (place.path, place.key) for name, place in parameters_of(model).items()}
        self._index()

    def current(self, optimizer: Optimizer) -> dict[int, Target]:
        """Give the targets by the identity of the tensors that stand under their names now."""
        model = self._model()
        if model is not None and (_count(optimizer) != self._count or self._differs(model)):
            self._look_again(model, optimizer)
        return self._by_parameter

    def give_up(self, parameters: set[int], reason: str) -> list[str]:
        """Act on some of the parameters no longer; their names."""
        names = [each.name for each in self.targets if id(each.parameter) in parameters]
        for each in list(self.targets):
            if each.name in names:
                self._given_up.add(each.name)
                self._leave_out(each, reason)
        self._index()
        return names

    def _index(self) -> None:
        self._by_parameter = {id(each.parameter): each for each in self.targets}
        self._expected: list[tuple[tuple[str, ...], str, Tensor | None]] = [
            *((*self._spots[each.name], each.parameter) for each in self.targets),
            *((*self._spots[name], self._seen.get(name)) for name in self._resting),
        ]

    def _differs(self, model: nn.Module) -> bool:
        # By the plain dictionaries of modules, and in one loop: this is done at every step.
        for path, key, expected in self._expected:
            module: nn.Module | None = model
            for name in path:
                module = module._modules.get(name)  # pyright: ignore[reportPrivateUsage]
                if module is None:
                    break
            if (None if module is None else module._parameters.get(key)) is not expected:  # pyright: ignore[reportPrivateUsage]
                return True
        return False

    def _look_again(self, model: nn.Module, optimizer: Optimizer) -> None:
        places = parameters_of(model)
        self._spots.update({name: (place.path, place.key) for name, place in places.items()})
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        words: list[str] = []
        for target in [*self.targets, *self._resting.values()]:
            place = places.get(target.name)
            parameter = None if place is None else place.parameter
            before = self._seen.get(target.name) if target.name in self._resting else target.parameter
            if parameter is not before:
                word = self._replace(target, parameter, owned, self._taken(optimizer, self))
                words.extend([] if word is None else [f"{target.name}: {word}"])
        if _count(optimizer) != self._count:
            words.extend(self._pick_up(model, owned, self._taken(optimizer, self)))
            self._count = _count(optimizer)
        self._index()
        if words:
            more = f"; and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
            warnings.warn(f"{'; '.join(words[:_SHOWN])}{more}", AttachmentWarning, stacklevel=2)

    def _replace(self, target: Target, parameter: Tensor | None, owned: set[int], taken: set[int]) -> str | None:
        """Go on with the tensor that stands under the name of a target now; say what speaks against it."""
        changed, reason = self._changed(target, parameter)
        if id(parameter) in taken:
            reason = "another attachment acts on the tensor that stands there now"
        if reason is not None:
            self._resting[target.name] = target
            self._seen[target.name] = parameter
            self._leave_out(target, reason)
            return f"{reason}, so nothing acts on it any more"
        if target.name in self._resting:
            self._resting.pop(target.name)
            self._keep(changed)
        else:
            self.targets[:] = [changed if each.name == target.name else each for each in self.targets]
        if id(parameter) in owned:
            return None
        return (
            "another tensor stands there in the model, which the optimizer does not have, so nothing acts on either; "
            "try an optimizer made after it, and attach anew, or add_param_group"
        )

    def _changed(self, target: Target, parameter: Tensor | None) -> tuple[Target, str | None]:
        if parameter is None:
            return target, "the model has no parameter of this name any more"
        reason = obstacle(parameter)
        if reason is not None:
            return target, reason
        try:
            sizes = target.layout.phi_shape(tuple(parameter.shape))
            changed = replace(target, parameter=parameter, shape=sizes)
            self._check(changed)
        except GramianError as error:
            return target, str(error)
        return changed, None

    def _pick_up(self, model: nn.Module, owned: set[int], taken: set[int]) -> list[str]:
        """Take what the first choice selects too and the optimiser has got since; say what cannot be taken."""
        words: list[str] = []
        known = {*(each.name for each in self.targets), *self._resting, *self._given_up}
        acted_on = taken | {id(each.parameter) for each in self.targets}
        found, _ = select_where_possible(model, self._select, self._layouts)
        for each in found:
            if each.name in known or id(each.parameter) in acted_on or id(each.parameter) not in owned:
                continue
            try:
                self._check(each)
            except GramianError as error:
                words.append(f"{error}, so nothing acts on it")
                self._leave_out(each, str(error))
            else:
                self._keep(each)
        return words

    def _keep(self, target: Target) -> None:
        self.targets.append(target)
        self.left[:] = [each for each in self.left if each.name != target.name]

    def _leave_out(self, target: Target, reason: str) -> None:
        self.targets[:] = [each for each in self.targets if each.name != target.name]
        self.left[:] = [each for each in self.left if each.name != target.name]
        self.left.append(Left(target.name, tuple(target.parameter.shape), reason))


def _count(optimizer: Optimizer) -> int:
    return sum(len(group["params"]) for group in optimizer.param_groups)
