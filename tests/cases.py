"""The case table: every penalty, rule and layout. The laws of `tests/laws` run over all cases."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from gramian.penalties import (
    L1,
    Coherence,
    Cosine,
    Elementwise,
    Frobenius,
    Huber,
    LogDet,
    Penalty,
    Spectral,
    SquaredFrobenius,
    TargetGram,
    Weighted,
)
from tests import oracle
from tests.own_cases import own_cases

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DRAWS = (0, 1, 2, 3, 4)

SHAPES = ((1, 1, 1), (3, 1, 1), (1, 4, 1), (4, 2, 4), (7, 3, 2), (6, 1, 5), (20, 1, 17))
"""(l, m, n) with n ≤ l; the last takes the power iteration of the norm."""

OVERCOMPLETE = ((1, 1, 2), (1, 2, 3), (3, 2, 5))
"""(l, m, n) with n > l."""


@dataclass(frozen=True)
class PenaltyCase:
    """A penalty, and its twin by loops over floats for the oracle."""

    build: Callable[[int, int], Penalty]
    """The penalty for m groups of n vectors."""
    twin: Callable[[int, int], oracle.Mu]
    """The oracle's penalty for group i, of n vectors."""
    degree: float | None = None
    """Degree of positive homogeneity: μ(cX) = c^degree μ(X); None if it is not homogeneous."""
    smooth: bool = True
    even: bool = True
    """μ(−X) = μ(X)."""
    convex: bool = True
    zero: bool = True
    """Whether the penalty of orthonormal groups is zero."""
    signs: bool = True
    """Whether the penalty is the same when a vector changes its sign."""
    members: bool = True
    """Whether the penalty is the same when the vectors of a group are permuted."""
    tall: bool = False
    """Whether it is finite for linearly independent vectors only."""
    scale: float = 1.0
    """Length of the vectors of random groups for which it is finite."""
    ties: bool = True
    """Whether ties among entries of X are exact; otherwise rounding breaks them."""
    admit: Callable[[Tensor], Tensor] = lambda X: X
    """Maps a symmetric matrix to one for which the penalty is finite."""

    def at(self, m: int, n: int) -> Penalty:
        """Build the penalty for m groups of n vectors."""
        return self.build(m, n)

    def mu(self, m: int, n: int) -> list[oracle.Mu]:
        """Return the oracle's penalty for each of m groups of n vectors."""
        return [self.twin(i, n) for i in range(m)]

    @property
    def penalty(self) -> Penalty:
        """The penalty, for cases where it is the same for groups of any size."""
        return self.build(1, 1)

    @property
    def separate(self) -> bool:
        """Whether the penalty has parameters for each group."""
        return self.at(2, 2).n_groups is not None

    @property
    def has_prox(self) -> bool:
        """Whether it has a closed prox."""
        return self.twin(0, 2).prox is not None

    @property
    def tolerance(self) -> float:
        """Relative error that is allowed: an eigendecomposition loses digits."""
        return 1e-12 if self.at(2, 2).elementwise else 1e-9

    def draw(self, shape: tuple[int, int, int], seed: int | None = None) -> Tensor:
        """Draw random groups, in float64, for which the penalty is finite and differentiable."""
        random = None if seed is None else torch.Generator().manual_seed(seed)
        length = 1.0 if self.scale == 1 else self.scale / max(1, shape[0]) ** 0.5
        return length * torch.randn(shape, dtype=torch.float64, generator=random)


def weight(j: int, k: int, i: int = 0) -> float:
    """W_jk of group i, symmetric, with a pair of weight 0."""
    return 0.0 if {j, k} == {0, 2} else 0.25 + (j * k + j + k + 2 * i) % 5 / 4


def gram(j: int, k: int, i: int = 0) -> float:
    """T_jk of group i: squared lengths of 1.5 and 0.5 in turn, and inner products that keep it positive definite."""
    return (0.5 + (j + i + 1) % 2) if j == k else 0.5 / ((1 + j) * (1 + k) * (i + 2))


