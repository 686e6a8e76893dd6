"""One process of many: `torchrun tests/distributed/features.py CASE`; beside the same training in one process."""

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gramian
from gramian.activations.run import FeatureRun, FeatureSettings
from gramian.coding import BlockSparseAutoencoder
from gramian.coding.features.module import FRAMES_LAYOUT
from gramian.distributed.sharded import is_sharded
from tests.torchrun import in_process_group

STEPS = 20


def make(select: str = "topk", encoder: str = "linear") -> BlockSparseAutoencoder:
    model = BlockSparseAutoencoder(12, n_groups=10, group_size=2, active=3, encoder=encoder, select=select)
    return model.double()


def train(model: torch.nn.Module, *, rank: int = 0, world: int = 1) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=float("inf"), select="frames", layouts=FRAMES_LAYOUT)
    for step in range(STEPS):
        x = torch.randn(32, 12, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        model(x[rank::world]).loss.backward()
        optimizer.step()
    assert max(attachment.residuals().values()) < 1e-5


def whole(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.full_tensor() if is_sharded(each) else each for name, each in model.state_dict().items()}


def alone(encoder: str) -> dict[str, torch.Tensor]:
    """Train on all samples in this process, without others."""
    expected = make(encoder=encoder)
    # Without a group of processes there is nothing to average.
    initialized, distributed.is_initialized = distributed.is_initialized, lambda: False
    train(expected)
    distributed.is_initialized = initialized
    return expected.state_dict()


def compare(model: torch.nn.Module, encoder: str) -> None:
    expected, state = alone(encoder), whole(model)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            state[name], value, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{name} {text}"
        )


def agree(model: torch.nn.Module) -> None:
    """What the selection tracks is the same in all processes."""
    for name, buffer in model.named_buffers():
        largest, least = buffer.clone().double(), buffer.clone().double()
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        distributed.all_reduce(least, distributed.ReduceOp.MIN)
        assert torch.equal(largest, least), name


def ddp(rank: int, world: int) -> None:
    for encoder in ("linear", "tied"):
        model = DistributedDataParallel(make(encoder=encoder))
        train(model, rank=rank, world=world)
        compare(model.module, encoder)
    model = DistributedDataParallel(make("threshold"), broadcast_buffers=False)
    train(model, rank=rank, world=world)
    agree(model.module)
    assert float(model.module.select.threshold) > 0


def runs(rank: int, world: int) -> None:
    """A run on activations in several processes is the run of one; only the main process measures and writes."""
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    folder = Path(tempfile.gettempdir()) / f"gramian-run-{os.environ['MASTER_PORT']}"
    for rule, encoder in (("topk", "linear"), ("batch_topk", "linear"), ("soft", "tied"), ("threshold", "iterative")):
        path = folder / str(rank) / "x.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, x.numpy())
        settings = FeatureSettings(
            store=str(path), groups=8, size=2, active=2, encoder=encoder, select=rule, batch=32, steps=10, patience=4
        )
        run = FeatureRun(settings)
        assert len(run.batch(0)) == 32 // world
        while not run.finished:
            run.advance()
        run.log_metrics(seconds=0)
        assert len(run.metrics) == (rank == 0)
        run.save(folder / str(rank) / "run")
        assert (folder / str(rank) / "run").exists() == (rank == 0)
        initialized, distributed.is_initialized = distributed.is_initialized, lambda: False
        expected = FeatureRun(settings)
        while not expected.finished:
            expected.advance()
        distributed.is_initialized = initialized
        state, whole = run.state(), expected.state()
        assert state.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-4, msg=partial("{}: {}".format, rule))
        shutil.rmtree(folder / str(rank))


def fsdp(rank: int, world: int) -> None:
    for encoder in ("linear", "tied"):
        model = make(encoder=encoder)
        fully_shard(model)
        train(model, rank=rank, world=world)
        compare(model, encoder)
    model = make("batch_topk")
    fully_shard(model)
    train(model, rank=rank, world=world)
    agree(model)


def main(name: str) -> None:
    for case in {"ddp": (ddp, runs), "fsdp": (fsdp,)}[name]:  # starting processes takes most of the time
        case(distributed.get_rank(), distributed.get_world_size())


if __name__ == "__main__":
    in_process_group(lambda: main(sys.argv[1]))
