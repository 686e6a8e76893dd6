"""One process of many: `torchrun tests/distributed/learning.py GROUPS CASE`; compared with one process."""

import sys

import torch

from gramian.coding import Learner, LearningOptions, cosine_decay, initial_dictionary
from gramian.coding.inference import fista, lca
from gramian.coding.learning.learner import LearningStep
from gramian.coding.synthesis import Dense, shard
from gramian.distributed import ProcessGrid
from tests.coding.learning.test_dictionary import planted
from tests.torchrun import in_process_group

STEPS, BATCH = 25, 32
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def learned(grid: ProcessGrid | None, images: bool = False, **options) -> tuple[Learner, list[LearningStep]]:
    torch.manual_seed(3)
    samples = torch.randn(400, 1, 10, 10).double() if images else planted(2000)[0].double()
    phi = initial_dictionary(16, 8, 2, seed=0).double()
    placed = {name: options.pop(name) for name in ("kernel",) if name in options}
    if grid is not None:
        placed["grid"] = grid
    learner = Learner(phi, LearningOptions(**{"lam": 0.3, "patience": None, **options}), **placed)
    steps = []
    for step in range(STEPS):
        chosen = torch.randint(len(samples), (BATCH,), generator=torch.Generator().manual_seed(step))
        steps.append(learner.step(samples[chosen], lr=cosine_decay(0.5, step, STEPS)))
    return learner, steps


def same(grid: ProcessGrid, **options) -> None:
    local, steps = learned(grid, **options)
    alone, expected = learned(None, **options)
    torch.testing.assert_close(grid.gather_groups(local.phi), alone.phi, **CLOSE)
    assert abs(local.lam - alone.lam) < 1e-9
    for one, two in zip(steps, expected, strict=True):
        for name in ("reconstruction", "sparsity", "orthogonality", "active_groups", "replaced"):
            torch.testing.assert_close(
                torch.tensor(getattr(one, name)), torch.tensor(getattr(two, name)), rtol=1e-6, atol=1e-6
            )
    for name, tensor in local.state().items():
        torch.testing.assert_close(tensor, alone.state()[name], **CLOSE)


def sgd(grid: ProcessGrid) -> None:
    same(grid, target_active=2.0, patience=5)
    same(grid, rule=None, prior="scale_mixture")
    assert grid.sent > 0


def online(grid: ProcessGrid) -> None:
    same(grid, update="online", patience=5)


def kernels(grid: ProcessGrid) -> None:
    same(grid, images=True, kernel=(1, 4, 4), patience=5)


def inference(grid: ProcessGrid) -> None:
    """Groups on several processes give the codes and the certificate of one."""
    phi = initial_dictionary(16, 8, 2, seed=0).double()
    torch.manual_seed(3)
    x = planted(50)[0].double()
    spread = shard(Dense(grid.local_groups(phi)), grid)
    for method in (fista, lca):
        local = method(x, spread, lam=0.3, tol=1e-9, max_iter=5000)
        alone = method(x, phi, lam=0.3, tol=1e-9, max_iter=5000)
        torch.testing.assert_close(grid.gather_groups(local.codes), alone.codes, rtol=0, atol=1e-4)
        assert local.converged
        assert alone.converged


def counted(grid: ProcessGrid) -> None:
    """What is sent in a step: the gradient and a few scalars, once."""
    learner, _ = learned(grid)
    if grid.over_groups is None:
        assert grid.sent == STEPS * 8 * (learner.phi.numel() + 3 + 8)


CASES = {case.__name__: case for case in (sgd, online, kernels, inference, counted)}


def main(groups: int, names: list[str]) -> None:
    for name in names:
        CASES[name](ProcessGrid.arrange(groups))


if __name__ == "__main__":
    in_process_group(lambda: main(int(sys.argv[1]), sys.argv[2:]))
