r"""The derivative with respect to one vector: formula, numbers substituted, result, and words."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gramian.calculus.formulas import formulas, in_decimals, number
from gramian.calculus.gradients import derivative_by_vector
from gramian.calculus.setting import Setting

__all__ = ["ByVector", "VectorTerm"]

Vector = Float[Tensor, " l"]
_TERMS = 8
"""Largest number of terms that are written."""


@dataclass(frozen=True)
class VectorTerm:
    """The contribution of one vector of the group to the derivative with respect to vector b.

    Attributes:
        j: Index of the vector.
        inner: Its inner product with vector b.
        delta: δ_jb.
        X: The residual X_jb = inner − δ_jb.
        G: G_jb, the derivative of the penalty with respect to X_jb.
        words: What a small step against the derivative does with this term.
    """

    j: int
    inner: float
    delta: int
    X: float
    G: float
    words: str


@dataclass(frozen=True)
class ByVector:
    r"""∂L/∂Φ_ab with the strength, the group, the vector and the signs of a setting substituted.

    Args:
        setting: Sizes, penalty, strength, a and b.

    Examples:
        >>> from gramian.calculus import plain_formula
        >>> plain_formula(ByVector(Setting(5, 2, 3, "l1", a=1, b=2)).result)
        '∂L/∂Φ_1,2 = 2 Φ_1,0 − 2 Φ_1,1 − 2 Φ_1,2'
    """

    setting: Setting

    @property
    def symbol(self) -> str:
        """∂L/∂Φ_ab with both indices as numbers, in LaTeX."""
        return rf"\frac{{\partial L}}{{\partial {self._phi(self.setting.b)}}}"

    @property
    def formula(self) -> str:
        """The formula of the penalty, in LaTeX."""
        return rf"\frac{{\partial L}}{{\partial \Phi_{{ab}}}} = {formulas(self.setting.penalty).vector}"

    @property
    def substituted(self) -> str:
        """The formula with β, a, b and the numbers of X in it, in LaTeX."""
        s = self.setting
        written = formulas(s.penalty)
        terms = [rf"{self._phi(j)}\cdot {written.term(s, j)}" for j in self._written()]
        if s.n > _TERMS:
            terms.append(r"\ldots")
        return rf"{self.symbol} = {written.factor}\cdot {in_decimals(s.beta)}\cdot\bigl({' + '.join(terms)}\bigr)"

    @property
    def result(self) -> str:
        """The sum of vectors that is left, in LaTeX."""
        text = ""
        for j in self._written():
            weight = 2 * self.setting.beta * self.setting.G[j, self.setting.b].item()
            if weight:
                sign = "-" if weight < 0 else "+" if text else ""
                text += f" {sign} " + rf"{in_decimals(abs(weight))}\,{self._phi(j)}"
        if self.setting.n > _TERMS:
            text += r" + \ldots"
        return f"{self.symbol} = {text.strip() or '0'}"

    @property
    def value(self) -> Vector:
        """The derivative."""
        s = self.setting
        return s.beta * derivative_by_vector(s.phi, s.a, s.b, s.mu)

    @property
    def terms(self) -> tuple[VectorTerm, ...]:
        """The terms of the sum, one for each vector of the group."""
        s = self.setting
        column = s.X[:, s.b].tolist()
        return tuple(
            VectorTerm(j, x + (j == s.b), int(j == s.b), x, g, self._words(j, g))
            for j, (x, g) in enumerate(zip(column, s.G[:, s.b].tolist(), strict=True))
        )

    @property
    def words(self) -> str:
        """What the sum means, as sentences with formulas in LaTeX between dollar signs."""
        s = self.setting
        phi = self._phi(s.b)
        entrywise = (
            ""
            if "target" not in formulas(s.penalty).weight
            else (rf" The target of an inner product with ${phi}$ is 0, and 1 for ${phi}$ itself.")
        )
        others = " The other groups do not occur." if s.m > 1 else ""
        return (
            rf"In words: every vector $j$ of group {s.a} has a weight $G_{{jb}}$, with $b = {s.b}$: "
            rf"{formulas(s.penalty).weight}.{entrywise} The derivative is the sum of the vectors with these weights, "
            rf"times $2\beta = {in_decimals(2 * s.beta)}$. A small step against it moves ${phi}$ away from "
            rf"vectors of "
            f"positive weight and towards those of negative weight.{others}"
        )

    def _written(self) -> range:
        return range(min(self.setting.n, _TERMS))

    def _phi(self, j: int) -> str:
        return rf"\Phi_{{{self.setting.a},{j}}}"

    def _words(self, j: int, weight: float) -> str:
        if number(weight) in ("0.0000",):
            return "no effect"
        if j == self.setting.b:
            return "becomes shorter" if weight > 0 else "becomes longer"
        return f"moves away from vector {j}" if weight > 0 else f"moves towards vector {j}"
