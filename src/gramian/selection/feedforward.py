"""Feed-forward layers that store several matrices in one weight: gate and up, and the experts of a mixture."""

from collections.abc import Iterator

from torch import nn

from gramian.layout import Layout
from gramian.selection.proposal import Proposal, kind_of, rank_of

__all__ = ["feedforward_proposals"]

_FUSED = "gate_up_proj"
_NAMES = (_FUSED, "up_proj", "down_proj")


def feedforward_proposals(model: nn.Module) -> Iterator[tuple[str, Proposal]]:
    """Propose a layout by matrix for weights that hold several.

    A Linear layer `gate_up_proj` has the rows of the gate first, then those of up. The weights of experts have one
    slice for each expert; in transformers, their module tells whether a slice is [in, out] instead of [out, in]
    (`is_transposed`), and whether the rows of gate and up alternate (`is_concatenated`).

    Args:
        model: Any module.

    Returns:
        Names as in `model.named_parameters()`, with proposals.

    Examples:
        >>> mlp = nn.ModuleDict({"gate_up_proj": nn.Linear(8, 12), "down_proj": nn.Linear(6, 8)})
        >>> for name, proposal in feedforward_proposals(mlp):
        ...     print(name, proposal.layout, proposal.reason)
        gate_up_proj.weight (two o) i -> i two o; two=2 rows of gate and up of Linear
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        stacked = isinstance(getattr(module, "is_transposed", None), bool)
        fused = isinstance(module, nn.Linear) and prefix.removesuffix(".base_layer").endswith(_FUSED)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            rank, raw = rank_of(parameter), f"{prefix}.{name}" if prefix else name
            if rank == 0 or 0 in parameter.shape:
                continue
            if fused and name == "weight" and rank == 2 and parameter.shape[0] % 2 == 0:
                yield raw, _of_fused(module, tuple(parameter.shape))
            elif stacked and name in _NAMES and rank == 3:
                yield raw, _of_experts(module, name, tuple(parameter.shape))


def _of_fused(module: nn.Module, shape: tuple[int, ...]) -> Proposal:
    by_rows = shape[0] // 2 <= shape[1]
    layout = Layout("(two o) i -> i two o" if by_rows else "(two o) i -> o two i", two=2)
    return Proposal(layout, f"{'rows' if by_rows else 'columns'} of gate and up of {kind_of(module)}")


def _of_experts(module: nn.Module, name: str, shape: tuple[int, ...]) -> Proposal:
    across = bool(module.is_transposed)
    outputs, inputs = (shape[2], shape[1]) if across else (shape[1], shape[2])
    rows, group, sizes = "o", "e", {}
    if name == _FUSED and outputs % 2 == 0:
        rows = "(two o)" if getattr(module, "is_concatenated", True) else "(o two)"
        group, sizes, outputs = "(e two)", {"two": 2}, outputs // 2
    left = f"e i {rows}" if across else f"e {rows} i"
    by_rows = outputs <= inputs
    right = f"i {group} o" if by_rows else f"o {group} i"
    vectors = "rows" if by_rows != across else "columns"
    what = "gate and up of each expert" if sizes else "each expert"
    return Proposal(Layout(f"{left} -> {right}", **sizes), f"{vectors} of {what} of {kind_of(module)}")
