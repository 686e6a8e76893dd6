"""The loss and the residuals of an attachment as numbers with names, and how a logger receives them."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from gramian.errors import OptionError

__all__ = ["name_metrics", "write_metrics"]

_METHODS = ("log_metrics", "log_dict", "log")
"""Methods of loggers that take a dictionary. Where there are several, `log` takes a name and a value."""


def name_metrics(loss: float | None, residuals: Mapping[str, float]) -> dict[str, float]:
    """Name the loss and the residuals of each parameter; 'gramian/residual' is the largest of them.

    Args:
        loss: The loss; None to leave it out.
        residuals: The largest |X_jk| by parameter.

    Examples:
        >>> name_metrics(0.5, {"0.weight": 0.25})
        {'gramian/loss': 0.5, 'gramian/residual': 0.25, 'gramian/residual/0.weight': 0.25}
    """
    metrics = {} if loss is None else {"gramian/loss": loss}
    if residuals:
        metrics["gramian/residual"] = max(residuals.values())
    return metrics | {f"gramian/residual/{name}": value for name, value in residuals.items()}


def write_metrics(logger: Any, metrics: Mapping[str, float], *, step: int | None, updates: int) -> None:
    """Pass metrics to a logger by the first of `add_scalar`, `log_metrics`, `log_dict` and `log` that it has.

    Args:
        logger: Such an object; None writes nothing.
        metrics: Numbers by name.
        step: The step of the logger. By default the number of updates; for `log`, which may count steps itself, none.
        updates: Number of updates so far.

    Raises:
        OptionError: If the logger has none of these methods.
    """
    if logger is None:
        return
    if callable(getattr(logger, "add_scalar", None)):
        for name, value in metrics.items():
            logger.add_scalar(name, value, updates if step is None else step)
        return
    methods = {name: getattr(logger, name) for name in _METHODS if callable(getattr(logger, name, None))}
    if "log_metrics" in methods and not _takes_step(methods["log_metrics"]):
        del methods["log_metrics"]  # that of the Trainer of Hugging Face prints, and takes the name of a split first
    if not methods:
        raise OptionError(
            "logger must have add_scalar(name, value, step), log_metrics(dict, step), log_dict(dict) or log(dict); got "
            f"{type(logger).__name__}; try metrics(), which returns the numbers"
        )
    name, method = next(iter(methods.items()))
    if step is None and name != "log":
        step = updates
    method(dict(metrics), **({} if step is None or not _takes_step(method) else {"step": step}))


def _takes_step(method: Callable[..., Any]) -> bool:
    parameters = signature(method).parameters
    return "step" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
