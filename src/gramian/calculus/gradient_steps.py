r"""The steps from the loss to its derivative with respect to a group, a vector, the tensor Φ and its slices.

P is the group Φ_a, dP a change of it, X = PᵀP − I, and A : B = Σ_jk A_jk B_jk = tr(AᵀB).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gramian.calculus.formulas import Formulas
from gramian.calculus.gradients import derivative_by_vector, gradient_by_index, residual
from gramian.calculus.setting import Setting
from gramian.calculus.step import QUOTIENT, Step

__all__ = ["gradient_steps", "quotient"]

_SMALL = 1e-6
"""Step of a difference quotient."""
_FACTOR = r"\frac{\partial L}{\partial \Phi_a}"
_BY_VECTOR = r"\frac{\partial L}{\partial \Phi_{ab}}"


def quotient(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> Tensor:
    """Compute a central difference quotient of a function along a direction."""
    return (function(at + _SMALL * direction) - function(at - _SMALL * direction)) / (2 * _SMALL)


def gradient_steps(written: Formulas) -> tuple[Step, ...]:
    """Return the steps for a penalty with these formulas."""
    return (
        Step(
            "Definition", "the Gram residual of one group",
            r"X_{jk} = \sum_p P_{pj}\,P_{pk} - \delta_{jk}, \quad X = P^\top P - I",
            r"$P = \Phi_a$ has the vectors of one group as columns. $X_{jk}$ is the inner product of vectors $j$ and "
            r"$k$, minus 1 on the diagonal: $X$ is zero exactly when the vectors are orthonormal.",
            "the sum, entry by entry", "the matrix product",
            lambda s: (_by_index(s), s.X),
        ),
        Step(
            "Sum rule", "the other groups are constant",
            r"L(\Phi_a + dP) - L(\Phi_a) = \beta\,\mu(X + \Delta X) - \beta\,\mu(X)",
            r"$L = \beta\sum_i \mu(X_i)$, and $X_i$ depends on $\Phi_i$ only: when group $a$ changes, one term of the "
            r"sum changes, and $X$ becomes $X + \Delta X$.",
            "change of the loss of all groups", "change of the term of group $a$",
            _change_of_loss,
        ),
        Step(
            "Product rule", "the differential of X",
            r"dX = P^\top\,dP + dP^\top\,P",
            r"Both factors of $P^\top P$ change, one at a time. $I$ is constant.",
            "difference quotient of $X$ along $dP$", "the formula",
            lambda s: ((residual(s.P + s.dP) - residual(s.P - s.dP)) / 2, s.dX),
        ),
        Step(
            "Mistake", "merging the two terms of the product rule",
            r"dX \ne 2\,P^\top\,dP",
            r"$P^\top\,dP$ and $dP^\top\,P$ are transposes of each other, and a matrix need not equal its transpose. "
            r"They "
            "merge later, inside a sum with a symmetric matrix.",
            "$dX$", "the mistake",
            lambda s: (s.dX, 2 * s.P.mT @ s.dP), relation="≠", applies=lambda s: s.n > 1,
        ),
        Step(
            written.rule, "the derivative of the penalty",
            written.slope,
            written.because + " " + written.kink,
            r"difference quotient of $\mu$, with $X_{jk}$ and $X_{kj}$ changed together", "the formula",
            _slopes, tolerance=QUOTIENT,
        ),
        Step(
            "Chain rule", "the differential of the loss",
            r"dL = \beta\sum_{jk} G_{jk}\,dX_{jk} = \beta\,(G : dX)",
            r"Every entry of $X$ contributes its slope times its change. $A : B$ is short for "
            r"$\sum_{jk} A_{jk}\,B_{jk} = \mathrm{tr}(A^\top B)$.",
            "difference quotient of $L$ along $dP$", "the sum",
            lambda s: (quotient(s.value, s.P, s.dP), s.beta * (s.G * s.dX).sum()), tolerance=QUOTIENT,
        ),
        Step(
            "Transposition", "the second term looks like the first",
            r"G : (dP^\top\,P) = G^\top : (P^\top\,dP)",
            r"$A : B = A^\top : B^\top$, because both sum the same products.",
            "the left sum", "the right sum",
            lambda s: ((s.G * (s.dP.mT @ s.P)).sum(), (s.G.mT * (s.P.mT @ s.dP)).sum()),
        ),
        Step(
            "Symmetry", "both terms are equal",
            r"G = G^\top",
            r"$X_{jk}$ and $X_{kj}$ are the same inner product, so $X$ is symmetric, and $G$ with it. Hence "
            r"$G : dX = 2\,G : (P^\top\,dP)$: here, and only here, the two terms merge.",
            "$G$", "its transpose",
            lambda s: (s.G, s.G.mT),
        ),
        Step(
            "Trace rotation", "dP alone on one side",
            r"2\,G : (P^\top\,dP) = 2\,(P\,G) : dP",
            r"$\mathrm{tr}(G^\top\,(P^\top\,dP)) = \mathrm{tr}((P\,G)^\top\,dP)$: a factor goes from the right of the "
            r"colon "
            "to the left as its transpose.",
            "the left sum", "the right sum",
            lambda s: (2 * (s.G * (s.P.mT @ s.dP)).sum(), 2 * ((s.P @ s.G) * s.dP).sum()),
        ),
        Step(
            "Identification", "the derivative with respect to a group",
            rf"{_FACTOR} = 2\beta\,\Phi_a\,G_a" + (rf", \quad G_a = {written.group}" if written.group else ""),
            r"$dL = (2\beta\,P\,G) : dP$ for every $dP$; the matrix beside $dP$ is the derivative. It has the shape of "
            r"$\Phi_a$.",
            "automatic differentiation of $L$ as defined", "the formula",
            lambda s: (s.autograd()[:, s.a], _gradient(s)),
        ),
        Step(
            "Mistake", "leaving out the diagonal",
            rf"{_FACTOR} \ne 2\beta\,\Phi_a\,(G_a \text{{ with a diagonal of zeros}})",
            r"$X_{jj} = \left\|P_j\right\|^2 - 1$ depends on the vector $P_j$ too: without it lengths are free. The "
            r"sides differ by $2\beta\,G_{jj}\,P_j$ in column $j$.",
            "the derivative", "the mistake",
            lambda s: (_gradient(s), 2 * s.beta * s.P @ (s.G - torch.diag(s.G.diagonal()))),
            relation="≠", applies=lambda s: _matters(s.beta * s.P * s.G.diagonal()),
        ),
        Step(
            "Mistake", "counting a pair once",
            rf"{_FACTOR} \ne \beta\,\Phi_a\,G_a",
            r"A pair of vectors has two entries in $X$, $X_{jk}$ and $X_{kj}$, and $\left\|P_j\right\|^2$ is "
            r"quadratic in "
            "$P_j$: hence the factor 2.",
            "the derivative", "the mistake",
            lambda s: (_gradient(s), s.beta * s.P @ s.G), relation="≠", applies=lambda s: _matters(s.beta * s.P @ s.G),
        ),
        Step(
            "Reading off a column", "the derivative with respect to a vector",
            rf"{_BY_VECTOR} = {written.vector}",
            r"Column $b$ of $2\beta\,\Phi_a\,G_a$ is a sum of the columns $\Phi_{aj}$ with the weights "
            r"$2\beta\,G_{jb}$. The term $j = b$ is part of the sum.",
            "column $b$ of automatic differentiation", "the sum, term by term",
            lambda s: (s.autograd()[:, s.a, s.b, None],
                       s.beta * derivative_by_vector(s.phi, s.a, s.b, s.mu)[:, None]),
        ),
        Step(
            "Mistake", "halving the term of the vector itself",
            rf"{_BY_VECTOR} \ne 2\beta\sum_{{j\ne b}} \Phi_{{aj}}\,G_{{jb}} + \beta\,\Phi_{{ab}}\,G_{{bb}}",
            r"$X_{bb}$ occurs once in the loss, and other entries twice; but $X_{bb} = \Phi_{ab}^\top\Phi_{ab} - 1$ "
            r"contains $\Phi_{ab}$ twice: its derivative is $2\,\Phi_{ab}$.",
            "the derivative", "the mistake",
            lambda s: (_gradient(s)[:, s.b, None],
                       (_gradient(s)[:, s.b] - s.beta * s.P[:, s.b] * s.G[s.b, s.b])[:, None]),
            relation="≠", applies=lambda s: _matters(s.beta * s.P[:, s.b] * s.G[s.b, s.b]),
        ),
        Step(
            "Index notation", "the derivative as a tensor",
            r"\Gamma_{pab} = 2\beta\sum_j \Phi_{paj}\,(G_a)_{jb}",
            r"The same for every group and every vector; $\Gamma = \frac{\partial L}{\partial \Phi}$ has the shape of "
            r"$\Phi$. "
            "The numbers show the groups side by side.",
            "automatic differentiation of $L$", "the sum, entry by entry",
            lambda s: (s.autograd(), s.beta * gradient_by_index(s.phi, s.mu)),
        ),
        Step(
            "Index notation", "a slice of the tensor",
            r"Q_p = \sum_a\sum_b \Gamma_{pab}\,e_a\,e_b^\top, \quad e_a^\top Q_p = 2\beta\,(e_p^\top\Phi_a)\,G_a",
            r"$Q_p = \frac{\partial L}{\partial \Phi_p}$ holds coordinate $p$ of all vectors, a row for each group: "
            r"row $a$ of $Q_p$ is $2\beta$ times row $p$ of $\Phi_a$ times $G_a$. The numbers are those of $p = 0$.",
            "slice of automatic differentiation", "the rows",
            lambda s: (s.autograd()[0], _slice(s, 0)),
        ),
    )  # fmt: skip


def _by_index(s: Setting) -> Tensor:
    gram = torch.zeros(s.n, s.n, dtype=torch.float64, device="cpu")
    for j in range(s.n):
        for k in range(s.n):
            gram[j, k] = sum(s.P[p, j] * s.P[p, k] for p in range(s.length)) - int(j == k)
    return gram


def _change_of_loss(s: Setting) -> tuple[Tensor, Tensor]:
    changed = s.phi.clone()
    changed[:, s.a] += s.dP
    return s.loss(changed) - s.loss(s.phi), s.value(s.P + s.dP) - s.value(s.P)


def _slopes(s: Setting) -> tuple[Tensor, Tensor]:
    """Differentiate μ numerically with respect to each entry; both entries of a pair change, by half as much."""
    units = torch.eye(s.n * s.n, dtype=torch.float64, device="cpu").reshape(-1, s.n, s.n)
    return quotient(s.mu.value, s.X, (units + units.mT) / 2).reshape(s.n, s.n), s.G


def _gradient(s: Setting) -> Tensor:
    return 2 * s.beta * s.P @ s.G


def _slice(s: Setting, p: int) -> Tensor:
    rows = [2 * s.beta * s.phi[p, i] @ s.mu.subgradient(residual(s.phi[:, i])) for i in range(s.m)]
    return torch.stack(rows)


def _matters(difference: Tensor) -> bool:
    """Tell whether a mistake changes the numbers."""
    return bool(difference.abs().max() > _SMALL)
