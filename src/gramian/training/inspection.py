"""How orthogonal weights are: of a network, of a mapping of tensors, of a file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gramian.errors import DataError, OptionError
from gramian.kernels import dense
from gramian.layout import Layout
from gramian.training.policy import Proposal, propose, propose_by_shape
from gramian.training.selection import Layouts, Selector, choose_parameters, obstacle
from gramian.training.wrappers import parameters_of, whole_tensor
from gramian.typing import Phi

__all__ = ["HEADER", "Inspection", "Row", "Statistics", "cells_of", "inspect", "inspect_each", "statistics"]

_NUMBERS = 1 << 22
"""Entries of Gram matrices that are held at a time."""

HEADER = ("parameter", "layout", "l × m × n", "mean |X|", "max |X|", "coherence", "condition", "eff. rank")


@dataclass(frozen=True)
class Statistics:
    """How far the groups of a tensor are from orthonormal.

    Attributes:
        mean: Mean |X_jk| of the Gram residuals.
        largest: Largest |X_jk|.
        coherence: Largest |cosine| of two vectors of a group.
        condition: Largest ratio of the singular values of a group; infinite if it is without full rank.
        effective_rank: Exponential of the entropy of the normalised singular values, the mean over groups; n at most.
    """

    mean: float
    largest: float
    coherence: float
    condition: float
    effective_rank: float


@dataclass(frozen=True)
class Row:
    """One parameter."""

    name: str
    shape: tuple[int, ...]
    layout: str
    groups: tuple[int, int, int]
    statistics: Statistics


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: a row for each parameter, and the parameters left out with their reasons."""

    rows: list[Row]
    left: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Give it as plain data, for JSON, which knows no numbers that are not finite: they are None."""

        def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: None if isinstance(each, float) and not isfinite(each) else each for key, each in pairs}

        return {"parameters": [asdict(row, dict_factory=plain) for row in self.rows], "left_out": self.left}

    def __str__(self) -> str:
        if not self.rows:
            return "\n".join(["nothing was measured:", *(f"{name}  {reason}" for name, reason in self.left.items())])
        cells = [HEADER, *(cells_of(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        )


def cells_of(row: Row) -> tuple[str, ...]:
    """Give the cells of a row of a table."""
    numbers = row.statistics
    return (
        row.name, row.layout, " × ".join(map(str, row.groups)), f"{numbers.mean:.1e}", f"{numbers.largest:.1e}",
        f"{numbers.coherence:.3f}", f"{numbers.condition:.3g}", f"{numbers.effective_rank:.1f}",
    )  # fmt: skip


def inspect(
    weights: nn.Module | Mapping[str, Tensor],
    *,
    select: Selector | None = None,
    layouts: Layouts | Layout | str | None = None,
) -> Inspection:
    r"""Tell how far the weights of a network are from orthonormal.

    Args:
        weights: A module, whose kinds of layer say how its weights are laid out; or tensors by name, laid out by their
            rank: matrices by rows or columns, convolutions by filters.
        select: Which parameters; see `gramian.attach`.
        layouts: Layouts by glob or regular expression of names, or one for all.

    Returns:
        A row for each parameter: layout, l × m × n, mean and largest |X_jk|, coherence, condition, effective rank.
        Parameters without values (on the meta device, sparse, empty, of integers) are in `left`, with the reason.

    Raises:
        OptionError, LayoutError: As for `gramian.attach`.

    Cost:
        2·m·l·n² flops and the eigenvalues of every Gram matrix, in float64, for each parameter. Parameters that are
        spread over processes (FSDP2, tensor parallelism) are gathered one at a time: all processes must call.

    Examples:
        >>> import torch, gramian
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
        >>> gramian.orthogonalize(model[0].weight, layout="o i -> i () o").converged
        True
        >>> found = gramian.inspect(model)
        >>> [row.name for row in found.rows], found.left
        (['0.weight', '1.weight'], {'0.bias': 'a bias', '1.bias': 'a bias'})
        >>> found.rows[0].statistics.condition >= 1
        True
    """
    raw: dict[str, str] | None = None
    if isinstance(weights, nn.Module):
        places = parameters_of(weights)
        parameters: dict[str, Tensor] = {name: place.parameter for name, place in places.items()}
        raw = {name: place.raw for name, place in places.items()}
        proposals = propose(weights)
    elif isinstance(weights, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        parameters = dict(weights)
        for name, each in parameters.items():
            if not isinstance(each, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise OptionError(f"weights must be tensors by name; got {type(each).__name__} under {name!r}")
        proposals = {name: propose_by_shape(name, tuple(each.shape)) for name, each in parameters.items()}
    else:
        raise OptionError(f"weights must be a module or tensors by name; got {type(weights).__name__}")
    shapes = {name: () if is_lazy(each) else tuple(each.shape) for name, each in parameters.items()}
    return inspect_each(shapes, parameters.__getitem__, proposals, select, layouts, raw=raw)


def inspect_each(
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    proposals: Mapping[str, Proposal],
    select: Selector | None,
    layouts: Layouts | Layout | str | None,
    *,
    raw: Mapping[str, str] | None = None,
    progress: Callable[[Iterable[str]], Iterable[str]] = iter,
    look: Callable[[str, Phi], None] | None = None,
) -> Inspection:
    """Inspect tensors that are read one at a time; and show each of them, laid out, to `look`.

    Patterns may match the names in `raw` too. Of a tensor that is spread over processes a whole copy is gathered.
    """
    chosen, left = choose_parameters(shapes, read, proposals, select, layouts, raw=raw)
    rows: list[Row] = []
    for name in progress(list(chosen)):
        layout, _ = chosen[name]
        tensor = read(name).detach()
        reason = obstacle(tensor)
        if reason is not None:
            left[name] = reason
            continue
        tensor = whole_tensor(tensor)
        phi = layout.to_phi(tensor)
        length, m, n = phi.shape
        rows.append(Row(name, shapes[name], layout.pattern, (length, m, n), statistics(phi)))
        if look is not None:
            look(name, phi)
    return Inspection(rows, left)


@torch.no_grad()
def statistics(phi: Phi) -> Statistics:
    """Measure how far groups are from orthonormal.

    Args:
        phi: Φ[l, m, n].

    Returns:
        The numbers, from Gram matrices in float64.

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
    few = max(1, _NUMBERS // (n * n))
    parts = torch.stack([_measured(phi[:, first : first + few]) for first in range(0, m, few)])
    if bool(torch.isnan(parts).any()):
        return Statistics(*(float("nan"),) * 5)
    total, rank = parts[:, 0].sum().item(), parts[:, 4].sum().item()
    largest, coherence, condition = parts[:, 1:4].amax(dim=0).tolist()
    return Statistics(total / (m * n * n), largest, coherence, condition, rank / m)


def _measured(phi: Phi) -> Tensor:
    """Give the sum and the largest of |X|, coherence, condition, and the sum of effective ranks, of a few groups."""
    P = dense.group_matrices(phi.double())
    if not bool(torch.isfinite(P).all()):
        return torch.full((5,), torch.nan, dtype=P.dtype, device=P.device)
    n = P.shape[-1]
    tiny, eps = torch.finfo(P.dtype).tiny, torch.finfo(P.dtype).eps
    X = dense.residual(phi.double())  # infinite where a product is beyond float64
    # What does not depend on the scale of a group is read from the group at scale 1: exactly so, by a power of two.
    exponents = torch.frexp(P.abs().amax(dim=(1, 2), keepdim=True)).exponent
    scaled = torch.ldexp(P, -exponents)
    lengths = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    directions = scaled / lengths.clamp_min(tiny)
    cosines = (directions.mT @ directions).abs().clamp_max(1)
    cosines.diagonal(dim1=1, dim2=2).zero_()
    values = torch.linalg.eigvalsh(scaled.mT @ scaled).clamp_min(0).sqrt()
    largest = values[:, -1:]
    # The square root of the rounding of the largest eigenvalue is what a singular value of 0 comes out as.
    values = torch.where(values > largest * (n * eps) ** 0.5, values, 0)
    condition = (largest[:, 0] / values[:, 0]).amax()  # x / 0 is infinite
    share = values / values.sum(dim=1, keepdim=True).clamp_min(tiny)
    ranks = torch.exp(-torch.special.xlogy(share, share).sum(dim=1))
    return torch.stack(
        [X.abs().sum(), X.abs().amax(), cosines.amax(), condition.nan_to_num(torch.inf, torch.inf), ranks.sum()]
    )
