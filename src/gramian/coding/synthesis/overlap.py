r"""Groups that share atoms: the dictionary holds each atom once, and several groups may contain it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.coding.model import Codes
from gramian.errors import OptionError
from gramian.typing import Phi

__all__ = ["Overlap"]

Atoms = Float[Tensor, "l atoms"]


@dataclass(frozen=True, eq=False)
class Overlap:
    r"""The atoms of each group, where groups may share atoms.

    Every group has a copy of its atoms in Φ[l, m, n], with separate coefficients, so inference is the same as without
    overlap. The coefficient of an atom is the sum of the coefficients of its copies. The resulting prior of
    coefficients c is the latent group lasso, min Σ_i ‖a_i‖ over all a whose copies sum to c: the active atoms are a
    union of groups.

    Args:
        index: Indices of the atoms of each group, from 0, [m, n]; every atom is in at least one group.

    Raises:
        OptionError: If an atom is in no group, or twice in one group.

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
            raise OptionError("an atom must occur at most once in a group; got one that occurs twice")
        numbers = torch.unique(self.index)
        if not torch.equal(numbers, torch.arange(len(numbers), device=numbers.device)):
            raise OptionError(
                f"atoms must be numbered from 0, and each must be in a group; got {len(numbers)} numbers from "
                f"{int(numbers[0])} to {int(numbers[-1])}"
            )

    @classmethod
    def ring(cls, atoms: int, *, size: int, step: int = 1) -> "Overlap":
        """Create groups of consecutive atoms on a ring.

        Args:
            atoms: Number of atoms.
            size: Number of atoms in a group.
            step: Distance between the first atoms of consecutive groups; a divisor of `atoms`, at most `size`.

        Raises:
            OptionError: If `step` does not divide `atoms`, or 1 ≤ step ≤ size ≤ atoms does not hold.
        """
        if not (1 <= step <= size <= atoms) or atoms % step:
            raise OptionError(
                f"a ring must have 1 ≤ step ≤ size ≤ atoms, and a step that divides atoms; got atoms = {atoms}, "
                f"size = {size}, step = {step}"
            )
        return cls((torch.arange(0, atoms, step)[:, None] + torch.arange(size)) % atoms)

    @classmethod
    def torus(cls, rows: int, columns: int, *, side: int) -> "Overlap":
        """Create a topographic map: one square group at every position of a grid with periodic boundaries.

        Args:
            rows: Height of the grid; it has rows·columns atoms, numbered row by row, and as many groups.
            columns: Width of the grid.
            side: Side of a square.

        Raises:
            OptionError: If the squares are larger than the grid.
        """
        if not 1 <= side <= min(rows, columns):
            raise OptionError(
                f"side must be between 1 and {min(rows, columns)}, the shorter side of the grid; got {side}"
            )
        row, column = torch.arange(rows)[:, None, None, None], torch.arange(columns)[:, None, None]
        down, right = torch.arange(side)[:, None], torch.arange(side)
        return cls(((row + down) % rows * columns + (column + right) % columns).reshape(rows * columns, side * side))

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return int(self.index.max()) + 1

    def expand(self, atoms: Atoms) -> Phi:
        """Copy the atoms of each group, to Φ[l, m, n]."""
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
        """Compute the coefficients of atoms: the sums over their copies."""
        sums = codes.new_zeros((codes.shape[0], self.atoms))
        return sums.index_add_(1, self.index.reshape(-1).to(codes.device), codes.flatten(1))
