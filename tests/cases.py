"""The case table: every penalty, rule and layout, one line each. All laws run over all cases."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from gramian.penalties import (
    L1,
    Coherence,
    ElementwisePenalty,
    Frobenius,
    Huber,
    LogDet,
    Penalty,
    Spectral,
    SquaredFrobenius,
)
from tests import oracle

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DRAWS = (0, 1, 2, 3, 4)

SHAPES = ((1, 1, 1), (3, 1, 1), (1, 4, 1), (4, 2, 4), (7, 3, 2), (6, 1, 5), (40, 2, 20))
"""(l, m, n) with n ≤ l; the last takes the power iteration of the norm."""

OVERCOMPLETE = ((1, 1, 2), (1, 2, 3), (3, 2, 5))
"""(l, m, n) with n > l."""


@dataclass(frozen=True)
class PenaltyCase:
    """A penalty and, for the oracle, its value, its dual and its prox on a matrix of floats."""

    penalty: Penalty
    value: Callable[[oracle.Matrix], float]
    dual: Callable[[oracle.Matrix], oracle.Matrix]
    prox: Callable[[oracle.Matrix, float], oracle.Matrix]
    degree: float | None = None
    """Of positive homogeneity: μ(cX) = c^degree μ(X)."""
    smooth: bool = True
    admit: Callable[[Tensor], Tensor] = lambda X: X
    """Makes of a symmetric matrix one on which the penalty is finite."""
    even: bool = True
    """μ(−X) = μ(X)."""

    @property
    def tolerance(self) -> float:
        """Relative to the sizes at hand: an eigendecomposition loses digits."""
        return 1e-12 if self.penalty.entrywise else 1e-9


def free_lengths(case: PenaltyCase, penalty: Penalty) -> PenaltyCase:
    """The case of the same penalty on X with a diagonal of zeros."""

    def prox(X: oracle.Matrix, tau: float) -> oracle.Matrix:
        near = case.prox(oracle.off_diagonal(X), tau)
        return [[X[j][j] if j == k else x for k, x in enumerate(row)] for j, row in enumerate(near)]

    return replace(
        case,
        penalty=penalty,
        value=lambda X: case.value(oracle.off_diagonal(X)),
        dual=lambda X: oracle.off_diagonal(case.dual(oracle.off_diagonal(X))),
        prox=prox,
    )


def entrywise(
    penalty: ElementwisePenalty, h: Callable[[float], float], slope: Callable[[float], float], **more
) -> PenaltyCase:
    return PenaltyCase(
        penalty, oracle.entrywise_value(h), oracle.entrywise_dual(slope), oracle.entrywise_prox(slope), **more
    )


PENALTY_CASES = {
    "l1": entrywise(L1(), abs, oracle.sign, degree=1, smooth=False),
    "huber": entrywise(Huber(), oracle.huber(0.1), oracle.huber_slope(0.1)),
    "huber(2)": entrywise(Huber(2.0), oracle.huber(2.0), oracle.huber_slope(2.0)),
    "squared_frobenius": entrywise(SquaredFrobenius(), lambda x: x * x, lambda x: 2 * x, degree=2),
}

NORM_CASES = {
    "frobenius": PenaltyCase(
        Frobenius(), oracle.frobenius, oracle.frobenius_dual, oracle.frobenius_prox, degree=1, smooth=False
    ),
    "spectral": PenaltyCase(
        Spectral(), oracle.spectral, oracle.of_eigenvalues(oracle.largest_dual),
        lambda X, tau: oracle.of_eigenvalues(lambda values: oracle.largest_prox(values, tau))(X), degree=1,
        smooth=False,
    ),
    "coherence": PenaltyCase(
        Coherence(), oracle.coherence, oracle.coherence_dual, oracle.coherence_prox, degree=1, smooth=False
    ),
    "logdet": PenaltyCase(
        LogDet(), oracle.logdet, oracle.of_eigenvalues(lambda values: [x / (1 + x) for x in values]),
        lambda X, tau: oracle.of_eigenvalues(lambda values: oracle.logdet_prox(values, tau))(X), even=False,
        admit=lambda X: 0.2 * X @ X.mT - 0.9 * torch.eye(X.shape[-1], dtype=X.dtype),
    ),
}  # fmt: skip

FREE_LENGTHS = {
    f"{name}, free lengths": free_lengths((PENALTY_CASES | NORM_CASES)[name], penalty)
    for name, penalty in {
        "l1": L1(diagonal=False),
        "huber": Huber(diagonal=False),
        "squared_frobenius": SquaredFrobenius(diagonal=False),
        "frobenius": Frobenius(diagonal=False),
    }.items()
}
"""Those of the family that have a closed shrink when angles alone are penalised."""

RULE_CASES = {
    "subgradient": oracle.subgradient_step,
    "polyak": oracle.polyak_step,
    "proximal": oracle.proximal_step,
}


@dataclass(frozen=True)
class LayoutCase:
    """A parameter's shape, its pattern and sizes, and the same rearrangement by reshape and permute."""

    shape: tuple[int, ...]
    pattern: str
    by_hand: Callable[[Tensor], Tensor]
    sizes: dict[str, int] = field(default_factory=dict)
    view: bool = True
    """Whether Φ of a contiguous parameter shares its memory."""


