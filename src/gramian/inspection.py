"""Measurements of how orthogonal the weights of a network, or tensors in a mapping or a file, are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from gramian.distributed.sharded import whole_tensor
from gramian.errors import DataError, OptionError
from gramian.kernels import reference
from gramian.layout import Layout
from gramian.selection import Layouts, Selector, SkippedParameter
from gramian.selection.candidate import Candidate
from gramian.selection.candidates import select_candidates, unusable_reason
from gramian.selection.parameters import candidates_of
from gramian.selection.policy import propose_by_shape
from gramian.tables import aligned
from gramian.typing import Phi

__all__ = ["Inspection", "Row", "Statistics", "inspect", "statistics"]

_NUMBERS = 1 << 22
"""Entries of Gram matrices that are in memory at a time."""

COLUMNS = ("parameter", "layout", "l × m × n", "mean |X|", "max |X|", "coherence", "condition", "eff. rank")


@dataclass(frozen=True)
class Statistics:
    """How far the groups of a tensor are from orthonormal.

    Attributes:
        mean: Mean |X_jk| of the Gram residual.
        largest: Largest |X_jk|.
        coherence: Largest |cosine| of two vectors of a group.
        condition: Largest ratio of the singular values of a group; infinite if its rank is deficient.
        effective_rank: Exponential of the entropy of the normalised singular values, at most n; the mean over groups.
    """

    mean: float
    largest: float
    coherence: float
    condition: float
    effective_rank: float


@dataclass(frozen=True)
class Row:
    """One measured parameter: its name, shape, layout, (l, m, n) and statistics."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    groups: tuple[int, int, int]
    statistics: Statistics

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table, in the order of `COLUMNS`."""
        numbers = self.statistics
        return (
            self.name, self.layout.pattern, " × ".join(map(str, self.groups)), f"{numbers.mean:.1e}",
            f"{numbers.largest:.1e}", f"{numbers.coherence:.3f}", f"{numbers.condition:.3g}",
            f"{numbers.effective_rank:.1f}",
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class Inspection:
    """The measured parameters, and the skipped ones with their reasons. It prints as a table."""

    rows: list[Row]
    skipped: list[SkippedParameter]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which has no infinite numbers and no NaN: they become None."""

        def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in pairs}

        rows = [asdict(row, dict_factory=plain) | {"layout": row.layout.pattern} for row in self.rows]
        return {"parameters": rows, "skipped": {parameter.name: parameter.reason for parameter in self.skipped}}

    def __repr__(self) -> str:
        if not self.rows:
            return "\n".join(
                ["nothing was measured:", *(f"{parameter.name}  {parameter.reason}" for parameter in self.skipped)]
            )
        # Layouts as Python code, so that they can be used in `layouts`.
        rows = [(row.name, repr(str(row.layout)), *row.cells()[2:]) for row in self.rows]
        return "\n".join(aligned([COLUMNS, *rows]))


def inspect(
    weights: nn.Module | Mapping[str, Tensor],
    *,
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
) -> Inspection:
    r"""Measure how far the weights of a network are from orthonormal.

    Args:
        weights: A module, whose layers determine the layouts of its weights; or tensors by name, laid out by
            their rank: matrices by rows or columns, convolutions by filters.
        select: Which parameters; see `gramian.attach`.
        layouts: Layouts by glob or regular expression of names, or one for all.

    Returns:
        A row for each parameter: layout, l × m × n, mean and largest |X_jk|, coherence, condition, effective rank.
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
    return inspect_candidates(candidates, select=select, layouts=layouts)


def inspect_candidates(
    candidates: Sequence[Candidate],
    *,
    select: Selector | None,
    layouts: Layouts | Layout | str | None,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    visit: Callable[[str, Phi], None] | None = None,
) -> Inspection:
    """Measure tensors that are read one at a time; a sharded one is gathered.

    Args:
        candidates: What may be measured.
        select: Which of them; see `gramian.attach`.
        layouts: Layouts by name, or one for all.
        progress: Wraps the names of the measured tensors, to show progress.
        visit: Called with the name and Φ of each measured tensor.

    Returns:
        As for `inspect`.
    """
    selected, skipped = select_candidates(candidates, select, layouts)
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


@torch.no_grad()
def statistics(phi: Phi) -> Statistics:
    """Measure how far groups are from orthonormal.

    Args:
        phi: Φ[l, m, n].

    Returns:
        The statistics, from Gram matrices in float64.

    Raises:
        DataError: If Φ is empty.

    Examples:
        >>> import torch
        >>> statistics(torch.eye(4)[:, None, :2])
        Statistics(mean=0.0, largest=0.0, coherence=0.0, condition=1.0, effective_rank=2.0)
    """
    if phi.numel() == 0:
        raise DataError(f"a tensor must have entries to be measured; got shape {list(phi.shape)}")
    _, m, n = phi.shape
    chunk = max(1, _NUMBERS // (n * n))
    parts = torch.stack([_measure(phi[:, first : first + chunk]) for first in range(0, m, chunk)])
    if bool(torch.isnan(parts).any()):
        return Statistics(*(float("nan"),) * 5)
    total, rank = parts[:, 0].sum().item(), parts[:, 4].sum().item()
    largest, coherence, condition = parts[:, 1:4].amax(dim=0).tolist()
    return Statistics(total / (m * n * n), largest, coherence, condition, rank / m)


def _measure(phi: Phi) -> Tensor:
    """Return sum and maximum of |X|, coherence, condition, and the sum of effective ranks, of a chunk of groups."""
    P = reference.group_matrices(phi.double())
    if not bool(torch.isfinite(P).all()):
        return torch.full((5,), torch.nan, dtype=P.dtype, device=P.device)
    n = P.shape[-1]
    tiny, eps = torch.finfo(P.dtype).tiny, torch.finfo(P.dtype).eps
    X = reference.residual(phi.double())  # infinite where a product overflows
    # Coherence, condition and rank do not depend on the scale of a group: divide by a power of two, which is exact.
    exponents = torch.frexp(P.abs().amax(dim=(1, 2), keepdim=True)).exponent
    scaled = torch.ldexp(P, -exponents)
    lengths = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    directions = scaled / lengths.clamp_min(tiny)
    cosines = (directions.mT @ directions).abs().clamp_max(1)
    cosines.diagonal(dim1=1, dim2=2).zero_()
    values = torch.linalg.eigvalsh(scaled.mT @ scaled).clamp_min(0).sqrt()
    largest = values[:, -1:]
    # A singular value of 0 is computed as up to the square root of the rounding error of the largest eigenvalue.
    values = torch.where(values > largest * (n * eps) ** 0.5, values, 0)
    condition = (largest[:, 0] / values[:, 0]).amax()  # x / 0 is infinite
    share = values / values.sum(dim=1, keepdim=True).clamp_min(tiny)
    ranks = torch.exp(-torch.special.xlogy(share, share).sum(dim=1))
    return torch.stack(
        [X.abs().sum(), X.abs().amax(), cosines.amax(), condition.nan_to_num(torch.inf, torch.inf), ranks.sum()]
    )
