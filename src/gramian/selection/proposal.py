"""What the default policy proposes for one parameter, and functions that its parts share."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gramian.layout import Layout

__all__ = ["Proposal", "kind_of", "layout_of_matrix", "rank_of", "side_of", "weight_is_transposed"]


@dataclass(frozen=True)
class Proposal:
    """What the default policy proposes for one parameter."""

    layout: Layout | None
    """None if it is skipped, or if its axes have no known meaning."""
    reason: str
    chosen: bool = True
    """Whether it is selected by default."""
    barred: bool = False
    """Whether it must not be updated even if the user selects it, because its module computes its weight from it."""
    lazy: bool = False
    """Whether it has no shape before the first batch."""
    angles_only: bool = False
    """Whether lengths are left free unless the user names a penalty."""


def kind_of(module: nn.Module) -> str:
    """Return the name of a module's class, without the class that `fully_shard` adds."""
    kinds = type(module).__mro__
    return kinds[2 if kinds[1].__name__ == "FSDPModule" else 0].__name__


def rank_of(parameter: Tensor) -> int:
    """Return the number of axes; 0 before the first batch of a lazy layer."""
    return 0 if is_lazy(parameter) else parameter.ndim


def weight_is_transposed(module: nn.Module) -> bool:
    """Recognise the Conv1D of Hugging Face's GPT-2, a Linear whose weight is [in, out], without importing it."""
    return kind_of(module) == "Conv1D" and hasattr(module, "nf")


def layout_of_matrix(rows: int, columns: int) -> Layout:
    """Use the rows as vectors if they can be orthonormal, otherwise the columns."""
    return Layout("o i -> i () o") if rows <= columns else Layout("o i -> o () i")


def side_of(rows: int, columns: int) -> str:
    """Name the vectors of `layout_of_matrix`."""
    return "rows" if rows <= columns else "columns"
