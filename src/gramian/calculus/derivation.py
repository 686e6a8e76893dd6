"""The derivation of the gradient as data: each step has a claim, the rule it follows from, and both sides as numbers.

The command `gramian explain`, the documentation and the tests use the same steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gramian.calculus.gradients import (
    derivative_by_vector,
    gradient_by_index,
    gradient_by_vec,
    gram_jacobian,
    hessian_vector_product,
    residual,
)
from gramian.calculus.kinks import directional_derivative
from gramian.calculus.setting import Setting
from gramian.calculus.vec import vec
from gramian.penalties import L1

__all__ = ["STEPS", "CheckedStep", "Step", "derive"]

_SMALL = 1e-6
"""Step of a difference quotient."""
_ROUNDING, _QUOTIENT = 1e-10, 1e-4
"""Relative errors of rounding, and of a difference quotient."""

Sides = Callable[[Setting], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Step:
    """One step of the derivation.

    Attributes:
        title: A short name.
        claim: The equation or inequality.
        latex: The claim in LaTeX.
        because: The rule that it follows from; for a common mistake, why it is wrong.
        sides: Computes both sides of the claim.
        relation: '=', '≤', or '≠' for a common mistake.
        tolerance: Relative error that is allowed.
        applies: Tells whether the step is valid for a setting.
    """

    title: str
    claim: str
    latex: str
    because: str
    sides: Sides
    relation: str = "="
    tolerance: float = _ROUNDING
    applies: Callable[[Setting], bool] = lambda setting: True  # noqa: ARG005

    @property
    def exact(self) -> bool:
        """Whether the sides may differ by rounding only, because neither of them is a difference quotient."""
        return self.tolerance <= _ROUNDING


@dataclass(frozen=True, eq=False)
class CheckedStep:
    """A step with the numbers of both sides.

    Attributes:
        step: The step.
        lhs: The left-hand side.
        rhs: The right-hand side.
    """

    step: Step
    lhs: Tensor = field(repr=False)
    rhs: Tensor = field(repr=False)

    @property
    def difference(self) -> float:
        """Largest absolute difference between entries of both sides."""
        return (self.lhs - self.rhs).abs().max().item()

    @property
    def holds(self) -> bool:
        """Whether the numbers satisfy the relation."""
        scale = 1 + max(self.lhs.abs().max().item(), self.rhs.abs().max().item())
        if self.step.relation == "≤":
            return bool((self.lhs <= self.rhs + self.step.tolerance * scale).all())
        equal = self.difference <= self.step.tolerance * scale
        return not equal if self.step.relation == "≠" else equal


def derive(setting: Setting) -> Iterator[CheckedStep]:
    """Check every step of the derivation on numbers.

    Args:
        setting: Sizes, penalty and seed.

    Returns:
        The steps that apply to the setting, with the numbers of both sides.

    Examples:
        >>> all(checked.holds for checked in derive(Setting(5, 2, 3)))
        True
    """
    for step in STEPS:
        if step.applies(setting):
            yield CheckedStep(step, *step.sides(setting))


def _quotient(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    return (function(at + _SMALL * direction) - function(at - _SMALL * direction)) / (2 * _SMALL)


def _by_index(s: Setting) -> Tensor:
    gram = torch.zeros(s.n, s.n, dtype=torch.float64, device="cpu")
    for j in range(s.n):
        for k in range(s.n):
            gram[j, k] = sum(s.P[p, j] * s.P[p, k] for p in range(s.length)) - int(j == k)
    return gram


def _change_of_loss(s: Setting) -> tuple[Tensor, Tensor]:
    changed = s.phi.clone()
    changed[:, s.a] += s.dP
    whole = torch.stack([s.value(changed[:, i]) - s.value(s.phi[:, i]) for i in range(s.m)]).sum()
    return whole, s.value(s.P + s.dP) - s.value(s.P)


def _off(G: Tensor) -> Tensor:
    return G - torch.diag(G.diagonal())


def _model(s: Setting, S: Tensor, tau: float) -> Tensor:
    """Compute τμ(X − 2S)/4 + ‖S‖²/2, which is η times the objective that the proximal step minimises."""
    return tau * s.mu.value(s.X - 2 * S) / 4 + S.square().sum() / 2


def _proximal_step(s: Setting) -> tuple[Tensor, Tensor]:
    tau = 0.3
    S = s.mu.prox_residual(s.X, torch.tensor(tau, dtype=torch.float64, device="cpu")) / 2
    generator = torch.Generator().manual_seed(s.seed + 1)
    others = torch.randn(50, s.n, s.n, generator=generator, dtype=torch.float64, device="cpu")
    others = 0.05 * (others + others.mT)
    return _model(s, S, tau).expand(50), torch.stack([_model(s, S + other, tau) for other in others])


def _tall(s: Setting) -> bool:
    return s.n <= s.length


def _determinant(s: Setting) -> tuple[Tensor, Tensor]:
    gram = s.P.mT @ s.P
    slope = 2 * torch.det(gram) * torch.trace(torch.linalg.solve(gram, s.P.mT @ s.dP))
    return _quotient(lambda P: torch.det(P.mT @ P), s.P, s.dP), slope


def _kink(s: Setting) -> tuple[Tensor, Tensor]:
    # Rounding of Q leaves residuals of about 1e-16: far below the step, but not zero.
    step = 1e-7
    rise = (s.value(s.Q + step * s.dP) - s.value(s.Q)) / step
    return rise, directional_derivative(s.Q, s.dP, tol=1e-12)


def _normal_step(s: Setting) -> tuple[Tensor, Tensor]:
    S = 0.1 * s.dX
    eye = torch.eye(s.n, dtype=torch.float64, device="cpu")
    return residual(s.Q @ (eye - S)), -2 * S + S @ S


STEPS: tuple[Step, ...] = (
    Step(
        "The residual", "X_jk = Σ_p P_pj P_pk − δ_jk = (PᵀP − I)_jk",
        r"X_{jk} = \sum_p P_{pj}P_{pk} - \delta_{jk} = (P^\top P - I)_{jk}",
        "P = Φ_a has the vectors of one group as columns; X is zero if and only if they are orthonormal.",
        lambda s: (_by_index(s), s.X),
    ),
    Step(
        "Groups are independent", "L(Φ with Φ_a changed) − L(Φ) = μ(X_a changed) − μ(X_a)",
        r"L(\ldots,\Phi_a + d\Phi_a,\ldots) - L(\Phi) = \mu(X_a + dX_a) - \mu(X_a)",
        "L = β Σ_i μ(X_i), and X_i depends on Φ_i only; β = 1 from here on.",
        _change_of_loss,
    ),
    Step(
        "The differential of the residual", "dX = PᵀdP + dPᵀP", r"dX = P^\top dP + dP^\top P",
        "The product rule; I is constant. (The left-hand side is a central difference, exact for a quadratic.)",
        lambda s: ((residual(s.P + s.dP) - residual(s.P - s.dP)) / 2, s.dX),
    ),
    Step(
        "A common mistake: merging the two terms", "dX ≠ 2PᵀdP", r"dX \neq 2P^\top dP",
        "PᵀdP and dPᵀP are transposes of each other, and not equal. They can be merged only inside a contraction with "
        "a symmetric matrix, as in the steps below.",
        lambda s: (s.dX, 2 * s.P.mT @ s.dP), relation="≠", applies=lambda s: s.n > 1,
    ),
    Step(
        "The differential of the penalty", "dμ = Σ_jk G_jk dX_jk = G : dX, with G ∈ ∂μ(X)",
        r"d\mu = \sum_{jk} G_{jk}\,dX_{jk} = G : dX,\quad G \in \partial\mu(X)",
        "The chain rule; for l1 G_jk = sign X_jk, since d|x| = sign(x) dx away from 0. "
        "(The left-hand side is a difference quotient.)",
        lambda s: (_quotient(s.value, s.P, s.dP), (s.G * s.dX).sum()), tolerance=_QUOTIENT,
    ),
    Step(
        "Inside the contraction the two terms merge", "G : (PᵀdP + dPᵀP) = (G + Gᵀ) : PᵀdP",
        r"G : (P^\top dP + dP^\top P) = (G + G^\top) : P^\top dP",
        "A : Bᵀ = Aᵀ : B.",
        lambda s: ((s.G * s.dX).sum(), ((s.G + s.G.mT) * (s.P.mT @ s.dP)).sum()),
    ),
    Step(
        "G is symmetric", "G = Gᵀ", r"G = G^\top", "X is symmetric, and so is its subgradient; therefore G + Gᵀ = 2G.",
        lambda s: (s.G, s.G.mT),
    ),
    Step(
        "P moves to the other factor", "2G : PᵀdP = 2PG : dP", r"2G : P^\top dP = 2PG : dP",
        "A : BᵀC = BA : C, because both are tr AᵀBᵀC.",
        lambda s: (2 * (s.G * (s.P.mT @ s.dP)).sum(), 2 * ((s.P @ s.G) * s.dP).sum()),
    ),
    Step(
        "The gradient", "∂L/∂P = 2PG(PᵀP − I)", r"\frac{\partial L}{\partial P} = 2\,P\,G(P^\top P - I)",
        "The factor of dP. (The left-hand side is automatic differentiation of the loss as it is defined.)",
        lambda s: (s.autograd()[:, s.a], 2 * s.P @ s.G),
    ),
    Step(
        "A common mistake: masking the diagonal", "∂L/∂P ≠ 2P(G ∘ (1 − δ))",
        r"\frac{\partial L}{\partial P} \neq 2P\,\bigl(G \circ (\mathbf{1} - I)\bigr)",
        "X_jj = ‖P_j‖² − 1 depends on P_j too: without the diagonal of G the lengths are free. The two sides differ "
        "by 2 G_jj P_j.",
        lambda s: (2 * s.P @ s.G, 2 * s.P @ _off(s.G)), relation="≠", applies=lambda s: bool(s.G.diagonal().any()),
    ),
    Step(
        "A common mistake: counting a pair once", "∂L/∂P ≠ PG", r"\frac{\partial L}{\partial P} \neq P\,G",
        "A pair has two entries in X, X_jk and X_kj, and ‖P_j‖² is quadratic in P_j: hence the factor 2.",
        lambda s: (2 * s.P @ s.G, s.P @ s.G), relation="≠", applies=lambda s: bool((s.P @ s.G).abs().max() > _SMALL),
    ),
    Step(
        "By one vector", "∂L/∂Φ_ab = 2 Σ_j Φ_aj G_jb",
        r"\frac{\partial L}{\partial \Phi_{ab}} = 2\sum_j \Phi_{aj}\,G_{jb}",
        "Column b of 2PG.",
        lambda s: (s.autograd()[:, s.a, s.b], derivative_by_vector(s.phi, s.a, s.b, s.mu)),
    ),
    Step(
        "In index notation", "Γ_pil = 2 Σ_j Φ_pij G_ijl",
        r"\Gamma_{pil} = 2\sum_j \Phi_{pij}\,G_{ijl}",
        "The same for every group i; Γ = ∂L/∂Φ has the shape of Φ.",
        lambda s: (s.autograd(), gradient_by_index(s.phi, s.mu)),
    ),
    Step(
        "By vec", "d vec X = (I + K)(I ⊗ Pᵀ) d vec P",
        r"d\,\mathrm{vec}\,X = (I_{n^2} + K_{nn})(I_n \otimes P^\top)\, d\,\mathrm{vec}\,P",
        "vec(AB) = (I ⊗ A) vec B, and K_nn vec A = vec Aᵀ.",
        lambda s: (vec(s.dX), gram_jacobian(s.P) @ vec(s.dP)),
    ),
    Step(
        "The gradient by vec", "vec ∂L/∂P = ((I + K)(I ⊗ Pᵀ))ᵀ vec G",
        r"\mathrm{vec}\,\frac{\partial L}{\partial P} = (I_n \otimes P)(I_{n^2} + K_{nn})\,\mathrm{vec}\,G",
        "The transpose of the Jacobian; K vec G = vec G, because G is symmetric.",
        lambda s: (gradient_by_vec(s.P, s.mu), 2 * s.P @ s.G),
    ),
    Step(
        "The second derivative", "d(2PG) = 2dP·G + 2P·dG[dX]",
        r"d(2PG) = 2\,dP\,G + 2P\,dG[dX]",
        "The product rule again. For l1 dG = 0 almost everywhere, and 2dP·G remains.",
        lambda s: (_quotient(lambda P: 2 * P @ s.mu.subgradient(residual(P)), s.P, s.dP),
                   hessian_vector_product(s.P, s.dP, s.mu)),
        tolerance=_QUOTIENT,
        applies=lambda s: s.penalty in ("l1", "huber", "squared_frobenius", "frobenius", "logdet"),
    ),
    Step(
        "At a kink", "L'(Q; V) = Σ_jk |QᵀV + VᵀQ|_jk, where QᵀQ = I",
        r"L'(Q; V) = \sum_{jk}\left|Q^\top V + V^\top Q\right|_{jk},\quad Q^\top Q = I",
        "At orthonormal Q every entry of X is at its kink: the loss increases in every direction that changes X, in "
        "proportion to the step. The derivative is one-sided; sign(0) = 0 is the subgradient of least norm there.",
        _kink, tolerance=_QUOTIENT, applies=lambda s: isinstance(s.mu, L1) and _tall(s),
    ),
    Step(
        "Another meaning of |·|: the Frobenius norm", "d‖X‖_F = (X/‖X‖_F) : dX",
        r"d\|X\|_F = \frac{X}{\|X\|_F} : dX", "The penalty `frobenius`: its one kink is at X = 0.",
        lambda s: (_quotient(lambda P: torch.linalg.matrix_norm(residual(P)), s.P, s.dP),
                   (s.X * s.dX).sum() / torch.linalg.matrix_norm(s.X)), tolerance=_QUOTIENT,
    ),
    Step(
        "A third meaning: the determinant", "d|PᵀP| = 2 |PᵀP| tr((PᵀP)⁻¹PᵀdP)",
        r"d\left|P^\top P\right| = 2\,\left|P^\top P\right|\,\mathrm{tr}\bigl((P^\top P)^{-1}P^\top dP\bigr)",
        "Jacobi's formula, which the penalty `logdet` uses; the two terms merge, because (PᵀP)⁻¹ is symmetric.",
        _determinant, tolerance=_QUOTIENT, applies=_tall,
    ),
    Step(
        "The update near orthonormal", "(Q(I − S))ᵀQ(I − S) − I = −2S + S², S symmetric, where QᵀQ = I",
        r"(Q(I-S))^\top Q(I-S) - I = -2S + S^2", "So P(I − S) changes X by −2S, to first order.",
        _normal_step, applies=_tall,
    ),
    Step(
        "The proximal step", "S = ½C_τ(X) minimises βμ(X − 2S) + ‖S‖²/2η, τ = 4ηβ",
        r"S = \tfrac12 C_\tau(X) \text{ minimises } \beta\mu(X - 2S) + \tfrac{1}{2\eta}\|S\|_F^2,"
        r"\quad \tau = 4\eta\beta",
        "With Y = X − 2S it is the prox of τμ at X, and C_τ(X) = X − prox_τμ(X). (The left-hand side is η times the "
        "value at S, the right-hand side η times that at fifty other matrices.)",
        _proximal_step, relation="≤",
    ),
)  # fmt: skip
"""The derivation, in order."""
