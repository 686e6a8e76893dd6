"""Learning with every prior: the target of active groups, dead groups, and recovery of known factors."""

import pytest
import torch

from gramian.coding import (
    Learner,
    LearningOptions,
    ManifoldSum,
    SpikeSlab,
    SubspaceSparseCoding,
    block_omp,
    cosine_decay,
    initial_dictionary,
)
from gramian.errors import OptionError

LENGTH, FACTORS, ACTIVE = 32, 16, 2
QUICK, SLOW = ("group_l0",), ("group_laplace", "scale_mixture", "spike_slab", SpikeSlab("laplace"))
over_priors = pytest.mark.parametrize(
    "prior", [*QUICK, *(pytest.param(prior, marks=pytest.mark.slow) for prior in SLOW)], ids=str
)


def samples(count: int, seed: int) -> torch.Tensor:
    return LENGTH**0.5 * ManifoldSum(LENGTH, FACTORS, ACTIVE).draw(count, seed=seed).x


@over_priors
def test_the_target_of_active_groups_is_hit(prior) -> None:
    x = samples(3000, 1)
    model = SubspaceSparseCoding(
        FACTORS, 3, prior=prior, target_active=ACTIVE, steps=150, lr=0.3, max_iter=300, tol=1e-3
    ).fit(x)
    active = (model.amplitudes(samples(3000, 2)) > 0).sum(dim=1).double().mean().item()
    assert active == pytest.approx(ACTIVE, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["group_l0", "spike_slab"])
def test_with_as_many_groups_as_factors_none_stays_dead(prior) -> None:
    x = samples(8000, 1)
    options = LearningOptions(prior=prior, lam=2.0, target_active=ACTIVE, patience=20)
    learner = Learner(initial_dictionary(LENGTH, FACTORS, 3, seed=0), options)
    for step in range(300):
        learner.step(x[torch.randint(len(x), (128,))], lr=cosine_decay(0.5, step, 300))
    support = block_omp(x, learner.phi, active=ACTIVE).support
    assert support.any(dim=0).all()


def test_group_l0_explains_what_laplace_shrinks() -> None:
    x, held_out = samples(4000, 1), samples(1000, 2)
    unexplained = {}
    for prior in ("group_laplace", "group_l0"):
        model = SubspaceSparseCoding(FACTORS, 3, prior=prior, target_active=ACTIVE, steps=150, random_state=0).fit(x)
        error = (held_out - model.inverse_transform(model.transform(held_out))).square().sum()
        unexplained[prior] = float(error / held_out.square().sum())
    assert unexplained["group_l0"] < 0.5 * unexplained["group_laplace"]


def test_a_method_for_another_prior() -> None:
    with pytest.raises(
        OptionError, match=r"infer must be a method for the prior GroupL0.*got 'fista'; try infer='auto'"
    ):
        LearningOptions(prior="group_l0", infer="fista")
    with pytest.raises(OptionError, match=r"got 'block_omp'; try infer='auto'"):
        LearningOptions(infer="block_omp")


def test_a_flat_slab_has_no_log_prob() -> None:
    model = SubspaceSparseCoding(4, 2, prior="group_l0", lam=1.0, steps=5).fit(samples(100, 1))
    with pytest.raises(OptionError, match="flat slab; try SpikeSlab"):
        model.log_prob(samples(10, 2))
    model = SubspaceSparseCoding(4, 2, prior="spike_slab", steps=5).fit(samples(100, 1))
    assert model.log_prob(samples(10, 2)).shape == (10,)
