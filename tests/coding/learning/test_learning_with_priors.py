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
    block_recovery,
    cosine_decay,
    initial_dictionary,
)
from gramian.errors import OptionError

LENGTH, FACTORS, ACTIVE = 32, 16, 2
PRIORS = ("group_laplace", "scale_mixture", "group_l0", "spike_slab")
over_priors = pytest.mark.parametrize(
    "prior", [*PRIORS, pytest.param(SpikeSlab("laplace"), marks=pytest.mark.slow)], ids=str
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
    data = ManifoldSum(LENGTH, FACTORS, ACTIVE)
    x, held_out = samples(8000, 1), data.draw(1000, seed=2)
    scaled = LENGTH**0.5 * held_out.x
    unexplained, recovered = {}, {}
    for prior in ("group_laplace", "group_l0"):
        model = SubspaceSparseCoding(FACTORS, 3, prior=prior, target_active=ACTIVE, steps=300, random_state=0).fit(x)
        codes = model.transform(scaled)
        error = (scaled - model.inverse_transform(codes)).square().sum()
        unexplained[prior] = float(error / scaled.square().sum())
        grouped = codes.unflatten(1, (FACTORS, 3)) * (model.scale_ / LENGTH**0.5)
        recovered[prior] = float(block_recovery(model.phi_, grouped, data.phi, held_out.codes).r2.mean())
    assert unexplained["group_l0"] < 0.5 * unexplained["group_laplace"]
    assert recovered["group_l0"] > recovered["group_laplace"]


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
