"""Every formula of every penalty against plain loops; formulas with numbers in them are read and computed."""

import math
import re
from functools import cache

import pytest
import torch

import gramian
from gramian.calculus import ByVector, Setting, derive, formulas, plain_formula, plain_text, steps
from gramian.penalties import L1, PENALTIES, Cosine, Huber, SquaredFrobenius

over_penalties = pytest.mark.parametrize("penalty", PENALTIES)
over_betas = pytest.mark.parametrize("beta", [1.0, 0.1, 3e-5])


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def clip(x: float, low: float, high: float) -> float:
    return max(low, min(high, x))


def huber(x: float) -> float:
    return x * x / 0.2 if abs(x) <= 0.1 else abs(x) - 0.05


def gram(P: list[list[float]]) -> list[list[float]]:
    """Inner products of vectors, given as lists."""
    return [[sum(x * y for x, y in zip(u, v, strict=True)) for v in P] for u in P]


def residual(P) -> list[list[float]]:
    return [[g - (j == k) for k, g in enumerate(row)] for j, row in enumerate(gram(P))]


def entries(X) -> list[float]:
    return [x for row in X for x in row]


def largest(X) -> tuple[float, list[float]]:
    """The eigenvalue of largest absolute value and its vector."""
    return power_iterations(tuple(map(tuple, X)))


@cache
def power_iterations(X: tuple[tuple[float, ...], ...]) -> tuple[float, list[float]]:
    v = [1.0 + j / 7 for j in range(len(X))]
    for _ in range(1000):
        for _ in range(2):
            v = [sum(x * y for x, y in zip(row, v, strict=True)) for row in X]
        norm = math.sqrt(sum(x * x for x in v))
        v = [x / norm for x in v]
    return sum(v[j] * X[j][k] * v[k] for j in range(len(X)) for k in range(len(X))), v


def determinant(A) -> float:
    if len(A) == 1:
        return A[0][0]
    minors = ([[*row[:j], *row[j + 1 :]] for row in A[1:]] for j in range(len(A)))
    return sum((-1) ** j * A[0][j] * determinant(minor) for j, minor in enumerate(minors))


def inverse(A) -> list[list[float]]:
    """By Cramer's rule."""
    size = range(len(A))
    cofactors = [
        [(-1) ** (j + k) * determinant([[A[r][c] for c in size if c != k] for r in size if r != j]) for k in size]
        for j in size
    ]
    return [[cofactors[k][j] / determinant(A) for k in size] for j in size]


def top_pair(P) -> tuple[int, int]:
    pairs = [(j, k) for j in range(len(P)) for k in range(j)]
    return max(pairs, key=lambda pair: abs(gram(P)[pair[0]][pair[1]]))


def norm(X) -> float:
    return math.sqrt(sum(x * x for x in entries(X)))


VALUES = {
    "l1": lambda P: sum(abs(x) for x in entries(residual(P))),
    "huber": lambda P: sum(map(huber, entries(residual(P)))),
    "squared_frobenius": lambda P: norm(residual(P)) ** 2,
    "frobenius": lambda P: norm(residual(P)),
    "spectral": lambda P: abs(largest(residual(P))[0]),
    "coherence": lambda P: abs(gram(P)[top_pair(P)[0]][top_pair(P)[1]]),
    "logdet": lambda P: sum(gram(P)[j][j] for j in range(len(P))) - math.log(determinant(gram(P))) - len(P),
}
"""The summand of each loss, from its definition."""

SLOPES = {
    "l1": lambda P, j, k: sign(residual(P)[j][k]),
    "huber": lambda P, j, k: clip(residual(P)[j][k] / 0.1, -1, 1),
    "squared_frobenius": lambda P, j, k: 2 * residual(P)[j][k],
    "frobenius": lambda P, j, k: residual(P)[j][k] / norm(residual(P)),
    "spectral": lambda P, j, k: sign(largest(residual(P))[0]) * largest(residual(P))[1][j] * largest(residual(P))[1][k],
    "coherence": lambda P, j, k: sign(gram(P)[j][k]) / 2 if {j, k} == set(top_pair(P)) else 0.0,
    "logdet": lambda P, j, k: (j == k) - inverse(gram(P))[j][k],
}
"""G_jk of each penalty, from its formula."""

