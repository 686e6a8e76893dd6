"""The derivation of the gradient as data: each step a claim, the rule it follows by, and both of its sides as numbers.

The command `gramian explain`, the page of the documentation and the tests read the same steps.
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
from gramian.calculus.kronecker import vec
from gramian.errors import OptionError, ShapeError
from gramian.penalties import L1, LogDet, Penalty, as_penalty

__all__ = ["ROUNDING", "STEPS", "Checked", "Setting", "Step", "derive"]

_SMALL = 1e-6
"""Length of a difference quotient."""
ROUNDING, _QUOTIENT = 1e-10, 1e-4
"""Relative errors that rounding explains, and a difference quotient."""
_ENTRIES, _JACOBIAN = 2**12, 2**20
"""Most entries of Φ, and of the largest matrix that is written out: a few seconds of plain loops."""

Sides = Callable[["Setting"], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Setting:
    """Random numbers on which every claim is tried, in float64.

    Args:
        length: l.
        m: Number of groups.
        n: Vectors in a group.
        penalty: Name or `Penalty`.
        a: The group that is looked at.
        b: The vector of it.
        seed: Of the random numbers.

    Raises:
        ShapeError: If a size is below 1, sizes are too large to be written out, or there is no such group or vector.
        OptionError: If the penalty is infinite for vectors that must depend on each other (logdet, n > l), or the
            seed is out of the range of torch.
    """

    length: int
    m: int
    n: int
    penalty: str | Penalty = "l1"
    a: int = 0
    b: int = 0
    seed: int = 0
    phi: Tensor = field(init=False, repr=False)
    dP: Tensor = field(init=False, repr=False)  # noqa: N815

    def __post_init__(self) -> None:
        if min(self.length, self.m, self.n) < 1:
            raise ShapeError(f"l, m and n must be at least 1; got {self.length}, {self.m}, {self.n}")
        entries, jacobian = self.length * self.m * self.n, self.n**3 * max(self.length, self.n)
        if entries > _ENTRIES or jacobian > _JACOBIAN:
            raise ShapeError(
                f"l·m·n must be at most {_ENTRIES} and n³·max(l, n) at most {_JACOBIAN}, because every matrix is "
                f"written out; got {self.length}, {self.m}, {self.n} for l, m and n; try smaller ones"
            )
        if not (0 <= self.a < self.m and 0 <= self.b < self.n):
            raise ShapeError(
                f"the vector must be one of {self.m} groups of {self.n}, from 0; got group {self.a}, vector {self.b}"
            )
        if isinstance(self.mu, LogDet) and self.n > self.length:
            raise OptionError(f"logdet is infinite for n > l; got n = {self.n}, l = {self.length}; try fewer vectors")
        if not -(2**63) <= self.seed < 2**64 - 1:
            raise OptionError(f"the seed must be from -2⁶³ to 2⁶⁴ - 2; got {self.seed}")
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.length, self.m, self.n)
        scale = 0.8 / self.length**0.5
        object.__setattr__(
            self, "phi", scale * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        )
        object.__setattr__(
            self, "dP", torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")[:, self.a]
        )

    @property
    def mu(self) -> Penalty:
        """The penalty."""
        return as_penalty(self.penalty)

    @property
    def P(self) -> Tensor:  # noqa: N802
        """The group that is looked at, [l, n]."""
        return self.phi[:, self.a]

    @property
    def X(self) -> Tensor:  # noqa: N802
        """Its Gram residual, [n, n]."""
        return residual(self.P)

    @property
    def G(self) -> Tensor:  # noqa: N802
        """∂μ at X, [n, n]."""
        return self.mu.dual(self.X)

    @property
    def dX(self) -> Tensor:  # noqa: N802
        """PᵀdP + dPᵀP, [n, n]."""
        half = self.P.mT @ self.dP
        return half + half.mT

    @property
    def Q(self) -> Tensor:  # noqa: N802
        """An orthonormal group, [l, n]; n ≤ l."""
        return torch.linalg.qr(self.P).Q

    def value(self, P: Tensor) -> Tensor:
        """Give μ(PᵀP − I)."""
        return self.mu.value(residual(P))

    def autograd(self) -> Tensor:
        """Give ∂L/∂Φ as torch differentiates the plain expression."""
        leaf = self.phi.clone().requires_grad_()
        loss = torch.stack([self.value(leaf[:, i]) for i in range(self.m)]).sum()
        return torch.autograd.grad(loss, leaf)[0]


@dataclass(frozen=True)
class Step:
    """One line of the derivation.

    Attributes:
        title: What it is about.
        claim: The line.
        latex: The line in LaTeX.
        because: The rule that it follows by; of a mistake, why it is one.
        sides: Both sides, as numbers.
        relation: '=', '≤', or '≠' for a tempting mistake.
        tolerance: Relative error that is allowed.
        applies: Whether the line makes sense there.
    """

    title: str
    claim: str
    latex: str
    because: str
    sides: Sides
    relation: str = "="
    tolerance: float = ROUNDING
    applies: Callable[[Setting], bool] = lambda setting: True  # noqa: ARG005


@dataclass(frozen=True)
class Checked:
    """A step with its numbers."""

    step: Step
    left: Tensor
    right: Tensor

    @property
    def difference(self) -> float:
        """Largest difference of an entry."""
        return (self.left - self.right).abs().max().item()

    @property
    def holds(self) -> bool:
        """Whether the numbers bear the relation out."""
        scale = 1 + max(self.left.abs().max().item(), self.right.abs().max().item())
        if self.step.relation == "≤":
            return bool((self.left <= self.right + self.step.tolerance * scale).all())
        equal = self.difference <= self.step.tolerance * scale
        return not equal if self.step.relation == "≠" else equal


def derive(setting: Setting) -> Iterator[Checked]:
    """Go through the derivation, and try every line on numbers.

    Args:
        setting: Sizes, penalty and seed.

    Returns:
        Each step that makes sense there, with both of its sides.

    Examples:
        >>> all(checked.holds for checked in derive(Setting(5, 2, 3)))
        True
    """
    for step in STEPS:
        if step.applies(setting):
            yield Checked(step, *step.sides(setting))


def _quotient(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    return (function(at + _SMALL * direction) - function(at - _SMALL * direction)) / (2 * _SMALL)


def _by_index(s: Setting) -> Tensor:
    gram = torch.zeros(s.n, s.n, dtype=torch.float64, device="cpu")
    for j in range(s.n):
        for k in range(s.n):
            gram[j, k] = sum(s.P[p, j] * s.P[p, k] for p in range(s.length)) - int(j == k)
    return gram


def _without_others(s: Setting) -> tuple[Tensor, Tensor]:
    changed = s.phi.clone()
    changed[:, s.a] += s.dP
    whole = torch.stack([s.value(changed[:, i]) - s.value(s.phi[:, i]) for i in range(s.m)]).sum()
    return whole, s.value(s.P + s.dP) - s.value(s.P)


def _off(G: Tensor) -> Tensor:
    return G - torch.diag(G.diagonal())


def _model(s: Setting, S: Tensor, tau: float) -> Tensor:
    """τμ(X − 2S)/4 + ‖S‖²/2: the model of the step times η."""
    return tau * s.mu.value(s.X - 2 * S) / 4 + S.square().sum() / 2


def _least(s: Setting) -> tuple[Tensor, Tensor]:
    tau = 0.3
    S = s.mu.shrink(s.X, torch.tensor(tau, dtype=torch.float64, device="cpu")) / 2
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
    # Rounding of Q leaves residuals of 1e-16: far below the step, far above zero.
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
        "P = Φ_a holds the vectors of one group as columns; X is how far they are from orthonormal.",
        lambda s: (_by_index(s), s.X),
    ),
    Step(
        "Groups do not meet", "L(Φ with Φ_a changed) − L(Φ) = μ(X_a changed) − μ(X_a)",
        r"L(\ldots,\Phi_a + d\Phi_a,\ldots) - L(\Phi) = \mu(X_a + dX_a) - \mu(X_a)",
        "L = β Σ_i μ(X_i), and X_i is made of Φ_i alone; β = 1 from here on.",
        _without_others,
    ),
    Step(
        "The differential of the residual", "dX = PᵀdP + dPᵀP", r"dX = P^\top dP + dP^\top P",
        "The product rule; I is constant. (On the left a central difference, which is exact for a square.)",
        lambda s: ((residual(s.P + s.dP) - residual(s.P - s.dP)) / 2, s.dX),
    ),
    Step(
        "A tempting mistake: merging the two", "dX ≠ 2PᵀdP", r"dX \neq 2P^\top dP",
        "PᵀdP and dPᵀP are transposes of each other, not equal. They may be merged only under a contraction with a "
        "symmetric matrix, two lines below.",
        lambda s: (s.dX, 2 * s.P.mT @ s.dP), relation="≠", applies=lambda s: s.n > 1,
    ),
    Step(
        "The differential of the penalty", "dμ = Σ_jk G_jk dX_jk = G : dX, with G ∈ ∂μ(X)",
        r"d\mu = \sum_{jk} G_{jk}\,dX_{jk} = G : dX,\quad G \in \partial\mu(X)",
        "The chain rule; for l1 G_jk = sign X_jk, since d|x| = sign(x) dx away from 0. "
        "(On the left a difference quotient.)",
        lambda s: (_quotient(s.value, s.P, s.dP), (s.G * s.dX).sum()), tolerance=_QUOTIENT,
    ),
    Step(
        "Under the contraction the two terms merge", "G : (PᵀdP + dPᵀP) = (G + Gᵀ) : PᵀdP",
        r"G : (P^\top dP + dP^\top P) = (G + G^\top) : P^\top dP",
        "A : Bᵀ = Aᵀ : B.",
        lambda s: ((s.G * s.dX).sum(), ((s.G + s.G.mT) * (s.P.mT @ s.dP)).sum()),
    ),
    Step(
        "G is symmetric", "G = Gᵀ", r"G = G^\top", "It is a function of the symmetric X; so G + Gᵀ = 2G.",
        lambda s: (s.G, s.G.mT),
    ),
    Step(
        "P goes to the other side", "2G : PᵀdP = 2PG : dP", r"2G : P^\top dP = 2PG : dP",
        "A : BᵀC = BA : C, both are tr AᵀBᵀC.",
        lambda s: (2 * (s.G * (s.P.mT @ s.dP)).sum(), 2 * ((s.P @ s.G) * s.dP).sum()),
    ),
    Step(
        "The gradient", "∂L/∂P = 2PG(PᵀP − I)", r"\frac{\partial L}{\partial P} = 2\,P\,G(P^\top P - I)",
        "What stands before : dP. (On the left what automatic differentiation makes of the plain expression.)",
        lambda s: (s.autograd()[:, s.a], 2 * s.P @ s.G),
    ),
    Step(
        "A tempting mistake: masking the diagonal", "∂L/∂P ≠ 2P(G ∘ (1 − δ))",
        r"\frac{\partial L}{\partial P} \neq 2P\,\bigl(G \circ (\mathbf{1} - I)\bigr)",
        "X_jj = ‖P_j‖² − 1 depends on P_j as well: without the diagonal of G nothing holds the lengths. The two differ "
        "by 2 G_jj P_j.",
        lambda s: (2 * s.P @ s.G, 2 * s.P @ _off(s.G)), relation="≠", applies=lambda s: bool(s.G.diagonal().any()),
    ),
    Step(
        "A tempting mistake: counting a pair once", "∂L/∂P ≠ PG", r"\frac{\partial L}{\partial P} \neq P\,G",
        "A pair stands in X twice, as X_jk and as X_kj, and ‖P_j‖² holds P_j twice: hence the 2.",
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
        "The same for all groups i, written out; Γ = ∂L/∂Φ is of the shape of Φ.",
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
        "The transposed Jacobian; K vec G = vec G, because G is symmetric.",
        lambda s: (gradient_by_vec(s.P, s.mu), 2 * s.P @ s.G),
    ),
    Step(
        "The second derivative", "d(2PG) = 2dP·G + 2P·dG[dX]",
        r"d(2PG) = 2\,dP\,G + 2P\,dG[dX]",
        "The product rule again. For l1 G does not change almost everywhere, and 2dP·G remains.",
        lambda s: (_quotient(lambda P: 2 * P @ s.mu.dual(residual(P)), s.P, s.dP),
                   hessian_vector_product(s.P, s.dP, s.mu)),
        tolerance=_QUOTIENT,
        applies=lambda s: s.penalty in ("l1", "huber", "squared_frobenius", "frobenius", "logdet"),
    ),
    Step(
        "At a kink", "L'(Q; V) = Σ_jk |QᵀV + VᵀQ|_jk, where QᵀQ = I",
        r"L'(Q; V) = \sum_{jk}\left|Q^\top V + V^\top Q\right|_{jk},\quad Q^\top Q = I",
        "At orthonormal Q every entry has its kink: every direction leads up, in proportion to the step. The "
        "derivative is one-sided, and sign(0) = 0 is the member of least size of what takes its place.",
        _kink, tolerance=_QUOTIENT, applies=lambda s: isinstance(s.mu, L1) and _tall(s),
    ),
    Step(
        "Another reading of |·|: the Frobenius norm", "d‖X‖_F = (X/‖X‖_F) : dX",
        r"d\|X\|_F = \frac{X}{\|X\|_F} : dX", "The penalty `frobenius`: one kink, where the whole of X is 0.",
        lambda s: (_quotient(lambda P: torch.linalg.matrix_norm(residual(P)), s.P, s.dP),
                   (s.X * s.dX).sum() / torch.linalg.matrix_norm(s.X)), tolerance=_QUOTIENT,
    ),
    Step(
        "A third: the determinant", "d|PᵀP| = 2 |PᵀP| tr((PᵀP)⁻¹PᵀdP)",
        r"d\left|P^\top P\right| = 2\,\left|P^\top P\right|\,\mathrm{tr}\bigl((P^\top P)^{-1}P^\top dP\bigr)",
        "Jacobi's formula; it is in the penalty `logdet`, and here the two terms merge, because (PᵀP)⁻¹ is symmetric.",
        _determinant, tolerance=_QUOTIENT, applies=_tall,
    ),
    Step(
        "The update near orthonormal", "(Q(I − S))ᵀQ(I − S) − I = −2S + S², S symmetric, where QᵀQ = I",
        r"(Q(I-S))^\top Q(I-S) - I = -2S + S^2", "So P(I − S) changes X by −2S, to first order.",
        _normal_step, applies=_tall,
    ),
    Step(
        "The proximal step", "S = ½C_τ(X) makes βμ(X − 2S) + ‖S‖²/2η least, τ = 4ηβ",
        r"S = \tfrac12 C_\tau(X) \text{ minimises } \beta\mu(X - 2S) + \tfrac{1}{2\eta}\|S\|_F^2,"
        r"\quad \tau = 4\eta\beta",
        "With Y = X − 2S it is the prox of τμ at X, and C_τ(X) = X − prox_τμ(X). (On the left the value at S, on the "
        "right that at fifty others, times η.)",
        _least, relation="≤",
    ),
)  # fmt: skip
"""The derivation, in order."""
