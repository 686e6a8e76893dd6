"""The initial dictionary and the learning-rate schedule."""

import math

import torch

from gramian.errors import OptionError
from gramian.options import whole_number
from gramian.typing import Phi

__all__ = ["cosine_decay", "initial_dictionary"]


def initial_dictionary(length: int, n_groups: int, group_size: int, *, seed: int) -> Phi:
    """Draw atoms of random direction and unit length; the first steps of learning make their groups orthonormal.

    Args:
        length: Length l of an atom.
        n_groups: Number of groups m.
        group_size: Number of atoms in a group, n ≤ l.
        seed: Seed of the draw.

    Returns:
        Φ[l, m, n] in float32.

    Raises:
        OptionError: If the group size exceeds the length, or a size is not a positive whole number.
    """
    length, n_groups, group_size = (
        whole_number(value, name=name, least=None)
        for name, value in (("length", length), ("n_groups", n_groups), ("group_size", group_size))
    )
    if min(length, n_groups, group_size) < 1:
        raise OptionError(f"sizes must be positive; got l = {length}, m = {n_groups}, n = {group_size}")
    if group_size > length:
        raise OptionError(
            f"group_size must be at most the length of an atom; got {group_size} atoms of length {length}; try longer "
            "samples or smaller groups"
        )
    generator = torch.Generator().manual_seed(whole_number(seed, name="seed", least=None) % 2**63)
    phi = torch.randn(length, n_groups, group_size, generator=generator, device="cpu")
    return phi / torch.linalg.vector_norm(phi, dim=0, keepdim=True)


def cosine_decay(lr: float, step: int, steps: int) -> float:
    """Compute the learning rate at a step; it falls from `lr` at step 0 to 0 at step `steps`, along half a cosine.

    Args:
        lr: Learning rate at step 0.
        step: Number of steps so far.
        steps: Number of all steps; after them the rate is 0.

    Returns:
        ½·lr·(1 + cos(π·step/steps)).

    Examples:
        >>> cosine_decay(0.5, 0, 100), round(cosine_decay(0.5, 50, 100), 6)
        (0.5, 0.25)
    """
    return 0.5 * lr * (1 + math.cos(math.pi * min(step / steps, 1.0)))