WRITTEN = {
    "l1": (
        "β Σ_i Σ_jk |Φ_iᵀΦ_i − I|_jk",
        "G_jk = sign(X_jk)",
        "2β Σ_j Φ_aj sign(Φ_ajᵀΦ_ab − δ_jb)",
    ),
    "huber": (
        "β Σ_i Σ_jk h((Φ_iᵀΦ_i − I)_jk)",
        "G_jk = clip(X_jk/0.1, −1, 1)",
        "2β Σ_j Φ_aj clip((Φ_ajᵀΦ_ab − δ_jb)/0.1, −1, 1)",
    ),
    "squared_frobenius": (
        "β Σ_i ‖Φ_iᵀΦ_i − I‖_F²",
        "G_jk = 2 X_jk",
        "4β Σ_j Φ_aj (Φ_ajᵀΦ_ab − δ_jb)",
    ),
    "frobenius": (
        "β Σ_i ‖Φ_iᵀΦ_i − I‖_F",
        "G_jk = X_jk/‖X‖_F",
        "2β Σ_j Φ_aj (Φ_ajᵀΦ_ab − δ_jb)/‖Φ_aᵀΦ_a − I‖_F",
    ),
    "spectral": (
        "β Σ_i ‖Φ_iᵀΦ_i − I‖_2",
        "G_jk = sign(λ) v_j v_k",
        "2β Σ_j Φ_aj sign(λ) v_j v_b",
    ),
    "coherence": (
        "β Σ_i max_{j≠k}|Φ_ijᵀΦ_ik|",
        "G_jk = ½ sign(X_jk) for the largest pair, else 0",
        "2β Σ_j Φ_aj G_jb",
    ),
    "logdet": (
        "β Σ_i (tr(Φ_iᵀΦ_i) − log det(Φ_iᵀΦ_i) − n)",
        "G_jk = δ_jk − [(PᵀP)⁻¹]_jk",
        "2β Σ_j Φ_aj (δ_jb − [(Φ_aᵀΦ_a)⁻¹]_jb)",
    ),
}
"""Loss, G and the derivative by a vector, as they are printed; VALUES and SLOPES are these formulas as loops."""


def lists(setting: Setting, i: int) -> list[list[float]]:
    return setting.phi[:, i].mT.tolist()


@over_penalties
def test_what_is_written(penalty) -> None:
    written = formulas(penalty)
    assert (plain_formula(written.loss), plain_formula(written.slope), plain_formula(written.vector)) == WRITTEN[
        penalty
    ]
    for prose in (written.because, written.where, written.kink, written.weight, written.rule):
        assert prose.isascii()
        assert plain_text(prose) is not None
    if written.group:
        assert plain_formula(written.group)


@over_penalties
@over_betas
def test_the_loss_and_every_derivative_by_a_vector(penalty, beta) -> None:
    setting = Setting(5, 2, 3, penalty, beta=beta)
    loss = beta * sum(VALUES[penalty](lists(setting, i)) for i in range(2))
    assert setting.loss(setting.phi).item() == pytest.approx(loss, rel=1e-9)
    assert gramian.loss(setting.phi, beta=beta, penalty=penalty).item() == pytest.approx(loss, rel=1e-9)
    gradient = setting.autograd()
    for a in range(2):
        P = lists(setting, a)
        for b in range(3):
            weights = [2 * beta * SLOPES[penalty](P, j, b) for j in range(3)]
            expected = [sum(w * v[p] for w, v in zip(weights, P, strict=True)) for p in range(5)]
            torch.testing.assert_close(
                gradient[:, a, b], torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0
            )
            value = ByVector(Setting(5, 2, 3, penalty, a, b, beta=beta)).value
            torch.testing.assert_close(value, gradient[:, a, b])


def read(text: str, phi: torch.Tensor) -> torch.Tensor:
    """Compute a line such as ∂L/∂Φ_1,2 = 2·0.1·(Φ_1,0·sign(0.07) + …) from the vectors that it names."""
    _, right = text.split(" = ")
    right = re.sub(r"([\d⁰¹²³⁴⁵⁶⁷⁸⁹]) Φ", r"\1·Φ", right).replace("½ ", "0.5·")
    right = re.sub(
        r"10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "1e" + m[1].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")), right
    )
    right = re.sub(r"Φ_(\d+),(\d+)", r"phi[:, \1, \2]", right).replace("·", "*").replace("−", "-")
    assert re.fullmatch(r"(phi\[:, \d+, \d+\]|sign|clip|[-+*/()., \de])*", right), right
    return eval(right, {"phi": phi, "sign": sign, "clip": clip}) * torch.ones(phi.shape[0], dtype=phi.dtype)


