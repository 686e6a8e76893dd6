r"""The formulas of each penalty, in LaTeX: loss, derivative, and derivative of L with respect to one vector.

Letters: i and a are groups, j, k and b vectors of a group, p a coordinate of a vector; l, m and n are sizes only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gramian.calculus.setting import Setting
from gramian.penalties import L1, Coherence, Frobenius, Huber, LogDet, Penalty, Spectral, SquaredFrobenius, as_penalty

__all__ = ["Formulas", "formulas", "in_decimals", "number"]

_X = r"\Phi_i^\top\Phi_i - I"
_XA = r"\Phi_a^\top\Phi_a - I"
_ENTRY = r"\Phi_{aj}^\top\Phi_{ab} - \delta_{jb}"


@dataclass(frozen=True)
class Formulas:
    r"""The formulas of a penalty in the derivation.

    Attributes:
        loss: L as a function of Φ.
        slope: G_jk, the derivative of μ with respect to X_jk.
        group: G_a as a function of Φ_a; empty if it has no closed form.
        vector: ∂L/∂Φ_ab.
        factor: The number before β in `vector`.
        term: The factor of Φ_aj in `vector` besides `factor` and β, with the numbers of a setting.
        rule: Name of the rule that gives G.
        because: That rule in words.
        weight: How the weight G_jb of vector j follows from the numbers, in words.
        where: Definitions of the letters in the formulas; may be empty.
        kink: Where the penalty has no derivative, and what is used there.
    """

    loss: str
    slope: str
    group: str
    vector: str
    factor: int
    term: Callable[[Setting, int], str]
    rule: str
    because: str
    weight: str
    where: str
    kink: str


def formulas(penalty: str | Penalty = "l1") -> Formulas:
    """Return the formulas of a penalty.

    Args:
        penalty: Name or `Penalty`; penalties outside the named family get formulas in μ and G.

    Examples:
        >>> from gramian.calculus import plain_formula
        >>> plain_formula(formulas("frobenius").slope)
        'G_jk = X_jk/‖X‖_F'
    """
    mu = as_penalty(penalty)
    if isinstance(mu, Coherence):
        return _COHERENCE
    if isinstance(mu, Huber) and mu.diagonal:
        return _huber(mu.delta)
    return _FAMILY.get(type(mu), _ANY) if mu.diagonal else _ANY


def number(x: float) -> str:
    """Format a number with four decimals; zero has no sign."""
    text = f"{x:.4f}"
    return "0.0000" if text == "-0.0000" else text


def in_decimals(x: float) -> str:
    """Format a number with up to four digits in LaTeX, with a power of ten instead of an exponent."""
    mantissa, _, exponent = f"{x:.4g}".partition("e")
    return rf"{mantissa}\cdot 10^{{{int(exponent)}}}" if exponent else mantissa


def _residual(s: Setting, j: int) -> str:
    """Write X_jb with numbers: an inner product, minus 1 on the diagonal."""
    inner = s.X[j, s.b].item() + (j == s.b)
    return number(inner) + (" - 1" if j == s.b else "")


def _factor(text: str) -> str:
    """Put a negative number or a difference in brackets, so that it can follow another factor."""
    return f"({text})" if "-" in text else text


def _largest(s: Setting) -> tuple[float, torch.Tensor]:
    """Return the eigenvalue of X of largest absolute value, and its eigenvector of length 1."""
    values, vectors = torch.linalg.eigh(s.X)
    place = int(values.abs().argmax())
    return values[place].item(), vectors[:, place]


def _spectral_term(s: Setting, j: int) -> str:
    value, v = _largest(s)
    return (
        rf"\mathrm{{sign}}({number(value)})\cdot {_factor(number(v[j].item()))}\cdot {_factor(number(v[s.b].item()))}"
    )


def _coherence_term(s: Setting, j: int) -> str:
    return rf"\tfrac12\,\mathrm{{sign}}({_residual(s, j)})" if s.G[j, s.b] else "0"


def _logdet_term(s: Setting, j: int) -> str:
    inverse = torch.linalg.inv(s.P.mT @ s.P)[j, s.b].item()
    return rf"\bigl({int(j == s.b)} - {_factor(number(inverse))}\bigr)"


def _huber(delta: float) -> Formulas:
    w = f"{delta:g}"
    return Formulas(
        loss=rf"\beta\sum_i\sum_{{jk}} h\bigl(({_X})_{{jk}}\bigr)",
        slope=rf"G_{{jk}} = \mathrm{{clip}}(X_{{jk}}/{w},\,-1,\,1)",
        group=rf"\mathrm{{clip}}\bigl(({_XA})/{w},\,-1,\,1\bigr)",
        vector=rf"2\beta\sum_j \Phi_{{aj}}\,\mathrm{{clip}}\bigl(({_ENTRY})/{w},\,-1,\,1\bigr)",
        factor=2,
        term=lambda s, j: rf"\mathrm{{clip}}\bigl({_factor(_residual(s, j))}/{w},\,-1,\,1\bigr)",
        rule="Derivative of a function defined in pieces",
        because=rf"$h$ has the derivative $x/{w}$ in the middle and $\mathrm{{sign}}(x)$ outside: together "
        rf"$\mathrm{{clip}}(x/{w},\,-1,\,1)$.",
        weight=f"the difference between its inner product and its target, divided by {w} and limited to the range from "
        "-1 to 1",
        where=rf"$h(x) = x^2/{2 * delta:g}$ for $\left|x\right| \le {w}$ and $\left|x\right| - {delta / 2:g}$ beyond; "
        r"$\mathrm{clip}$ limits a number to the range from $-1$ to $1$.",
        kink="It has none: the two pieces have the same slope where they meet.",
    )


_L1 = Formulas(
    loss=rf"\beta\sum_i\sum_{{jk}} \left|{_X}\right|_{{jk}}",
    slope=r"G_{jk} = \mathrm{sign}(X_{jk})",
    group=rf"\mathrm{{sign}}({_XA})",
    vector=rf"2\beta\sum_j \Phi_{{aj}}\,\mathrm{{sign}}({_ENTRY})",
    factor=2,
    term=lambda s, j: rf"\mathrm{{sign}}({_residual(s, j)})",
    rule=r"Derivative of $\left|\cdot\right|$",
    because=r"$\left|x\right|$ has the slope $+1$ for $x > 0$ and $-1$ for $x < 0$, which is $\mathrm{sign}(x)$.",
    weight="the sign of the difference between its inner product and its target",
    where=r"$\left|\cdot\right|$ and $\mathrm{sign}$ act on each entry of a matrix by itself.",
    kink=r"At $X_{jk} = 0$ the absolute value has no derivative; $\mathrm{sign}(0) = 0$ is used, which is one of its "
    r"subgradients, the numbers from $-1$ to $1$.",
)

_SQUARED = Formulas(
    loss=rf"\beta\sum_i \left\|{_X}\right\|_F^2",
    slope=r"G_{jk} = 2\,X_{jk}",
    group=rf"2\,({_XA})",
    vector=rf"4\beta\sum_j \Phi_{{aj}}\,({_ENTRY})",
    factor=4,
    term=lambda s, j: _factor(_residual(s, j)),
    rule="Derivative of a square",
    because=r"$\left\|X\right\|_F^2$ is the sum of $X_{jk}^2$, and $x^2$ has the derivative $2x$.",
    weight="twice the difference between its inner product and its target",
    where=r"$\left\|X\right\|_F^2$ is the sum of the squares of all entries.",
    kink="It has none.",
)

_FROBENIUS = Formulas(
    loss=rf"\beta\sum_i \left\|{_X}\right\|_F",
    slope=r"G_{jk} = \frac{X_{jk}}{\left\|X\right\|_F}",
    group=rf"({_XA})/\left\|{_XA}\right\|_F",
    vector=rf"2\beta\sum_j \Phi_{{aj}}\,({_ENTRY})/\left\|{_XA}\right\|_F",
    factor=2,
    term=lambda s, j: f"{_factor(_residual(s, j))}/{number(s.X.square().sum().sqrt().item())}",
    rule="Derivative of a square root",
    because=r"$\left\|X\right\|_F$ is the root of $\left\|X\right\|_F^2$: its derivative is $2X_{jk}$ divided by "
    r"$2\left\|X\right\|_F$.",
    weight="the difference between its inner product and its target, divided by the root of the sum of all squared "
    "differences of the group",
    where=r"$\left\|X\right\|_F$ is the root of the sum of the squares of all entries.",
    kink="At $X = 0$, where all vectors are orthonormal; $G = 0$ is used there.",
)

_SPECTRAL = Formulas(
    loss=rf"\beta\sum_i \left\|{_X}\right\|_2",
    slope=r"G_{jk} = \mathrm{sign}(\lambda)\,v_j\,v_k",
    group=r"\mathrm{sign}(\lambda)\,v\,v^\top",
    vector=r"2\beta\sum_j \Phi_{aj}\,\mathrm{sign}(\lambda)\,v_j\,v_b",
    factor=2,
    term=_spectral_term,
    rule="Derivative of an eigenvalue",
    because=r"An eigenvalue that no other one equals changes by $v^\top dX\,v$; its absolute value changes by "
    r"$\mathrm{sign}(\lambda)$ times as much.",
    weight=r"$\mathrm{sign}(\lambda)$ times the entries $j$ and $b$ of the eigenvector $v$",
    where=r"$\left\|X\right\|_2 = \left|\lambda\right|$, where $\lambda$ is the eigenvalue of "
    r"$X = \Phi_a^\top\Phi_a - I$ of the largest absolute value, and $v$ its eigenvector of length 1.",
    kink=r"Where two eigenvalues have the largest absolute value; the mean of their "
    r"$\mathrm{sign}(\lambda)\,v\,v^\top$ is used there.",
)

_COHERENCE = Formulas(
    loss=r"\beta\sum_i \max_{j\ne k}\left|\Phi_{ij}^\top\Phi_{ik}\right|",
    slope=r"G_{jk} = \tfrac12\,\mathrm{sign}(X_{jk}) \text{ for the largest pair, else } 0",
    group="",
    vector=r"2\beta\sum_j \Phi_{aj}\,G_{jb}",
    factor=2,
    term=_coherence_term,
    rule="Derivative of a maximum",
    because="A maximum changes as its largest member does, and no other member matters. The pair has two entries in "
    "$X$, which share the derivative.",
    weight="half the sign of its inner product if both vectors are the pair of the group with the largest one, and 0 "
    "otherwise",
    where=r"$G_{jb} = \tfrac12\,\mathrm{sign}(\Phi_{aj}^\top\Phi_{ab})$ if the vectors $j$ and $b$ are the pair of "
    r"group $a$ with the largest $\left|\Phi_{aj}^\top\Phi_{ab}\right|$, and 0 otherwise. Lengths are free.",
    kink="Where two pairs are largest; the mean of their $G$ is used there.",
)

_LOGDET = Formulas(
    loss=r"\beta\sum_i \bigl(\mathrm{tr}(\Phi_i^\top\Phi_i) - \log\det(\Phi_i^\top\Phi_i) - n\bigr)",
    slope=r"G_{jk} = \delta_{jk} - \bigl[(P^\top P)^{-1}\bigr]_{jk}",
    group=r"I - (\Phi_a^\top\Phi_a)^{-1}",
    vector=r"2\beta\sum_j \Phi_{aj}\,\bigl(\delta_{jb} - \bigl[(\Phi_a^\top\Phi_a)^{-1}\bigr]_{jb}\bigr)",
    factor=2,
    term=_logdet_term,
    rule="Jacobi's formula",
    because=r"The derivative of $\log\det A$ is $A^{-1}$ for a symmetric $A$, here $A = P^\top P = X + I$; that of "
    r"$\mathrm{tr}(A)$ is $I$.",
    weight=r"the entry $j$, $b$ of the inverse of $\Phi_a^\top\Phi_a$ with the opposite sign, plus 1 if $j = b$",
    where="",
    kink="It has none where it is finite: where the vectors are linearly independent.",
)

_ANY = Formulas(
    loss=rf"\beta\sum_i \mu({_X})",
    slope=r"G_{jk} = \frac{\partial\mu}{\partial X_{jk}}",
    group="",
    vector=r"2\beta\sum_j \Phi_{aj}\,G_{jb}",
    factor=2,
    term=lambda s, j: _factor(number(s.G[j, s.b].item())),
    rule="Derivative of the penalty",
    because=r"$G$ is the derivative of $\mu$ with respect to the entries of $X$; the two entries of a pair share it "
    "equally.",
    weight=r"the derivative of $\mu$ with respect to the entry $j$, $b$ of $X$",
    where=r"$G$ is the derivative of $\mu$ at $X = \Phi_a^\top\Phi_a - I$.",
    kink=r"Where $\mu$ has no derivative, $G$ is one of its subgradients.",
)

_FAMILY: dict[type[Penalty], Formulas] = {
    L1: _L1,
    SquaredFrobenius: _SQUARED,
    Frobenius: _FROBENIUS,
    Spectral: _SPECTRAL,
    LogDet: _LOGDET,
}
