"""The steps after the derivative: vec, the second derivative, kinks, other meanings of |·|, and updates."""

import torch
from torch import Tensor

from gramian.calculus.gradient_steps import quotient
from gramian.calculus.gradients import gradient_by_vec, gram_jacobian, hessian_vector_product, residual
from gramian.calculus.kinks import directional_derivative
from gramian.calculus.setting import Setting
from gramian.calculus.step import QUOTIENT, Step
from gramian.calculus.vec import vec
from gramian.penalties import L1

__all__ = ["FURTHER_STEPS"]

_AT_KINK = 1e-3
"""Length of a step away from orthonormal vectors, large enough to see."""


def _tall(s: Setting) -> bool:
    return s.n <= s.length


def _has_kinks(s: Setting) -> bool:
    return isinstance(s.mu, L1) and s.mu.diagonal and _tall(s)


def _smooth_almost_everywhere(s: Setting) -> bool:
    return s.penalty in ("l1", "huber", "squared_frobenius", "frobenius", "logdet")


def _second(s: Setting) -> tuple[Tensor, Tensor]:
    left = quotient(lambda P: 2 * s.beta * P @ s.mu.subgradient(residual(P)), s.P, s.dP)
    return left, s.beta * hessian_vector_product(s.P, s.dP, s.mu)


def _kink(s: Setting) -> tuple[Tensor, Tensor]:
    # Rounding of Q leaves residuals of about 1e-16: far below the step, but not zero.
    step = 1e-7
    rise = (s.value(s.Q + step * s.dP) - s.value(s.Q)) / step
    return rise, s.beta * directional_derivative(s.Q, s.dP, tol=1e-12)


def _determinant(s: Setting) -> tuple[Tensor, Tensor]:
    gram = s.P.mT @ s.P
    slope = 2 * torch.det(gram) * torch.trace(torch.linalg.solve(gram, s.P.mT @ s.dP))
    return quotient(lambda P: torch.det(P.mT @ P), s.P, s.dP), slope


def _normal_step(s: Setting) -> tuple[Tensor, Tensor]:
    S = 0.1 * s.dX
    eye = torch.eye(s.n, dtype=torch.float64, device="cpu")
    return residual(s.Q @ (eye - S)), -2 * S + S @ S


def _model(s: Setting, S: Tensor, tau: float) -> Tensor:
    """Compute τμ(X − 2S)/4 + ‖S‖²/2, which is η times the objective that the proximal step minimises."""
    return tau * s.mu.value(s.X - 2 * S) / 4 + S.square().sum() / 2


def _proximal_step(s: Setting) -> tuple[Tensor, Tensor]:
    tau = 0.3
    S = s.mu.prox_residual(s.X, torch.tensor(tau, dtype=torch.float64, device="cpu")) / 2
    generator = torch.Generator().manual_seed(s.seed + 1)
    others = torch.randn(50, s.n, s.n, generator=generator, dtype=torch.float64, device="cpu")
    others = 0.05 * (others + others.mT)
    least = torch.stack([_model(s, S + other, tau) for other in others]).min()
    return _model(s, S, tau), least


