"""Dictionaries: the first one, one step, and how fast to go."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.fista import fista
from gramian.coding.inference import InferenceMethod
from gramian.coding.learner import Learner, LearningStep
from gramian.coding.options import whole_number
from gramian.errors import OptionError
from gramian.penalties import Penalty
from gramian.rules import Rule
from gramian.typing import Phi

__all__ = ["cosine_decay", "initial_dictionary", "learning_step"]


def initial_dictionary(length: int, n_groups: int, group_size: int, *, seed: int) -> Phi:
    """Draw atoms of random direction and unit length: what the rule makes orthonormal in the first steps.

    Args:
        length: Length l of an atom.
        n_groups: Number of groups m.
        group_size: Atoms in a group, n ≤ l.
        seed: Seed of the draw.

    Returns:
        Φ[l, m, n], float32.

    Raises:
        OptionError: If the group size exceeds the length, or a size is not a positive whole number.
    """
    length, n_groups, group_size = (
        whole_number(value, name=name, least=-(2**63))
        for name, value in (("length", length), ("n_groups", n_groups), ("group_size", group_size))
    )
    if min(length, n_groups, group_size) < 1:
        raise OptionError(f"sizes must be positive; got l = {length}, m = {n_groups}, n = {group_size}")
    if group_size > length:
        raise OptionError(
            f"a group cannot hold more orthonormal atoms than an atom has pixels; got {group_size} atoms of "
            f"{length} pixels; try larger patches or smaller groups"
        )
    generator = torch.Generator().manual_seed(whole_number(seed, name="seed", least=-(2**63)) % 2**63)
    phi = torch.randn(length, n_groups, group_size, generator=generator, device="cpu")
    return phi / torch.linalg.vector_norm(phi, dim=0, keepdim=True)


def learning_step(
    x: Float[Tensor, "batch l"],
    phi: Phi,
    *,
    lam: float,
    lr: float,
    beta: float,
    rule: str | Rule | None = "proximal",
    penalty: str | Penalty = "l1",
    method: InferenceMethod = fista,
    max_iter: int = 10,
) -> LearningStep:
    r"""Make one step of a `Learner`: infer codes, move the dictionary down its gradient, make its groups orthonormal.

    Args:
        x: Samples [batch, l] of unit variance.
        phi: Dictionary Φ[l, m, n]; not written to.
        lam: Sparsity λ.
        lr: Learning rate η.
        beta: Strength β of the orthogonality penalty.
        rule: Name or `Rule`, or None for no penalty.
        penalty: Name or `Penalty`.
        method: Inference method.
        max_iter: Iterations of inference.

    Returns:
        The new dictionary and the terms of the objective.

    Raises:
        OptionError: If the energy is no longer finite: the rule has diverged.

    Cost:
        That of `Learner.step`.

    Examples:
        >>> import torch
        >>> phi = initial_dictionary(16, 4, 2, seed=0)
        >>> learning_step(torch.randn(8, 16), phi, lam=0.5, lr=0.1, beta=0.1).phi.shape
        torch.Size([16, 4, 2])
    """
    learner = Learner(phi, lam=lam, beta=beta, rule=rule, penalty=penalty, infer=method, max_iter=max_iter)
    return learner.step(x, lr=lr)


def cosine_decay(lr: float, step: int, steps: int) -> float:
    """Give the learning rate at a step: from `lr` at 0 to 0 at `steps`, along half a cosine.

    Examples:
        >>> cosine_decay(0.5, 0, 100), round(cosine_decay(0.5, 50, 100), 6)
        (0.5, 0.25)
    """
    return 0.5 * lr * (1 + math.cos(math.pi * min(step / steps, 1.0)))
