"""The frozen vectors of each selected parameter, given by pattern, and their strength."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gramian.distributed.sharded import whole_tensor
from gramian.errors import GramianError, OptionError
from gramian.frozen import FrozenBasis
from gramian.selection import Pattern, SelectedParameter
from gramian.selection.parameters import candidates_of
from gramian.selection.patterns import Matcher
from gramian.training.attaching.by_pattern import ByPattern
from gramian.training.attaching.strength import Beta, check_strength, strength_at

__all__ = ["Frozen", "FrozenByPattern", "Old"]

Old = Tensor | FrozenBasis | Mapping[str, Any] | Callable[[str], Any] | Sequence[Any]
"""Frozen vectors: a tensor in the layout of the parameter, a basis, a mapping from names of parameters to these, a
function of the name, or a sequence of these, whose vectors are concatenated."""

FrozenByPattern = Mapping[Pattern, Old]
"""Frozen vectors by pattern; the first that matches a parameter is used."""


class Frozen:
    """The bases of the frozen vectors to which the parameters of a model are kept orthogonal.

    Args:
        model: The model, held by a weak reference.
        against: Frozen vectors by pattern.
        beta: Strength against them; None for that of each parameter.
        targets: The selected parameters; every pattern must match one of them.

    Raises:
        OptionError: If a pattern matches no selected parameter, or the strength is invalid.
        DataError, DtypeError, LayoutError, OptionError, ShapeError: If vectors are invalid, as for
            `gramian.frozen.FrozenBasis`, or do not fit their parameter; with its name.
    """

    def __init__(
        self,
        model: nn.Module,
        against: FrozenByPattern | None,
        beta: Beta | None,
        targets: Iterable[SelectedParameter],
    ) -> None:
        if against is not None and not isinstance(against, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                f"against must have frozen vectors by pattern; got {type(against).__name__}; try {{'*lora_A*': old}}"
            )
        self._vectors: ByPattern[Old] | None = None
        self._beta = None if beta is None else check_strength(beta)
        self._bases: dict[str, FrozenBasis | None] = {}
        targets = list(targets)
        if against:
            matcher = Matcher(candidates_of(model), strict=True)
            selected = {target.name for target in targets}
            for pattern in against:
                if not matcher.matching(pattern, "against") & selected:
                    raise OptionError(
                        f"every pattern in against must match a selected parameter; got {pattern!r}, which matches "
                        "none of them; try select with the same pattern"
                    )
            self._vectors = ByPattern(model, against, "against", matcher)
        for target in targets:
            self.of(target)

    def of(self, target: SelectedParameter) -> FrozenBasis | None:
        """Return the basis of the frozen vectors of a parameter, computed once; None if it has none."""
        if self._vectors is None:
            return None
        if target.name not in self._bases:
            self._bases[target.name] = self._basis(self._vectors.get(target.name), target)
        return self._bases[target.name]

    def check(self, target: SelectedParameter, beta: Beta, step: int) -> None:
        """Check that a parameter of strength β can be kept orthogonal to its frozen vectors at a step.

        Raises:
            ShapeError: If they have other sizes; or, if both strengths are infinite, leave fewer than n dimensions.
        """
        basis = self.of(target)
        if basis is not None:
            hard = beta == math.inf and self.strength(math.inf, step) == math.inf
            _named(target.name, lambda: basis.check(target.shape, hard=hard))

    def strength(self, beta: float, step: int) -> float:
        """Return the strength against frozen vectors at a step, for parameters of strength β."""
        return beta if self._beta is None else strength_at(self._beta, step)

    def _basis(self, vectors: Old | None, target: SelectedParameter) -> FrozenBasis | None:
        if vectors is None:
            return None

        def build() -> FrozenBasis:
            parts = _vectors(vectors, target.name)
            if len(parts) == 1 and isinstance(parts[0], FrozenBasis):
                basis = parts[0]
            else:
                basis = FrozenBasis([_tensor(each) for each in parts], layout=target.layout)
            basis.check(target.shape)
            return basis

        return _named(target.name, build)


def _vectors(old: Any, name: str) -> list[Any]:
    """Return the tensors and bases that belong to the parameter of a name."""
    if isinstance(old, (Tensor, FrozenBasis)):
        return [old]
    if isinstance(old, Mapping):
        if name not in old:
            raise OptionError(
                f"a mapping of frozen vectors must have an entry for each parameter that its pattern matches; got none "
                f"among {len(old)} entries; try a function of the name"
            )
        return _vectors(old[name], name)
    if isinstance(old, Sequence) and not isinstance(old, str):
        return [each for part in old for each in _vectors(part, name)]
    if callable(old):
        return _vectors(old(name), name)
    raise OptionError(
        "frozen vectors must be a tensor, a FrozenBasis, a mapping from names, a function of the name or a sequence of "
        f"these; got {type(old).__name__}"
    )


def _tensor(vectors: Any) -> Tensor:
    if isinstance(vectors, FrozenBasis):
        raise OptionError("a FrozenBasis must be the only entry; got several; try FrozenBasis([...]) of all tensors")
    return whole_tensor(vectors.detach())


def _named(name: str, do: Callable[[], Any]) -> Any:
    """Call a function; the errors that it raises name the parameter."""
    try:
        return do()
    except GramianError as error:
        raise type(error)(f"{name}: {error}") from None
