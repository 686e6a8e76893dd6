"""The mathematics as plain loops over Python floats, written from the definitions.

This module shares no code with the package. Φ is a nested list `phi[p][i][j]` (coordinate, group, member), a group is
`P[p][j]`, and a residual is `X[j][k]`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

Matrix = list[list[float]]
Groups = list[Matrix]


@dataclass(frozen=True)
class Mu:
    """A penalty of the residual of one group; `prox` is None if there is no closed form."""

    value: Callable[[Matrix], float]
    subgradient: Callable[[Matrix], Matrix]
    prox: Callable[[Matrix, float], Matrix] | None = None


def group(phi: Groups, i: int) -> Matrix:
    return [row[i] for row in phi]


def gram(P: Matrix) -> Matrix:
    n = len(P[0])
    return [[math.fsum(row[j] * row[k] for row in P) for k in range(n)] for j in range(n)]


def residual(P: Matrix) -> Matrix:
    return [[x - (j == k) for k, x in enumerate(row)] for j, row in enumerate(gram(P))]


def loss(phi: Groups, beta: float, mu: list[Mu]) -> float:
    """βΣ_i μ_i(X_i), with a penalty for each group."""
    return beta * math.fsum(each.value(residual(group(phi, i))) for i, each in enumerate(mu))


def gradient(phi: Groups, beta: float, mu: list[Mu]) -> Groups:
    """Γ_pil = 2β Σ_j Φ_pij G_jl, with G of group i."""
    length, m, n = len(phi), len(phi[0]), len(phi[0][0])
    G = [each.subgradient(residual(group(phi, i))) for i, each in enumerate(mu)]
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


def entrywise(h: Callable[[float], float], slope: Callable[[float], float]) -> Mu:
    """Σ_jk h(X_jk)."""
    return weighted(h, slope, lambda j, k: 1.0)


def weighted(h: Callable[[float], float], slope: Callable[[float], float], weight: Callable[[int, int], float]) -> Mu:
    """Σ_jk W_jk h(X_jk); the prox argmin_Y τ·Σ W_jk h(Y_jk) + ½‖Y − X‖² by bisection of its derivative."""

    def entry(x: float, tau: float) -> float:
        low, high = min(x, 0.0), max(x, 0.0)
        if not tau:
            return x
        for _ in range(80):
            y = (low + high) / 2
            if y - x + (tau * slope(y) if slope(y) else 0.0) > 0:
                high = y
            else:
                low = y
        return (low + high) / 2

    def over(X: Matrix, f: Callable[[float, float], float]) -> Matrix:
        return [[f(x, weight(j, k)) for k, x in enumerate(row)] for j, row in enumerate(X)]

    return Mu(
        lambda X: math.fsum(flat(over(X, lambda x, w: w * h(x)))),
        lambda X: over(X, lambda x, w: w * slope(x)),
        lambda X, tau: over(X, lambda x, w: entry(x, w * tau if w else 0.0)),
    )


def times(factor: float, mu: Mu) -> Mu:
    """c·μ(X)."""

    def prox(X: Matrix, tau: float) -> Matrix:
        return mu.prox(X, factor * tau) if factor else X

    return Mu(lambda X: factor * mu.value(X), lambda X: scaled(mu.subgradient(X), factor), mu.prox and prox)


def plus(one: Mu, other: Mu) -> Mu:
    """μ(X) + ν(X), without a closed prox."""
    return Mu(lambda X: one.value(X) + other.value(X), lambda X: moved(one.subgradient(X), -1, other.subgradient(X)))


def of_angles(mu: Mu) -> Mu:
    """μ of X with a diagonal of zeros."""

    def prox(X: Matrix, tau: float) -> Matrix:
        near = mu.prox(off_diagonal(X), tau)
        return [[X[j][j] if j == k else x for k, x in enumerate(row)] for j, row in enumerate(near)]

    return Mu(
        lambda X: mu.value(off_diagonal(X)), lambda X: off_diagonal(mu.subgradient(off_diagonal(X))), mu.prox and prox
    )


def towards(target: Callable[[int, int], float], mu: Mu) -> Mu:
    """μ(PᵀP − T)."""

    def shifted(X: Matrix, side: int = 1) -> Matrix:
        return [[x + side * ((j == k) - target(j, k)) for k, x in enumerate(row)] for j, row in enumerate(X)]

    return Mu(
        lambda X: mu.value(shifted(X)),
        lambda X: mu.subgradient(shifted(X)),
        mu.prox and (lambda X, tau: shifted(mu.prox(shifted(X), tau), -1)),
    )


def of_cosines(mu: Mu) -> Mu:
    """μ of the cosines between vectors, without a closed prox: they are not a linear function of X."""

    def inverse_lengths(X: Matrix) -> list[float]:
        return [(1 + X[j][j]) ** -0.5 if 1 + X[j][j] > 0 else 0.0 for j in range(len(X))]

    def cosines(X: Matrix) -> Matrix:
        u = inverse_lengths(X)
        return off_diagonal([[x * u[j] * u[k] for k, x in enumerate(row)] for j, row in enumerate(X)])

    def subgradient(X: Matrix) -> Matrix:
        # dĈ_jk = dX_jk/(d_j d_k) − Ĉ_jk (dX_jj/2d_j² + dX_kk/2d_k²), and each Ĉ_jk has two places.
        u, C = inverse_lengths(X), cosines(X)
        G = off_diagonal(mu.subgradient(C))
        n = range(len(X))
        return [
            [-(u[j] ** 2) * math.fsum(G[j][i] * C[j][i] for i in n) if j == k else G[j][k] * u[j] * u[k] for k in n]
            for j in n
        ]

    return Mu(lambda X: mu.value(cosines(X)), subgradient)


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
    """Compute P − step·D."""
    return [[x - step * d for x, d in zip(row, down, strict=True)] for row, down in zip(P, D, strict=True)]


def subgradient_step(P: Matrix, eta: float, beta: float, mu: Mu) -> Matrix:
    """P ← P − η·2βPG."""
    return moved(P, eta * 2 * beta, product(P, mu.subgradient(residual(P))))


def polyak_step(P: Matrix, eta: float, beta: float, mu: Mu) -> Matrix:
    """P ← P − min(η, L/‖∂L‖²)·∂L."""
    X = residual(P)
    grad = [[2 * beta * x for x in row] for row in product(P, mu.subgradient(X))]
    square = math.fsum(x * x for row in grad for x in row)
    return moved(P, min(eta, beta * mu.value(X) / square) if square else 0.0, grad)


def proximal_step(
    P: Matrix, eta: float, beta: float, mu: Mu, *, norm: Callable[[Matrix], float] | None = None, centred: bool = True
) -> Matrix:
    """P ← P(I − S), S = C_τw(X)/2w scaled down to ‖S‖ ≤ ½, w = max(1, ‖PᵀP‖) or near feasibility 1, τ = 4ηβ.

    `centred` tells whether the penalty has its minimum at X = 0; for others w is never 1 by nearness.
    """
    norm = norm or row_sum_norm
    X = residual(P)
    near = centred and sum(x * x for row in X for x in row) <= 0.1**2
    w = 1.0 if near else max(1.0, norm(gram(P)))
    prox = mu.prox(X, 4 * eta * beta * w)
    S = [[(x - y) / (2 * w) for x, y in zip(row, other, strict=True)] for row, other in zip(X, prox, strict=True)]
    return moved(P, 1 / max(1.0, 2 * norm(S)), product(P, S))


def jacobi(X: Matrix) -> tuple[list[float], Matrix]:
    """Compute the eigenvalues of a symmetric matrix, and its eigenvectors as rows, by Jacobi rotations."""
    n = len(X)
    A = [list(row) for row in X]
    V = [[float(j == k) for k in range(n)] for j in range(n)]
    size = largest(flat(A))
    for _ in range(60):
        if all(abs(A[p][q]) <= 1e-20 * size for p in range(n) for q in range(p)):
            break
        for p in range(n):
            for q in range(p + 1, n):
                if A[p][q] == 0:
                    continue
                theta = 0.5 * math.atan2(2 * A[p][q], A[q][q] - A[p][p])
                c, s = math.cos(theta), math.sin(theta)
                for k in range(n):
                    A[k][p], A[k][q] = c * A[k][p] - s * A[k][q], s * A[k][p] + c * A[k][q]
                for k in range(n):
                    A[p][k], A[q][k] = c * A[p][k] - s * A[q][k], s * A[p][k] + c * A[q][k]
                    V[p][k], V[q][k] = c * V[p][k] - s * V[q][k], s * V[p][k] + c * V[q][k]
    return [A[j][j] for j in range(n)], V


def of_eigenvalues(f: Callable[[list[float]], list[float]]) -> Callable[[Matrix], Matrix]:
    """Return the function X ↦ Σ f(λ)_i v_i v_iᵀ."""

    def function(X: Matrix) -> Matrix:
        values, V = jacobi(X)
        weights = f(values)
        return [
            [math.fsum(w * v[j] * v[k] for w, v in zip(weights, V, strict=True)) for k in range(len(X))]
            for j in range(len(X))
        ]

    return function


def flat(X: Matrix) -> list[float]:
    return [x for row in X for x in row]


def frobenius(X: Matrix) -> float:
    return math.sqrt(math.fsum(x * x for x in flat(X)))


def scaled(X: Matrix, factor: float) -> Matrix:
    return [[x * factor for x in row] for row in X]


def frobenius_subgradient(X: Matrix) -> Matrix:
    return scaled(X, 1 / frobenius(X)) if frobenius(X) else X


def frobenius_prox(X: Matrix, tau: float) -> Matrix:
    return scaled(X, max(0.0, 1 - tau / frobenius(X))) if frobenius(X) else X


def off_diagonal(X: Matrix) -> Matrix:
    return [[x if j != k else 0.0 for k, x in enumerate(row)] for j, row in enumerate(X)]


def largest(values: list[float]) -> float:
    return max((abs(x) for x in values), default=0.0)


def largest_subgradient(values: list[float]) -> list[float]:
    """Compute the mean of the signed unit vectors of all entries of largest absolute value."""
    top = largest(values)
    tied = [abs(x) >= top * (1 - 1e-12) and top > 0 for x in values]
    return [sign(x) * t / max(1, sum(tied)) for x, t in zip(values, tied, strict=True)]


def largest_prox(values: list[float], tau: float) -> list[float]:
    """Clip at the level above which the absolute values exceed it by τ in total."""
    low, high = 0.0, largest(values)
    if math.fsum(abs(x) for x in values) <= tau:
        return [0.0 for _ in values]
    for _ in range(80):
        level = (low + high) / 2
        if math.fsum(max(0.0, abs(x) - level) for x in values) > tau:
            low = level
        else:
            high = level
    return [min(max(x, -low), low) for x in values]


def coherence(X: Matrix) -> float:
    return largest(flat(off_diagonal(X)))


def _folded(values: list[float], like: Matrix) -> Matrix:
    n = len(like)
    return [values[j * n : (j + 1) * n] for j in range(n)]


def coherence_subgradient(X: Matrix) -> Matrix:
    return _folded(largest_subgradient(flat(off_diagonal(X))), X)


def coherence_prox(X: Matrix, tau: float) -> Matrix:
    clipped = _folded(largest_prox(flat(off_diagonal(X)), tau), X)
    return [[X[j][j] if j == k else x for k, x in enumerate(row)] for j, row in enumerate(clipped)]


def spectral(X: Matrix) -> float:
    return largest(jacobi(X)[0])


def logdet(X: Matrix) -> float:
    return math.fsum(x - math.log1p(x) for x in jacobi(X)[0])


def logdet_prox(values: list[float], tau: float) -> list[float]:
    """Compute for each λ the y > −1 with y + τy/(1 + y) = λ, by bisection."""

    def one(value: float) -> float:
        low, high = (max(value, -1.0), 0.0) if value < 0 else (0.0, value)
        for _ in range(80):
            y = (low + high) / 2
            if y == -1 or y + tau * y / (1 + y) < value:
                low = y
            else:
                high = y
        return (low + high) / 2

    return [one(value) for value in values]
