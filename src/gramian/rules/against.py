r"""The step against frozen vectors: the prox of β Σ_jk |q_jᵀφ_k|, in closed form.

Let Q be an orthonormal basis of the span of the frozen vectors (`gramian.frozen`) and y = Qᵀφ. Splitting φ into Qy and
the rest, which is orthogonal to Q, makes the prox of ηβ Σ_j |q_jᵀφ| separate: the rest stays as it is, and

    φ ← φ − Q(y − soft(y, ηβ)),     soft(y, τ) = sign(y)·max(|y| − τ, 0).

It comes after a step of the task and before the step within groups. In exact arithmetic:

1. **Zero at a finite β.** Let q_jᵀφ_k = 0, and let a step of gradient descent change φ_k by −ηg_k. Then
   y_j = −ηq_jᵀg_k, which the prox sets to zero if and only if |q_jᵀg_k| ≤ β. So β is the largest gradient of the task
   along one q_j for which the inner product stays exactly zero, for any k, l, m, n and η. If the gradient is larger,
   what exceeds β remains: y_j = −η(q_jᵀg_k ∓ β).
2. **The step within groups keeps it zero.** Every rule of this package changes a group by a product from the right,
   P ← PM with M[n, n]. Then QᵀPM = (QᵀP)M, and each row of QᵀP that is zero stays zero. If QᵀP = 0, the step against
   frozen vectors in turn does not change P, and thus not PᵀP. So the two penalties do not disturb each other, and
   alternating their steps has no error of splitting: with gradient descent and gradients of at most β, the iterates are
   those of the same training of the l − k coordinates in a basis of the complement of Q, without frozen vectors.
3. **Zero after finitely many steps.** Without a gradient of the task, and with free lengths, y_j is zero after |y_j|/ηβ
   steps. If lengths are penalised too, the step within groups lengthens the shortened vector, Qy and the rest by the
   same factor: the share of Qy falls until it is zero, unless there is no rest.
4. β = ∞ projects: φ ← φ − QQᵀφ.

Rounding leaves |q_jᵀφ| of about ε/2·|φ| from storing φ, and about as much from the products. In bfloat16 that is up to
0.4 % of |φ|. It does not accumulate, because every step starts from what is left.
"""

import math

from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import Kernel
from gramian.typing import LearningRate, Phi, Scalar

__all__ = ["shrink", "step_length"]


def step_length(lr: LearningRate, beta: float) -> LearningRate:
    """Return τ = ηβ; infinity for an infinite β at any η, and 0 for β = 0 at any η."""
    if math.isinf(beta):
        return math.inf
    if isinstance(lr, Tensor):
        return lr * beta if beta > 0 else 0.0
    return lr * beta if lr > 0 and beta > 0 else 0.0


def shrink(kernel: Kernel, phi: Phi, Q: Tensor, *, lr: LearningRate, beta: float) -> tuple[Phi, Scalar]:
    r"""Compute the change −Q(Y − soft(Y, ηβ)), with Y = QᵀΦ_i for each group, and the loss before it.

    Args:
        kernel: The kernel that forms Y; it sums over processes that share the coordinates.
        phi: Φ[l, m, n] in its compute dtype.
        Q: Orthonormal columns, [l, m, k] or [l, 1, k].
        lr: Learning rate η ≥ 0.
        beta: Strength β ≥ 0; may be infinite.

    Returns:
        The change of Φ, and the loss βΣ|Y| (at β = 1 if β is infinite).

    Cost:
        4·m·l·k·n flops; one tensor of the size of Φ, and m·k·n numbers.
    """
    Y = kernel.cross_gram(phi, Q)
    tau = step_length(lr, beta)
    loss = (1.0 if math.isinf(beta) else beta) * Y.abs().sum()
    C = Y.clamp(-tau, tau).neg_()  # pyright: ignore  # −(Y − soft(Y, τ))
    return reference.combine(Q, C, rows=phi.stride(0) < phi.stride(2)), loss
