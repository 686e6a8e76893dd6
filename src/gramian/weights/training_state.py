"""The states of optimisers, schedulers and trainers in a checkpoint, recognised by their structure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["slots_among", "state_of_training"]

OPTIMISER = "state of an optimiser"
SCHEDULER = "state of a scheduler"
SCALER = "state of a gradient scaler"
TRAINER = "state of a trainer"

_SLOTS = frozenset({
    "momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_diff",
    "exp_inf", "square_avg", "grad_avg", "acc_delta", "exp_hessian", "exp_avg_slow", "d_numerator",
})  # fmt: skip
"""Names of tensors that optimisers store for a parameter, and that no weight has."""

_BESIDE_SLOTS = _SLOTS | {
    *("step", "sum", "prev", "step_size", "mu", "mu_product", "eta", "ax", "row_var", "col_var", "variance"),
    *("neg_pre_grad", "z", "s", "old_dirs", "old_stps", "al", "d", "t"),
}
"""Names that count only if one of the above is stored for the same parameter."""

_NAMED = {
    **dict.fromkeys(
        ("optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict", "optim", "opt"),
        OPTIMISER,
    ),
    **dict.fromkeys(
        ("optim_state_dict", "opt_state", "last_optimizer_state", "base_optimizer_state", "optimizer_history"),
        OPTIMISER,
    ),
    **dict.fromkeys(
        ("scheduler", "schedulers", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "lr_scheduler_state_dict"),
        SCHEDULER,
    ),
    **dict.fromkeys(("scaler", "grad_scaler", "scaler_state_dict", "amp"), SCALER),
}
"""Names that trainers use; they count for mappings and lists that hold tensors, not for a tensor."""

_OF_TRAINERS = {
    *("callbacks", "loops", "hyper_parameters", "datamodule_hyper_parameters", "native_amp_scaling_state"),
    *("amp_scaling_state", "hparams_name", "datamodule_hparams_name"),
}
"""Names beside the `state_dict` in a checkpoint of a trainer."""


def state_of_training(key: object, value: Any, parent: Any) -> str | None:
    """Return the kind of training state that a part of a checkpoint is; None if it may be weights.

    The state of an optimiser is recognised by its parameter groups, or by a step that is stored for each parameter;
    that of a scheduler by its last epoch and learning rates; that of a gradient scaler by its factors; that of a
    trainer by the entries beside it. Other structures are recognised by their names.

    Args:
        key: Its name or number in its parent.
        value: The part.
        parent: The mapping or list that holds it.

    Examples:
        >>> import torch
        >>> parameter = torch.nn.Parameter(torch.zeros(2))
        >>> state_of_training("anything", torch.optim.SGD([parameter], lr=0.1).state_dict(), {})
        'state of an optimiser'
        >>> state_of_training("model", {"weight": parameter}, {}) is None
        True
    """
    if isinstance(value, Mapping):
        keys = {name for name in value if isinstance(name, str)}
        if _is_of_optimiser(value):
            return OPTIMISER
        if "last_epoch" in keys and keys & {"base_lrs", "_step_count", "_last_lr"}:
            return SCHEDULER
        if {"growth_factor", "backoff_factor"} <= keys:
            return SCALER
    if not isinstance(value, (Mapping, list, tuple)) or not isinstance(key, str):
        return None
    if key in _OF_TRAINERS and isinstance(parent, Mapping) and isinstance(parent.get("state_dict"), Mapping):
        return TRAINER
    return _NAMED.get(key)


def _is_of_optimiser(value: Mapping[Any, Any]) -> bool:
    groups = value.get("param_groups")
    if isinstance(groups, Sequence) and groups and all(isinstance(group, Mapping) for group in groups):
        return all("params" in group for group in groups) or isinstance(value.get("state"), Mapping)
    # Or only its entries for each parameter: each has the number of steps, which the parts of a layer do not have.
    return bool(value) and all(
        isinstance(state, Mapping) and not isinstance(state.get("step"), (Mapping, type(None)))
        for state in value.values()
    )


def slots_among(names: Iterable[str]) -> set[str]:
    """Find tensors that an optimiser stores for a parameter among flat names, as in `state.layer.weight.exp_avg`.

    Examples:
        >>> sorted(slots_among(["w", "w.step", "v.step", "state.w.exp_avg", "state.w.step"]))
        ['state.w.exp_avg', 'state.w.step']
    """
    parts = [(name, *name.rpartition(".")[::2]) for name in names]
    heads = {head for _, head, last in parts if last in _SLOTS}
    return {name for name, head, last in parts if head in heads and last in _BESIDE_SLOTS and (head or last in _SLOTS)}
