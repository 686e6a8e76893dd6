"""What a learner remembers between steps: moments, silent groups, λ; and how it goes on from a state."""

import pytest
import torch

import gramian
from gramian.coding import Learner, cosine_decay, fista, initial_dictionary, reconstruct, snr
from gramian.errors import OptionError
from tests.coding.test_dictionary import planted

updates = pytest.mark.parametrize("update", ["sgd", "online"])


def learner(**options) -> Learner:
    return Learner(initial_dictionary(16, 6, 2, seed=0), **{"lam": 0.3, "beta": 0.3, **options})


def batches(count: int, size: int = 64) -> list[torch.Tensor]:
    x, _ = planted(4000)
    return [x[torch.randint(len(x), (size,))] for _ in range(count)]


def quality(x: torch.Tensor, phi: torch.Tensor) -> float:
    return snr(x, reconstruct(phi, fista(x, phi, lam=0.3).codes))


@updates
def test_it_learns(update) -> None:
    data = batches(200)
    one = learner(update=update, beta=2.0)
    before = quality(data[0], one.phi)
    for step, batch in enumerate(data):
        one.step(batch, lr=cosine_decay(0.5, step, 200))
    assert one.steps == 200
    assert quality(data[0], one.phi) > before + 5
    assert gramian.residual(one.phi).abs().max() < 1e-3


def test_the_online_update_needs_no_rate() -> None:
    data = batches(60)
    one, other = learner(update="online"), learner(update="online")
    for batch in data:
        one.step(batch, lr=123.0)
        other.step(batch, lr=0.5)
    assert torch.equal(one.phi, other.phi)
    assert quality(data[0], one.phi) > 12


def test_an_online_sweep_goes_down_its_surrogate() -> None:
    """½tr ΦᵀΦA − tr ΦᵀB, each group to its minimum along the curvature bound."""
    (batch,) = batches(1)
    one = learner(update="online", rule="subgradient", beta=1e-12)
    first = one.phi
    one.step(batch, lr=0.5)
    state = one.state()

    def surrogate(phi: torch.Tensor) -> float:
        D = phi.flatten(1)
        return (0.5 * torch.trace(D @ state["aa"] @ D.mT) - (D * state["xa"]).sum()).item()

    assert surrogate(one.phi) < surrogate(first)
    codes = fista(batch, first, lam=0.3, max_iter=20, tol=0.0).codes.flatten(1)
    torch.testing.assert_close(state["aa"], codes.mT @ codes / len(batch))
    torch.testing.assert_close(state["xa"], batch.mT @ codes / len(batch))


@updates
def test_from_a_state_it_goes_on_with_the_same_bits(update) -> None:
    data = batches(30)
    options = {"update": update, "target_active": 2.0, "patience": 3}
    whole = learner(**options)
    for batch in data:
        whole.step(batch, lr=0.3)
    first = learner(**options)
    for batch in data[:13]:
        first.step(batch, lr=0.3)
    second = learner(**options)
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for batch in data[13:]:
        second.step(batch, lr=0.3)
    assert torch.equal(second.phi, whole.phi)
    assert second.lam == whole.lam
    assert second.steps == whole.steps == 30


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(OptionError, match="a state must be of the same dictionary and update"):
        learner().load(learner(update="online").state())
    with pytest.raises(OptionError, match=r"got .*\[16, 5, 2\]"):
        learner().load(Learner(initial_dictionary(16, 5, 2, seed=0), lam=0.3, beta=0.3).state())


@updates
def test_silent_groups_are_made_anew(update) -> None:
    data = batches(40)
    phi = initial_dictionary(16, 6, 2, seed=0)
    phi[:, 2:4] = 0  # two groups that no sample can use
    kept = Learner(phi, lam=0.3, beta=0.3, update=update)
    anew = Learner(phi, lam=0.3, beta=0.3, update=update, patience=5)
    replaced = []
    for batch in data:
        assert kept.step(batch, lr=0.3).replaced == 0
        replaced.append(anew.step(batch, lr=0.3).replaced)
    assert replaced[:5] == [0, 0, 0, 0, 2]
    used = fista(data[0], anew.phi, lam=0.3).codes.abs().sum(dim=(0, 2)) > 0
    assert used.all()
    assert not kept.phi[:, 2:4].any()
    assert quality(data[0], anew.phi) > quality(data[0], kept.phi) + 1


def test_lambda_goes_to_the_number_of_active_groups() -> None:
    data = batches(300)
    few, many = learner(target_active=1.0), learner(target_active=4.0)
    for batch in data:
        one, four = few.step(batch, lr=0.1), many.step(batch, lr=0.1)
    assert one.active_groups == pytest.approx(1, rel=0.15)
    assert four.active_groups == pytest.approx(4, rel=0.15)
    assert few.lam > many.lam


def test_it_does_not_write_to_what_it_is_given() -> None:
    phi = initial_dictionary(16, 6, 2, seed=0)
    before = phi.clone()
    Learner(phi, lam=0.3, beta=0.3).step(batches(1)[0], lr=0.5)
    assert torch.equal(phi, before)
