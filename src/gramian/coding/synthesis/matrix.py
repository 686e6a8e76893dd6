"""The synthesis of atoms as long as samples, where the dictionary is a matrix."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.model import Codes, dictionary_matrix
from gramian.coding.synthesis.base import Samples, Synthesis, longest_atom
from gramian.errors import ShapeError
from gramian.typing import Phi

__all__ = ["Dense"]


class Dense(Synthesis):
    """The synthesis of atoms as long as samples: x = Φa.

    A gradient step uses the Gram matrix of all atoms if m·n ≤ 2l, where that is cheaper.

    Args:
        phi: Φ[l, m, n].

    Examples:
        >>> import torch
        >>> dense = Dense(torch.eye(4).reshape(4, 2, 2))
        >>> dense.synthesise(torch.ones(1, 2, 2)).tolist()
        [[1.0, 1.0, 1.0, 1.0]]
    """

    def __init__(self, phi: Phi) -> None:
        self.phi = phi
        self.groups = phi.shape[1:]
        self.D = dictionary_matrix(phi)
        self.uses_gram = self.D.shape[1] <= 2 * self.D.shape[0]
        self._gram: Tensor | None = None

    @property
    def gram(self) -> Float[Tensor, "atoms atoms"]:
        """The Gram matrix of all atoms."""
        if self._gram is None:
            self._gram = self.D.mT @ self.D
        return self._gram

    def zeros(self, x: Samples) -> Codes:
        if x.ndim != 2 or x.shape[1] != self.D.shape[0]:
            raise ShapeError(
                f"samples must have shape [batch, {self.D.shape[0]}], the length of an atom; got {list(x.shape)}"
            )
        return x.new_zeros((x.shape[0], *self.groups))

    def synthesise(self, codes: Codes) -> Samples:
        return codes.flatten(1) @ self.D.mT

    def analyse(self, x: Samples) -> Codes:
        return (x @ self.D).unflatten(1, self.groups)

    def longest(self, x: Samples) -> float:  # noqa: ARG002
        return longest_atom(self.D.mT)

    def gradient(self, error: Samples, codes: Codes) -> Phi:
        return (error.mT @ codes.flatten(1)).div_(len(error)).view(self.phi.shape)

    def descent(self, x: Samples, rate: float) -> Callable[[Codes], Codes]:
        offset = rate * (x @ self.D)
        if self.uses_gram:
            matrix = torch.eye(self.gram.shape[0], dtype=x.dtype, device=x.device) - rate * self.gram
            return lambda codes: torch.addmm(offset, codes.flatten(1), matrix).unflatten(1, self.groups)

        def through_samples(codes: Codes) -> Codes:
            flat = codes.flatten(1)
            return torch.addmm(flat + offset, flat @ self.D.mT, self.D, alpha=-rate).unflatten(1, self.groups)

        return through_samples
