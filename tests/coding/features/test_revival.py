"""Groups that are never active are replaced where they are missed, and only there."""

import pytest
import torch

from gramian.coding import BlockSparseAutoencoder
from gramian.coding.features.revival import missed_subspaces, revive_

L, M, N = 20, 6, 2


def model_with_idle_groups(active: int = 2) -> BlockSparseAutoencoder:
    model = BlockSparseAutoencoder(L, n_groups=M, group_size=N, active=active, seed=1)
    model.idle[3:] = 1000
    return model


def explained_by(model: BlockSparseAutoencoder, count: int) -> torch.Tensor:
    """Samples of the first three groups, which are orthogonal to each other."""
    phi = torch.linalg.qr(torch.randn(L, 4 * N)).Q.T.reshape(4, N, L)
    with torch.no_grad():
        model.frames[:3] = phi[:3]
        model.frames[3:] = phi[3]
        model.encoder.reset_(torch.arange(M), model.frames)
    on = torch.rand(count, 3).argsort(dim=1)[:, :2]
    return torch.einsum("bkn,bknl->bl", 3 * torch.randn(count, 2, N), model.frames[on])


def test_nothing_is_missed() -> None:
    model = model_with_idle_groups()
    x = explained_by(model, 500) + 0.3 * torch.randn(500, L)
    before = model.frames.clone()
    assert revive_(model, x, patience=100) == 0
    torch.testing.assert_close(model.frames, before)
    assert revive_(model, x, patience=2000) == 0


def test_a_missed_subspace_gets_an_idle_group() -> None:
    model = model_with_idle_groups(active=3)
    x = explained_by(model, 500) + 0.1 * torch.randn(500, L)
    rest = torch.linalg.qr(torch.cat([model.frames.detach().flatten(0, 1)[: 4 * N].T, torch.randn(L, N)], dim=1)).Q
    new = rest[:, -N:]
    x[:100] += 3 * torch.randn(100, N) @ new.T
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    model(x).loss.backward()
    model.idle[3:] = 1000
    optimizer.step()
    assert optimizer.state[model.frames]["exp_avg"].any()
    assert revive_(model, x, patience=100, optimizer=optimizer) == 1
    torch.testing.assert_close(model.frames[3] @ new @ new.T, model.frames[3], rtol=0, atol=0.1)
    torch.testing.assert_close(model.encoder.weight[3], model.frames[3])
    assert int(model.idle[3]) == 0
    assert not optimizer.state[model.frames]["exp_avg"][3].any()
    assert optimizer.state[model.frames]["exp_avg"][0].any()


def test_subspaces_of_errors() -> None:
    planted = [torch.linalg.qr(torch.randn(L, N)).Q for _ in range(2)]
    error = 0.05 * torch.randn(400, L)
    for i, basis in enumerate(planted):
        error[50 * i : 50 * (i + 1)] += torch.randn(50, N) @ basis.T
    found = missed_subspaces(error, N, 5, worth=20.0)
    assert len(found) == 2
    for basis in planted:
        assert max(float((each @ basis).square().sum()) for each in found) == pytest.approx(N, abs=0.1)
    assert not missed_subspaces(torch.zeros(10, L), N, 3, worth=0.0)
