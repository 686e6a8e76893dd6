"""The mathematics once more, slowly: loops over Python floats, written from the definitions.

Nothing here comes from the package. Φ is a nested list `phi[p][i][j]` (coordinate, group, member), a group is
`P[p][j]`, and a residual is `X[j][k]`.
"""

import math
from collections.abc import Callable

Matrix = list[list[float]]
Groups = list[Matrix]


def group(phi: Groups, i: int) -> Matrix:
    return [row[i] for row in phi]


def gram(P: Matrix) -> Matrix:
    n = len(P[0])
    return [[math.fsum(row[j] * row[k] for row in P) for k in range(n)] for j in range(n)]


def residual(P: Matrix) -> Matrix:
    return [[x - (j == k) for k, x in enumerate(row)] for j, row in enumerate(gram(P))]


def loss(phi: Groups, beta: float, value: Callable[[Matrix], float]) -> float:
    return beta * math.fsum(value(residual(group(phi, i))) for i in range(len(phi[0])))


def gradient(phi: Groups, beta: float, dual: Callable[[Matrix], Matrix]) -> Groups:
    """Γ_pil = 2β Σ_j Φ_pij G_jl, with G of group i."""
    length, m, n = len(phi), len(phi[0]), len(phi[0][0])
    G = [dual(residual(group(phi, i))) for i in range(m)]
    return [
        [[2 * beta * math.fsum(phi[p][i][j] * G[i][j][k] for j in range(n)) for k in range(n)] for i in range(m)]
        for p in range(length)
    ]


def central_difference(f: Callable[[Groups], float], phi: Groups, h: float = 1e-6) -> Groups:
    def at(p: int, i: int, j: int, change: float) -> float:
        moved = [[list(vector) for vector in row] for row in phi]
        moved[p][i][j] += change
        return f(moved)

    length, m, n = len(phi), len(phi[0]), len(phi[0][0])
    return [[[(at(p, i, j, h) - at(p, i, j, -h)) / (2 * h) for j in range(n)] for i in range(m)] for p in range(length)]


def entrywise_value(h: Callable[[float], float]) -> Callable[[Matrix], float]:
    return lambda X: math.fsum(h(x) for row in X for x in row)


def entrywise_dual(slope: Callable[[float], float]) -> Callable[[Matrix], Matrix]:
    return lambda X: [[slope(x) for x in row] for row in X]


def entrywise_prox(slope: Callable[[float], float]) -> Callable[[Matrix, float], Matrix]:
    """Give argmin_Y τ·Σh(Y_jk) + ½‖Y − X‖², each entry by bisection of the slope of that."""

    def entry(x: float, tau: float) -> float:
        low, high = min(x, 0.0), max(x, 0.0)
        for _ in range(200):
            y = (low + high) / 2
            if y - x + tau * slope(y) > 0:
                high = y
            else:
                low = y
        return (low + high) / 2

    return lambda X, tau: [[entry(x, tau) for x in row] for row in X]


def sign(x: float) -> float:
    return float(x > 0) - float(x < 0)


def huber(delta: float) -> Callable[[float], float]:
    return lambda x: x * x / (2 * delta) if abs(x) <= delta else abs(x) - delta / 2


def huber_slope(delta: float) -> Callable[[float], float]:
    return lambda x: x / delta if abs(x) <= delta else sign(x)


def row_sum_norm(M: Matrix) -> float:
    return max(sum(abs(x) for x in row) for row in M)


def product(A: Matrix, B: Matrix) -> Matrix:
    return [[math.fsum(a * B[k][j] for k, a in enumerate(row)) for j in range(len(B[0]))] for row in A]


def moved(P: Matrix, step: float, D: Matrix) -> Matrix:
    """Give P − step·D."""
    return [[x - step * d for x, d in zip(row, down, strict=True)] for row, down in zip(P, D, strict=True)]


def subgradient_step(P: Matrix, eta: float, beta: float, case) -> Matrix:
    """P ← P − η·2βPG."""
    return moved(P, eta * 2 * beta, product(P, case.dual(residual(P))))


def polyak_step(P: Matrix, eta: float, beta: float, case) -> Matrix:
    """P ← P − min(η, L/‖∂L‖²)·∂L."""
    X = residual(P)
    grad = [[2 * beta * x for x in row] for row in product(P, case.dual(X))]
    square = math.fsum(x * x for row in grad for x in row)
    return moved(P, min(eta, beta * case.value(X) / square) if square else 0.0, grad)


def proximal_step(P: Matrix, eta: float, beta: float, case, norm: Callable[[Matrix], float] = row_sum_norm) -> Matrix:
    """P ← P(I − S), S = C_τw(X)/2w shrunk to ‖S‖ ≤ ½, w = max(1, ‖PᵀP‖) or near feasibility 1, τ = 4ηβ."""
    X = residual(P)
    w = 1.0 if sum(x * x for row in X for x in row) <= 0.1**2 else max(1.0, norm(gram(P)))
    near = case.prox(X, 4 * eta * beta * w)
    S = [[(x - y) / (2 * w) for x, y in zip(row, other, strict=True)] for row, other in zip(X, near, strict=True)]
    return moved(P, 1 / max(1.0, 2 * norm(S)), product(P, S))