def pairs(of: Callable[..., float], n: int, m: int | None = None) -> Tensor:
    """Form a matrix [n, n] for all groups, or [m, n, n] with one for each."""
    rows = [[[of(j, k, i) for k in range(n)] for j in range(n)] for i in range(1 if m is None else m)]
    matrices = torch.tensor(rows, dtype=torch.float64).view(len(rows), n, n)
    return matrices[0] if m is None else matrices


def logcosh(x: Tensor) -> Tensor:
    return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)


def uniform(penalty: Penalty, mu: oracle.Mu, **more) -> PenaltyCase:
    """Build the case of a penalty that is the same for any number and size of groups."""
    return PenaltyCase(lambda m, n: penalty, lambda i, n: mu, **more)


def definite(X: Tensor) -> Tensor:
    """Map a symmetric matrix to one with eigenvalues above −1."""
    return 0.2 * X @ X.mT - 0.9 * torch.eye(X.shape[-1], dtype=X.dtype)


def within(X: Tensor) -> Tensor:
    """Map a symmetric matrix to one with eigenvalues between −1 and 1, also after its diagonal is set to 0."""
    return 0.5 * X / (1 + torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True))


def with_lengths(X: Tensor) -> Tensor:
    """Map a symmetric matrix to the residual of vectors of positive length."""
    return X + torch.diag_embed(X.diagonal(dim1=-2, dim2=-1).abs() - X.diagonal(dim1=-2, dim2=-1))


_L1 = oracle.entrywise(abs, oracle.sign)
_HUBER = oracle.entrywise(oracle.huber(0.1), oracle.huber_slope(0.1))
_SQUARES = oracle.entrywise(lambda x: x * x, lambda x: 2 * x)
_LOGCOSH = oracle.entrywise(lambda x: math.log(math.cosh(x)) if abs(x) < 300 else abs(x) - math.log(2), math.tanh)
_FROBENIUS = oracle.Mu(oracle.frobenius, oracle.frobenius_subgradient, oracle.frobenius_prox)
_COHERENCE = oracle.Mu(oracle.coherence, oracle.coherence_subgradient, oracle.coherence_prox)
_SPECTRAL = oracle.Mu(
    oracle.spectral, oracle.of_eigenvalues(oracle.largest_subgradient),
    lambda X, tau: oracle.of_eigenvalues(lambda values: oracle.largest_prox(values, tau))(X),
)  # fmt: skip
_LOGDET = oracle.Mu(
    oracle.logdet, oracle.of_eigenvalues(lambda values: [x / (1 + x) for x in values]),
    lambda X, tau: oracle.of_eigenvalues(lambda values: oracle.logdet_prox(values, tau))(X),
)  # fmt: skip


def without_prox(mu: oracle.Mu) -> oracle.Mu:
    return replace(mu, prox=None)


PENALTY_CASES = {
    "l1": uniform(L1(), _L1, degree=1, smooth=False),
    "huber": uniform(Huber(), _HUBER),
    "huber(2)": uniform(Huber(2.0), oracle.entrywise(oracle.huber(2.0), oracle.huber_slope(2.0))),
    "squared_frobenius": uniform(SquaredFrobenius(), _SQUARES, degree=2),
}
"""Elementwise penalties, for groups of any size."""

NORM_CASES = {
    "frobenius": uniform(Frobenius(), _FROBENIUS, degree=1, smooth=False),
    "spectral": uniform(Spectral(), _SPECTRAL, degree=1, smooth=False),
    "coherence": uniform(Coherence(), _COHERENCE, degree=1, smooth=False),
    "logdet": uniform(LogDet(), _LOGDET, even=False, tall=True, admit=definite),
}
"""Penalties of X as a whole."""