@over_penalties
@over_betas
def test_formulas_with_numbers_are_the_derivative(penalty, beta) -> None:
    for seed in range(2):
        for a, b in ((0, 0), (1, 2), (2, 1)):
            line = ByVector(Setting(6, 3, 3, penalty, a, b, seed, beta))
            for latex, digits in ((line.substituted, 2e-3), (line.result, 1e-3)):
                text = plain_formula(latex)
                assert text.startswith(f"∂L/∂Φ_{a},{b} = ")
                atol = digits * max(beta, line.value.abs().max().item())
                torch.testing.assert_close(read(text, line.setting.phi), line.value, rtol=0, atol=atol)


@over_penalties
def test_the_words_say_what_a_step_does(penalty) -> None:
    setting = Setting(6, 2, 4, penalty, 1, 2, seed=1)
    line = ByVector(setting)
    moved = setting.P[:, setting.b] - 1e-4 * line.value
    assert [term.j for term in line.terms] == [0, 1, 2, 3]
    for term in line.terms:
        assert pytest.approx(term.inner - term.delta) == term.X
        assert pytest.approx(setting.G[term.j, setting.b].item()) == term.G
        if term.j == setting.b:
            words = "becomes shorter" if term.G > 0 else "becomes longer"
        else:
            words = f"moves away from vector {term.j}" if term.G > 0 else f"moves towards vector {term.j}"
        assert term.words == (words if abs(term.G) >= 5e-5 else "no effect")
    # The step is the sum of what the words say, one vector at a time.
    weights = torch.tensor([term.G for term in line.terms], dtype=torch.float64)
    torch.testing.assert_close(moved, setting.P[:, setting.b] - 2e-4 * setting.P @ weights)
    assert "group 1" in line.words
    assert plain_text(line.words).count("$") == 0


def test_many_terms_are_cut_off() -> None:
    line = ByVector(Setting(20, 1, 12))
    assert plain_formula(line.substituted).count("Φ") == 1 + 8
    assert plain_formula(line.substituted).endswith(" + …)")
    assert plain_formula(line.result).endswith(" + …")
    assert len(line.terms) == 12


def test_a_width_of_huber_is_in_its_formulas() -> None:
    assert plain_formula(formulas(Huber(0.5)).slope) == "G_jk = clip(X_jk/0.5, −1, 1)"
    line = ByVector(Setting(5, 2, 3, Huber(0.5), 1, 1))
    torch.testing.assert_close(read(plain_formula(line.substituted), line.setting.phi), line.value, rtol=0, atol=2e-3)


@pytest.mark.parametrize("mu", [L1() + 0.5 * SquaredFrobenius(), L1(diagonal=False), Cosine(L1())], ids=repr)
def test_any_other_penalty_has_formulas_in_g(mu) -> None:
    assert plain_formula(formulas(mu).vector) == "2β Σ_j Φ_aj G_jb"
    line = ByVector(Setting(5, 2, 3, mu, 1, 1))
    torch.testing.assert_close(read(plain_formula(line.substituted), line.setting.phi), line.value, rtol=0, atol=2e-3)
    assert all(step.holds for step in derive(line.setting))


SIZES_AS_INDICES = re.compile(r"_(?:\{[^}]*[lmn][^}]*\}|[a-z,]*[lmn][a-z,]*)")


@over_penalties
def test_no_index_is_a_size(penalty) -> None:
    written = formulas(penalty)
    latex = [step.latex for step in steps(penalty)] + [written.loss, written.slope, written.group, written.vector]
    prose = [step.because for step in steps(penalty)] + [written.where, written.kink, written.because]
    for text in [*map(plain_formula, latex), *map(plain_text, prose)]:
        indices = [found for found in SIZES_AS_INDICES.findall(text) if found not in ("_n", "_nn", "_n²")]
        assert not indices  # I_n and K_nn are matrices of that size
