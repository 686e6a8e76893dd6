"""Attach to a model whose parameters are divided among several optimisers, as in a GAN."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from torch import Tensor, nn

from gramian.errors import OptionError
from gramian.selection import select_parameters
from gramian.selection.patterns import as_selector
from gramian.training import Attachment, attach

__all__ = ["attach_each", "check_options"]


def check_options(options: Mapping[str, Any]) -> None:
    """Check the names of options before the training starts.

    Raises:
        OptionError: If they are not those of `gramian.attach`, or beta is missing.
    """
    try:
        signature(attach).bind(None, None, **options)
    except TypeError as error:
        raise OptionError(f"options must be those of gramian.attach; got {error}; try help(gramian.attach)") from None


def attach_each(optimizers: Sequence[Any], model: nn.Module, options: Mapping[str, Any]) -> list[Attachment]:
    """Attach to each optimiser, with those selected parameters that it has.

    Args:
        optimizers: The optimisers of a model.
        model: The model.
        options: Options of `gramian.attach`.

    Returns:
        One attachment for each optimiser that has selected parameters.

    Raises:
        OptionError: If there is no optimiser; and as for `gramian.attach`, for example if a selected parameter is in
            none of them.
    """
    if not optimizers:
        raise OptionError("there must be an optimizer; got none; try configure_optimizers that returns one")
    if len(optimizers) == 1:
        return [attach(optimizers[0], model, **options)]
    select = as_selector(options.get("select"))
    exclude = as_selector(options.get("exclude"), name="exclude") or ()
    selected, _ = select_parameters(model, select, options.get("layouts"), exclude=exclude)
    having = [each for each in optimizers if any(_has(each, target.parameter) for target in selected)]
    attachments: list[Attachment] = []
    for optimizer in having or optimizers[:1]:  # where none has any, attach raises its error

        def elsewhere(_: str, parameter: Tensor, optimizer: Any = optimizer) -> bool:
            return not _has(optimizer, parameter) and any(_has(other, parameter) for other in optimizers)

        chosen: dict[str, Any] = {**options, "select": select, "exclude": (*exclude, elsewhere)}
        attachments.append(attach(optimizer, model, **chosen))
    return attachments


def _has(optimizer: Any, parameter: Tensor) -> bool:
    return any(parameter is each for group in optimizer.param_groups for each in group["params"])