FREE_LENGTHS = {
    "l1, free lengths": uniform(L1(diagonal=False), oracle.of_angles(_L1), degree=1, smooth=False),
    "huber, free lengths": uniform(Huber(diagonal=False), oracle.of_angles(_HUBER)),
    "squared_frobenius, free lengths": uniform(SquaredFrobenius(diagonal=False), oracle.of_angles(_SQUARES), degree=2),
    "frobenius, free lengths": uniform(Frobenius(diagonal=False), oracle.of_angles(_FROBENIUS), degree=1, smooth=False),
    "spectral, free lengths": uniform(
        Spectral(diagonal=False), oracle.of_angles(without_prox(_SPECTRAL)), degree=1, smooth=False
    ),
    "logdet, free lengths": uniform(
        LogDet(diagonal=False), oracle.of_angles(without_prox(_LOGDET)), even=False, tall=True, scale=0.5, admit=within
    ),
}
"""Penalties of angles only."""

COMPOSITIONS = {
    "logcosh": uniform(Elementwise(logcosh, torch.tanh), _LOGCOSH),
    "logcosh, free lengths": uniform(Elementwise(logcosh, torch.tanh, diagonal=False), oracle.of_angles(_LOGCOSH)),
    "3 l1": uniform(3 * L1(), oracle.times(3, _L1), degree=1, smooth=False),
    "0 l1": uniform(0 * L1(), oracle.times(0, _L1)),
    "2 spectral": uniform(2 * Spectral(), oracle.times(2, _SPECTRAL), degree=1, smooth=False),
    "elastic": uniform(
        L1() + 0.5 * SquaredFrobenius(),
        oracle.entrywise(lambda x: abs(x) + x * x / 2, lambda x: oracle.sign(x) + x),
        smooth=False,
    ),
    "l1 and more of angles": uniform(
        L1() + 2 * L1(diagonal=False),
        oracle.weighted(abs, oracle.sign, lambda j, k: 1 if j == k else 3),
        degree=1,
        smooth=False,
    ),
    "l1 and coherence": uniform(L1() + Coherence(), oracle.plus(_L1, _COHERENCE), degree=1, smooth=False),
    "weighted l1": PenaltyCase(
        lambda m, n: Weighted(L1(), pairs(weight, n)),
        lambda i, n: oracle.weighted(abs, oracle.sign, weight),
        degree=1, smooth=False, members=False,
    ),
    "weighted sum, of each group": PenaltyCase(
        lambda m, n: 2 * Weighted(L1() + Huber(0.5), pairs(weight, n, m)),
        lambda i, n: oracle.weighted(
            lambda x: 2 * abs(x) + 2 * oracle.huber(0.5)(x),
            lambda x: 2 * oracle.sign(x) + 2 * oracle.huber_slope(0.5)(x),
            lambda j, k: weight(j, k, i),
        ),
        smooth=False, members=False,
    ),
    "target of l1": PenaltyCase(
        lambda m, n: TargetGram(L1(), pairs(gram, n)),
        lambda i, n: oracle.towards(gram, _L1),
        smooth=False, even=False, zero=False, signs=False, members=False,
    ),
    "target of frobenius, of each group": PenaltyCase(
        lambda m, n: TargetGram(Frobenius(), pairs(gram, n, m)),
        lambda i, n: oracle.towards(lambda j, k: gram(j, k, i), _FROBENIUS),
        smooth=False, even=False, zero=False, signs=False, members=False,
    ),
    "target of weights, both of each group": PenaltyCase(
        lambda m, n: TargetGram(Weighted(L1(), pairs(weight, n, m)), pairs(gram, n, m)),
        lambda i, n: oracle.towards(
            lambda j, k: gram(j, k, i), oracle.weighted(abs, oracle.sign, lambda j, k: weight(j, k, i))
        ),
        smooth=False, even=False, zero=False, signs=False, members=False,
    ),
    "cosine of l1": uniform(
        Cosine(L1()), oracle.of_cosines(_L1), smooth=False, even=False, convex=False, admit=with_lengths
    ),
    "cosine of squares": uniform(
        Cosine(SquaredFrobenius()), oracle.of_cosines(_SQUARES), even=False, convex=False, admit=with_lengths
    ),
    "cosine of coherence": uniform(
        Cosine(Coherence()), oracle.of_cosines(_COHERENCE), smooth=False, even=False, convex=False, ties=False,
        admit=with_lengths,
    ),
    "cosine of weights, of each group": PenaltyCase(
        lambda m, n: Cosine(Weighted(L1(), pairs(weight, n, m))),
        lambda i, n: oracle.of_cosines(
            oracle.weighted(abs, oracle.sign, lambda j, k: weight(j, k, i))
        ),
        smooth=False, even=False, convex=False, members=False, admit=with_lengths,
    ),
}  # fmt: skip
"""User-defined functions, multiples, sums, weights, targets and cosines."""

