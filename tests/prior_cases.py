"""The table of priors over codes, and of the inference methods that minimise each: all laws run over it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from gramian.coding import (
    GroupL0,
    GroupLaplace,
    LaplacianScaleMixture,
    Prior,
    SpikeSlab,
    block_iht,
    block_omp,
    fista,
    lca,
)
from tests.own_cases import own_cases


@dataclass(frozen=True)
class PriorCase:
    """A prior for m groups, with what is true of it."""

    build: Callable[[int], Prior]
    nonnegative: bool = False
    proper: bool = True
    """Whether exp(−value) has a finite integral."""


def _weights(m: int) -> torch.Tensor:
    return torch.linspace(0.5, 2.0, m, dtype=torch.float64)


PRIOR_CASES: dict[str, PriorCase] = {
    "laplace": PriorCase(lambda _: GroupLaplace()),
    "weighted": PriorCase(lambda m: GroupLaplace(_weights(m))),
    "nonnegative": PriorCase(lambda _: GroupLaplace(nonnegative=True), nonnegative=True),
    "weighted nonnegative": PriorCase(lambda m: GroupLaplace(_weights(m), nonnegative=True), nonnegative=True),
    "scale mixture": PriorCase(lambda _: LaplacianScaleMixture()),
    "heavy scale mixture": PriorCase(lambda _: LaplacianScaleMixture(1.5, rounds=8)),
    "l0": PriorCase(lambda _: GroupL0(), proper=False),
    "gaussian slab": PriorCase(lambda _: SpikeSlab()),
    "narrow gaussian slab": PriorCase(lambda _: SpikeSlab(scale=0.5)),
    "laplace slab": PriorCase(lambda _: SpikeSlab("laplace", scale=2.0)),
    **own_cases("PRIORS"),
}

METHOD_CASES = {
    f"{method.__name__}, {name}": (method, case)
    for name, case in PRIOR_CASES.items()
    for method in ((block_omp, block_iht) if case.build(1).counts_groups else (fista, lca))
}
"""Every inference method with every prior that it accepts."""

over_priors = pytest.mark.parametrize("case", PRIOR_CASES.values(), ids=PRIOR_CASES)
over_proper = pytest.mark.parametrize(
    "case",
    [case for case in PRIOR_CASES.values() if case.proper],
    ids=[name for name, case in PRIOR_CASES.items() if case.proper],
)
over_inference = pytest.mark.parametrize(("method", "case"), METHOD_CASES.values(), ids=METHOD_CASES)
