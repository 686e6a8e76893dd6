"""Dictionary learning: mini-batches, the dictionary's gradient, and the decoupled orthogonality step."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.fista import fista
from gramian.coding.inference import InferenceMethod
from gramian.coding.prior import dictionary_matrix, energy, group_norms, reconstruct
from gramian.errors import OptionError
from gramian.penalties import Penalty
from gramian.rules import Rule, step_
from gramian.typing import Phi

__all__ = ["LearningStep", "cosine_decay", "initial_dictionary", "learning_step"]


@dataclass(frozen=True)
class LearningStep:
    """What one learning step did.

    Attributes:
        phi: The new dictionary.
        reconstruction: Mean over the batch of ½‖x − Σ Φ_i a_i‖², before the step.
        sparsity: Mean of λ Σ ‖a_i‖, before the step.
        orthogonality: Σ_i μ(Φ_iᵀΦ_i − I) after the gradient, before the orthogonality step; 0 without a rule.
        active_groups: Mean number of groups that are not zero.
    """

    phi: Phi
    reconstruction: float
    sparsity: float
    orthogonality: float
    active_groups: float


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
        OptionError: If the group size exceeds the length, or a size is not positive.
    """
    if min(length, n_groups, group_size) < 1:
        raise OptionError(f"sizes must be positive; got l = {length}, m = {n_groups}, n = {group_size}")
    if group_size > length:
        raise OptionError(
            f"a group cannot hold more orthonormal atoms than an atom has pixels; got {group_size} atoms of "
            f"{length} pixels; try larger patches or smaller groups"
        )
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(length, n_groups, group_size, generator=generator)
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
    max_iter: int = 20,
) -> LearningStep:
    r"""Infer the codes of a batch, move the dictionary down its gradient, then make its groups orthonormal.

    Φ ← Φ + η·mean_x (x − Σ Φ_i a_i) aᵀ, then one step of the rule with the same η: the penalty is not part of the
    gradient. Without a rule, atoms are only scaled to unit length, since else they would grow without bound.

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
        Inference, 2·max_iter·batch·(m·n)² flops, dominates; the rule adds 4·m·l·n².

    Examples:
        >>> import torch
        >>> phi = initial_dictionary(16, 4, 2, seed=0)
        >>> learning_step(torch.randn(8, 16), phi, lam=0.5, lr=0.1, beta=0.1).phi.shape
        torch.Size([16, 4, 2])
    """
    with torch.no_grad():
        codes = method(x, phi, lam=lam, max_iter=max_iter, tol=0.0).codes
        terms = energy(x, phi, codes, lam)
        error = x - reconstruct(phi, codes)
        D = torch.addmm(dictionary_matrix(phi), error.mT, codes.flatten(1), alpha=lr / x.shape[0])
        moved = D.view(phi.shape)
        orthogonality = 0.0
        if rule is None:
            moved = moved / torch.linalg.vector_norm(moved, dim=0, keepdim=True)
        else:
            orthogonality = float(step_(moved, lr=lr, beta=beta, rule=rule, penalty=penalty))
            orthogonality = orthogonality / beta if beta > 0 else 0.0
        reconstruction, sparsity = float(terms.reconstruction.mean()), float(terms.sparsity.mean())
        if not math.isfinite(reconstruction + sparsity + orthogonality):
            raise OptionError(
                f"learning must stay finite; it diverged with lr = {lr:.3g}, beta = {beta:g}, rule = {rule!r}; try a "
                "smaller lr or beta, or rule='proximal'"
            )
        return LearningStep(
            phi=moved,
            reconstruction=reconstruction,
            sparsity=sparsity,
            orthogonality=orthogonality,
            active_groups=float((group_norms(codes) > 0).sum(dim=1).double().mean()),
        )


def cosine_decay(lr: float, step: int, steps: int) -> float:
    """Give the learning rate at a step: from `lr` at 0 to 0 at `steps`, along half a cosine.

    Examples:
        >>> cosine_decay(0.5, 0, 100), round(cosine_decay(0.5, 50, 100), 6)
        (0.5, 0.25)
    """
    return 0.5 * lr * (1 + math.cos(math.pi * min(step / steps, 1.0)))