LAYOUT_CASES = {
    "rows": LayoutCase((5, 7), "o i -> i () o", lambda w: w.t()[:, None, :]),
    "columns": LayoutCase((5, 7), "o i -> o () i", lambda w: w[:, None, :]),
    "rows by four": LayoutCase((8, 5), "(m n) i -> i m n", lambda w: w.reshape(2, 4, 5).permute(2, 0, 1), {"n": 4}),
    "conv": LayoutCase((6, 3, 2, 5), "o i kh kw -> (i kh kw) () o", lambda w: w.reshape(6, 30).t()[:, None, :]),
    "grouped conv": LayoutCase(
        (6, 3, 2, 5), "(g o) i kh kw -> (i kh kw) g o", lambda w: w.reshape(2, 3, 30).permute(2, 0, 1), {"g": 2}
    ),
    "attention in": LayoutCase(
        (24, 5), "(three h d) i -> i (three h) d", lambda w: w.reshape(6, 4, 5).permute(2, 0, 1), {"three": 3, "h": 2}
    ),
    "attention out": LayoutCase((5, 8), "o (h d) -> o h d", lambda w: w.reshape(5, 2, 4), {"h": 2}),
    "dictionary": LayoutCase((6, 12), "l (m n) -> l m n", lambda w: w.reshape(6, 3, 4), {"n": 4}),
    "chunks": LayoutCase((12, 6), "(m n) l -> l m n", lambda w: w.reshape(3, 4, 6).permute(2, 0, 1), {"n": 4}),
    "split and merged across": LayoutCase(
        (6, 4),
        "(a b) c -> a () (c b)",
        lambda w: w.reshape(2, 3, 4).permute(0, 2, 1).reshape(2, 1, 12),
        {"a": 2},
        False,
    ),
}


over_penalties = pytest.mark.parametrize("case", PENALTY_CASES.values(), ids=PENALTY_CASES)
ALL_CASES = PENALTY_CASES | NORM_CASES | FREE_LENGTHS

over_all_penalties = pytest.mark.parametrize("case", ALL_CASES.values(), ids=ALL_CASES)
over_norms = pytest.mark.parametrize("case", NORM_CASES.values(), ids=NORM_CASES)
over_rules = pytest.mark.parametrize("rule", RULE_CASES)
over_layouts = pytest.mark.parametrize("case", LAYOUT_CASES.values(), ids=LAYOUT_CASES)
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_all_shapes = pytest.mark.parametrize("shape", SHAPES + OVERCOMPLETE, ids=str)
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
over_draws = pytest.mark.parametrize("draw", DRAWS)
overcomplete_is_meant = pytest.mark.filterwarnings("ignore::gramian.errors.OvercompleteWarning")


def stiefel(length: int, m: int, n: int) -> Tensor:
    """Groups of orthonormal columns, float64."""
    return torch.linalg.qr(torch.randn(m, length, n, dtype=torch.float64))[0].permute(1, 0, 2).contiguous()


def plain_loss(phi: Tensor, case: PenaltyCase, beta: float = 1.0) -> Tensor:
    """The obvious expression, for autograd: the penalty of the residual of an einsum."""
    X = torch.einsum("lmj,lmk->mjk", phi, phi) - torch.eye(phi.shape[-1], dtype=phi.dtype)
    return beta * case.penalty.value(X).sum()
