"""Lengths that a penalty leaves free: set to 1 while directions are made orthogonal, and given back."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gramian.kernels import dense
from gramian.layout import as_phi, from_phi
from gramian.penalties import Penalty
from gramian.rules.apply import Operand, put_
from gramian.typing import Phi

__all__ = ["free_lengths"]


@contextmanager
def free_lengths(operands: Sequence[Operand], penalty: Penalty) -> Generator[Callable[[], None]]:
    """Give a function to be called after each step, which sets lengths to 1; at the end they are what they were.

    Where the penalty sees lengths, or inner products that depend on them, as those of a `Target`, nothing is changed.
    Vectors of length 0 are left alone.

    Args:
        operands: What is stepped; written to.
        penalty: The penalty.

    Yields:
        The function.
    """
    if penalty.diagonal or not penalty.centred:
        yield _nothing
        return
    before = [_lengths(_phi(each)) for each in operands]

    def set_lengths() -> None:
        for each, lengths in zip(operands, before, strict=True):
            _scale_(each, torch.ones_like(lengths))

    try:
        yield set_lengths
    finally:
        for each, lengths in zip(operands, before, strict=True):
            _scale_(each, lengths)


def _nothing() -> None:
    pass


def _phi(operand: Operand) -> Phi:
    return as_phi(operand.tensor, operand.layout)


def _lengths(phi: Phi) -> Tensor:
    return torch.linalg.vector_norm(phi, dim=0, dtype=dense.compute_dtype(phi.dtype))


def _scale_(operand: Operand, lengths: Tensor) -> None:
    phi = _phi(operand)
    current = _lengths(phi)
    scaled = phi * torch.where(current > 0, lengths / current, 1)
    put_(operand.tensor, from_phi(scaled, operand.tensor, operand.layout))