FURTHER_STEPS: tuple[Step, ...] = (
    Step(
        "vec of a product", "the Jacobian of X",
        r"\mathrm{vec}(dX) = (I_{n^2} + K_{nn})\,(I_n \otimes P^\top)\,\mathrm{vec}(dP)",
        r"$\mathrm{vec}$ stacks the columns of a matrix, $\mathrm{vec}(A\,B) = (I \otimes A)\,\mathrm{vec}(B)$, and "
        r"the commutation matrix has $K_{nn}\,\mathrm{vec}(A) = \mathrm{vec}(A^\top)$.",
        "$dX$, column below column", "the product",
        lambda s: (vec(s.dX)[:, None], (gram_jacobian(s.P) @ vec(s.dP))[:, None]),
    ),
    Step(
        "Transpose of the Jacobian", "the derivative once more",
        r"\mathrm{vec}\bigl(\frac{\partial L}{\partial \Phi_a}\bigr) "
        r"= \beta\,(I_n \otimes P)\,(I_{n^2} + K_{nn})\,\mathrm{vec}(G)",
        r"$K_{nn}\,\mathrm{vec}(G) = \mathrm{vec}(G)$, because $G$ is symmetric: the middle factor becomes 2. The "
        r"numbers "
        "are matrices again.",
        "the product, as a matrix", r"$2\beta\,P\,G$",
        lambda s: (s.beta * gradient_by_vec(s.P, s.mu), 2 * s.beta * s.P @ s.G),
    ),
    Step(
        "Product rule", "the second derivative",
        r"d(2\beta\,P\,G) = 2\beta\,(dP)\,G + 2\beta\,P\,(dG)",
        r"For l1 the signs do not change under a small change of $P$: $dG = 0$ almost everywhere, and the first term "
        "remains.",
        "difference quotient of the derivative along $dP$", "the formula",
        _second, tolerance=QUOTIENT, applies=_smooth_almost_everywhere,
    ),
    Step(
        "One-sided derivative", "at a kink",
        r"L'(Q; V) = \beta\sum_{jk} \left|Q^\top V + V^\top Q\right|_{jk} \text{ where } Q^\top Q = I",
        r"At orthonormal $Q$ every entry of $X$ is 0, at its kink. In every direction $V$ with "
        r"$Q^\top V + V^\top Q \ne 0$ the loss increases in proportion to the step, forward and backward.",
        "forward difference quotient along $V = dP$", "the sum",
        _kink, tolerance=QUOTIENT, applies=_has_kinks,
    ),
    Step(
        "Mistake", "a zero subgradient means that the loss is flat",
        r"L(Q + 0.001\,V) \ne L(Q)",
        r"With $\mathrm{sign}(0) = 0$ the formula gives 0 at $Q$. This says that $Q$ is a minimum, where 0 is one of "
        r"the "
        "subgradients, and not that a small step changes nothing.",
        "the loss after a small step", "the loss at $Q$",
        lambda s: (s.value(s.Q + _AT_KINK * s.dP), s.value(s.Q)), relation="≠", applies=_has_kinks,
    ),
    Step(
        "Chain rule", r"another reading of $\left|\cdot\right|$, the Frobenius norm",
        r"d\left\|X\right\|_F = \bigl(\frac{X}{\left\|X\right\|_F}\bigr) : dX",
        r"The penalty `frobenius`: one norm of the matrix in the place of the absolute values of its entries. Its one "
        r"kink "
        "is at $X = 0$.",
        "difference quotient along $dP$", "the formula",
        lambda s: (quotient(lambda P: torch.linalg.matrix_norm(residual(P)), s.P, s.dP),
                   (s.X * s.dX).sum() / torch.linalg.matrix_norm(s.X)), tolerance=QUOTIENT,
    ),
    Step(
        "Jacobi's formula", r"a third reading of $\left|\cdot\right|$, the determinant",
        r"d\det(P^\top P) = 2\,\det(P^\top P)\,\mathrm{tr}\bigl((P^\top P)^{-1}\,P^\top\,dP\bigr)",
        r"The penalty `logdet` uses it. The two terms of the product rule merge, because $(P^\top P)^{-1}$ is "
        r"symmetric.",
        "difference quotient along $dP$", "the formula",
        _determinant, tolerance=QUOTIENT, applies=_tall,
    ),
    Step(
        "Expansion", "an update of orthonormal vectors",
        r"(Q\,(I - S))^\top\,Q\,(I - S) - I = -2\,S + S^2 \text{ where } Q^\top Q = I,\; S = S^\top",
        r"So $P\,(I - S)$ changes $X$ by $-2\,S$, up to the square of $S$, near orthonormal vectors.",
        "the residual after the update", "the formula",
        _normal_step, applies=_tall,
    ),
    Step(
        "Prox", "the proximal step",
        r"S = \tfrac12\,C_\tau(X) \text{ minimises } \beta\,\mu(X - 2\,S) + \frac{\left\|S\right\|_F^2}{2\,\eta}, "
        r"\quad \tau = 4\,\eta\,\beta",
        r"With $Y = X - 2\,S$ the minimiser is the prox of $\tau\,\mu$ at $X$, and $C_\tau(X)$ is $X$ minus that prox.",
        r"$\eta$ times the value at $S$", r"the least of $\eta$ times the values at fifty other matrices",
        _proximal_step, relation="≤", applies=lambda s: s.mu.has_prox,
    ),
)  # fmt: skip
"""The steps after the derivative, in order."""
