"""LaTeX of the derivation as one line of Unicode."""

import pytest

from gramian.calculus import plain_formula, plain_text
from gramian.errors import OptionError

FORMULAS = {
    r"\frac{\partial L}{\partial \Phi_{ab}} = 2\beta\sum_j \Phi_{aj}\,G_{jb}": "∂L/∂Φ_ab = 2β Σ_j Φ_aj G_jb",
    r"\beta\sum_i\sum_{jk} \left|\Phi_i^\top\Phi_i - I\right|_{jk}": "β Σ_i Σ_jk |Φ_iᵀΦ_i − I|_jk",
    r"2\beta\sum_{j\ne b} \Phi_{aj}\,G_{jb}": "2β Σ_{j≠b} Φ_aj G_jb",
    r"\left\|X\right\|_F^2": "‖X‖_F²",
    r"(P^\top P)^{-1}": "(PᵀP)⁻¹",
    r"\tfrac12\,C_\tau(X)": "½ C_τ(X)",
    r"\frac{\left\|S\right\|_F^2}{2\,\eta}": "‖S‖_F²/(2 η)",
    r"\mathrm{clip}(X_{jk}/0.1,\,-1,\,1)": "clip(X_jk/0.1, −1, 1)",
    r"\left|x\right| - 0.05": "|x| − 0.05",
    r"-x + (-1) - \left|-y\right|": "−x + (−1) − |−y|",
    r"A : B \text{ where } A \in M, \quad B = -C": "A : B where A ∈ M,   B = −C",
    r"\max_{j\ne k}\left|x_j\right| + \log\det A": "max_{j≠k}|x_j| + log det A",
    r"2\cdot 10^{-5}\,\Phi_{1,2}": "2·10⁻⁵ Φ_1,2",
    "": "",
}


@pytest.mark.parametrize("latex", FORMULAS)
def test_formulas(latex) -> None:
    assert plain_formula(latex) == FORMULAS[latex]


def test_formulas_within_a_sentence() -> None:
    assert plain_text(r"At $X_{jk} = 0$, as $\beta > 0$, `l1` has a kink.") == "At X_jk = 0, as β > 0, `l1` has a kink."


@pytest.mark.parametrize(
    ("latex", "message"),
    [
        (r"\unknown", r"a command must be one that the derivation uses; got '\\\\unknown'"),
        ("{x", "every brace of a formula must be closed"),
        ("x}", "every brace of a formula must be opened before it is closed"),
        ("x_", "a command must have its argument"),
        (r"\mathrm x", "text in a formula must be between braces"),
    ],
)
def test_formulas_that_cannot_be_read(latex, message) -> None:
    with pytest.raises(OptionError, match=message):
        plain_formula(latex)
