"""Measure the weights of a network, or tensors in a mapping or a file, one at a time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from gramian.distributed.sharded import whole_tensor
from gramian.errors import OptionError
from gramian.inspection.measures import statistics
from gramian.inspection.table import Inspection, Row
from gramian.layout import Layout
from gramian.selection import Layouts, Selector, SkippedParameter
from gramian.selection.candidate import Candidate
from gramian.selection.candidates import select_candidates, unusable_reason
from gramian.selection.parameters import candidates_of
from gramian.selection.policy import propose_by_shape
from gramian.typing import Phi

__all__ = ["inspect", "inspect_candidates"]


def inspect(
    weights: nn.Module | Mapping[str, Tensor],
    *,
    select: Selector | None = None,
    exclude: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
) -> Inspection:
    r"""Measure how far the weights of a network are from orthonormal.

    Args:
        weights: A module, whose layers determine the layouts of its weights; or tensors by name, laid out by
            their rank: matrices by rows or columns, convolutions by filters.
        select: Which parameters; see `gramian.attach`.
        exclude: Which of these are left out, by the same patterns.
        layouts: Layouts by pattern, or one for all.

    Returns:
        A row for each parameter: layout, l × m × n, mean and largest |X_jk|, range of the norms, mean and largest
        |cos| of two vectors of a group, condition, effective rank. `since` compares it with an earlier inspection.
        Parameters without values (on the meta device, sparse, empty, of integers) are in `skipped`, with the reason.

    Raises:
        OptionError, LayoutError: As for `gramian.attach`.

    Cost:
        2·m·l·n² flops and the eigenvalues of every Gram matrix, in float64, for each parameter. Sharded
        parameters (FSDP2, tensor parallelism) are gathered one at a time: all processes must call this.

    Examples:
        >>> import torch, gramian
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
        >>> gramian.orthogonalize(model[0].weight, layout="o i -> i () o").converged
        True
        >>> inspection = gramian.inspect(model)
        >>> [row.name for row in inspection.rows], [(each.name, each.reason) for each in inspection.skipped]
        (['0.weight', '1.weight'], [('0.bias', 'a bias'), ('1.bias', 'a bias')])
        >>> inspection.rows[0].statistics.condition >= 1
        True
        >>> [row.name for row in gramian.inspect(model, exclude="1.*").rows]
        ['0.weight']
    """
    if isinstance(weights, nn.Module):
        candidates = candidates_of(weights)
    elif isinstance(weights, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        for name, tensor in weights.items():
            if not isinstance(tensor, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise OptionError(f"weights must be tensors by name; got {type(tensor).__name__} under {name!r}")
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        candidates = [
            Candidate(name, name, shape, propose_by_shape(name, shape), partial(weights.__getitem__, name))
            for name, shape in shapes.items()
        ]
    else:
        raise OptionError(f"weights must be a module or tensors by name; got {type(weights).__name__}")
    return inspect_candidates(candidates, select=select, exclude=exclude, layouts=layouts)


def inspect_candidates(
    candidates: Sequence[Candidate],
    *,
    select: Selector | None,
    exclude: Selector | None = None,
    layouts: Layouts | Layout | str | None,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    visit: Callable[[str, Phi], None] | None = None,
) -> Inspection:
    """Measure tensors that are read one at a time; a sharded one is gathered.

    Args:
        candidates: What may be measured.
        select: Which of them; see `gramian.attach`.
        exclude: Which are left out.
        layouts: Layouts by name, or one for all.
        progress: Wraps the names of the measured tensors, to show progress.
        visit: Called with the name and Φ of each measured tensor.

    Returns:
        As for `inspect`.
    """
    selected, skipped = select_candidates(candidates, select, layouts, exclude=exclude)
    by_name = {choice.candidate.name: choice for choice in selected}
    rows: list[Row] = []
    for name in progress(list(by_name)):
        layout = by_name[name].layout
        tensor = by_name[name].candidate.read().detach()
        reason = unusable_reason(tensor)
        if reason is not None:
            skipped.append(SkippedParameter(name, reason, tuple(tensor.shape)))
            continue
        tensor = whole_tensor(tensor)
        phi = layout.to_phi(tensor)
        length, m, n = phi.shape
        rows.append(Row(name, tuple(tensor.shape), layout, (length, m, n), statistics(phi)))
        if visit is not None:
            visit(name, phi)
    return Inspection(rows, skipped)