ALL_CASES = PENALTY_CASES | NORM_CASES | FREE_LENGTHS | COMPOSITIONS

_SLOW = {
    "huber, free lengths", "squared_frobenius, free lengths", "spectral, free lengths", "logcosh, free lengths",
    "2 spectral", "elastic", "l1 and coherence", "weighted l1", "target of l1", "cosine of l1",
}  # fmt: skip
"""Cases whose parts others have, too: only in the slow tests."""

RULE_CASES = {
    "subgradient": oracle.subgradient_step,
    "polyak": oracle.polyak_step,
    "proximal": oracle.proximal_step,
}


@dataclass(frozen=True)
class LayoutCase:
    """The shape of a parameter, a pattern with sizes, and the same rearrangement by reshape and permute."""

    shape: tuple[int, ...]
    pattern: str
    by_hand: Callable[[Tensor], Tensor]
    sizes: dict[str, int] = field(default_factory=dict)
    view: bool = True
    """Whether Φ is a view of a contiguous parameter."""


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

# The file of one's own cases may use everything above.
ALL_CASES |= own_cases("PENALTIES")
RULE_CASES |= own_cases("RULES")
LAYOUT_CASES |= own_cases("LAYOUTS")


def over(
    cases: dict[str, PenaltyCase], needs: Callable[[PenaltyCase], bool] = lambda case: True
) -> pytest.MarkDecorator:
    """Parametrize a test over the cases of a table that satisfy a condition."""
    chosen = {name: case for name, case in cases.items() if needs(case)}
    marks = {name: [pytest.mark.slow] if name in _SLOW else [] for name in chosen}
    return pytest.mark.parametrize("case", [pytest.param(chosen[name], id=name, marks=marks[name]) for name in chosen])


over_penalties = over(PENALTY_CASES)
over_all_penalties = over(ALL_CASES)
over_convex = over(ALL_CASES, lambda case: case.convex)
over_proximable = over(ALL_CASES, lambda case: case.has_prox)
over_rules = pytest.mark.parametrize("rule", RULE_CASES)
over_layouts = pytest.mark.parametrize("case", LAYOUT_CASES.values(), ids=LAYOUT_CASES)
over_shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
over_all_shapes = pytest.mark.parametrize("shape", SHAPES + OVERCOMPLETE, ids=str)
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
over_draws = pytest.mark.parametrize("draw", DRAWS)
overcomplete_is_meant = pytest.mark.filterwarnings("ignore::gramian.errors.OvercompleteWarning")


def stiefel(length: int, m: int, n: int) -> Tensor:
    """Draw groups of orthonormal columns, float64."""
    return torch.linalg.qr(torch.randn(m, length, n, dtype=torch.float64))[0].permute(1, 0, 2).contiguous()


def plain_loss(phi: Tensor, case: PenaltyCase, beta: float = 1.0) -> Tensor:
    """Compute the loss as it is defined, by einsum, for autograd."""
    X = torch.einsum("lmj,lmk->mjk", phi, phi) - torch.eye(phi.shape[-1], dtype=phi.dtype)
    return beta * case.at(*phi.shape[1:]).value(X).sum()
