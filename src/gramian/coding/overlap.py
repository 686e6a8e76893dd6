r"""Groups that have atoms in common: each atom stands once in the dictionary, and in several groups."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.coding.prior import Codes
from gramian.errors import OptionError
from gramian.typing import Phi

__all__ = ["Overlap"]

Atoms = Float[Tensor, "l atoms"]


@dataclass(frozen=True, eq=False)
class Overlap:
    r"""Which atoms each group holds.

    Every group gets a copy of its atoms, Φ[l, m, n], and codes of its own, so inference is that of groups that do not
    overlap. The coefficient of an atom is the sum of those of its copies. The prior that this makes for coefficients c
    is the latent one, min Σ_i ‖a_i‖ over all a whose copies sum to c: active atoms are a union of groups.

    Args:
        index: Number of the atom, from 0, [m, n]; every atom in a group at least.

    Raises:
        OptionError: If an atom is in no group, or twice in one.

    Examples:
        >>> import torch
        >>> overlap = Overlap.ring(6, size=3, step=2)
        >>> overlap.index.tolist()
        [[0, 1, 2], [2, 3, 4], [4, 5, 0]]
        >>> overlap.expand(torch.eye(6)).shape
        torch.Size([6, 3, 3])
        >>> overlap.fold(torch.ones(1, 3, 3)).tolist()
        [[2.0, 1.0, 2.0, 1.0, 2.0, 1.0]]

    References:
        Jacob, Obozinski and Vert, "Group lasso with overlap and graph lasso", 2009.
    """

    index: Int[Tensor, "m n"]

    def __post_init__(self) -> None:
        ordered = self.index.sort(dim=1).values
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            raise OptionError("an atom must stand once in a group; got one that stands there twice")
        found = torch.unique(self.index)
        if not torch.equal(found, torch.arange(len(found), device=found.device)):
            raise OptionError(
                f"atoms must be numbered from 0 and each be in a group; got {len(found)} numbers from "
                f"{int(found[0])} to {int(found[-1])}"
            )

    @classmethod
    def ring(cls, atoms: int, *, size: int, step: int = 1) -> "Overlap":
        """Make groups of neighbours on a ring.

        Args:
            atoms: Number of atoms.
            size: Atoms in a group.
            step: Distance of the beginnings of two groups; a divisor of `atoms`, at most `size`.

        Raises:
            OptionError: If they do not go round.
        """
        if not (1 <= step <= size <= atoms) or atoms % step:
            raise OptionError(
                f"groups on a ring need 1 ≤ step ≤ size ≤ atoms, and a step that divides atoms; got atoms = {atoms}, "
                f"size = {size}, step = {step}"
            )
        return cls((torch.arange(0, atoms, step)[:, None] + torch.arange(size)) % atoms)

    @classmethod
    def torus(cls, rows: int, columns: int, *, side: int) -> "Overlap":
        """Make a topographic map: a square of neighbours round every place of a grid whose edges meet.

        Args:
            rows: Height of the grid; there are rows·columns atoms, row by row, and as many groups.
            columns: Width of the grid.
            side: Side of a square.

        Raises:
            OptionError: If squares are larger than the grid.
        """
        if not 1 <= side <= min(rows, columns):
            raise OptionError(f"side must lie between 1 and the grid's {min(rows, columns)}; got {side}")
        row, column = torch.arange(rows)[:, None, None, None], torch.arange(columns)[:, None, None]
        down, right = torch.arange(side)[:, None], torch.arange(side)
        return cls(((row + down) % rows * columns + (column + right) % columns).reshape(rows * columns, side * side))

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return int(self.index.max()) + 1

    def expand(self, atoms: Atoms) -> Phi:
        """Give each group its copies, Φ[l, m, n]."""
        return atoms[:, self.index.to(atoms.device)]

    def total(self, phi: Phi) -> Atoms:
        """Sum over the copies of each atom: the transpose of `expand`."""
        sums = phi.new_zeros((phi.shape[0], self.atoms))
        return sums.index_add_(1, self.index.reshape(-1).to(phi.device), phi.flatten(1))

    def mean(self, phi: Phi) -> Atoms:
        """Average over the copies of each atom."""
        counts = torch.bincount(self.index.reshape(-1), minlength=self.atoms)
        return self.total(phi) / counts.to(phi)

    def fold(self, codes: Codes) -> Float[Tensor, "batch atoms"]:
        """Give the coefficients of atoms: the sum of those of their copies."""
        sums = codes.new_zeros((codes.shape[0], self.atoms))
        return sums.index_add_(1, self.index.reshape(-1).to(codes.device), codes.flatten(1))
