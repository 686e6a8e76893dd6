"""One process of many: `torchrun tests/training/spread.py FOLDER CASE`; beside the same training in one process."""

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import gramian
from gramian.training.sharded import is_sharded, plan, sharded_step_

STEPS = 50
LAYOUTS = ("o i -> i () o", "o i -> o () i", "(m n) i -> i m n", "o (h d) -> o h d", "(n m) i -> i m n")


def make() -> nn.Sequential:
    torch.manual_seed(0)
    first, second, last = nn.Linear(12, 8), nn.Linear(8, 10), nn.Linear(10, 3)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last).double()


def train(model: nn.Module, steps: range, optimizer: torch.optim.Optimizer, *, rank: int = 0, world: int = 1) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 12, generator=generator, dtype=torch.float64)[rank::world]
        y = torch.randn(16, 3, generator=generator, dtype=torch.float64)[rank::world]
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def whole(model: nn.Module) -> list[torch.Tensor]:
    return [each.full_tensor() if is_sharded(each) else each.detach() for each in model.parameters()]


def compare(model: nn.Module) -> None:
    expected = make()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.01)
    gramian.attach(optimizer, expected, beta=0.3)
    train(expected, range(STEPS), optimizer)
    for one, two in zip(whole(model), whole(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


def fsdp(_: Path, rank: int, world: int) -> None:
    model = make()
    for layer in (model[0], model[2], model[4]):
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=0.3)
    assert "MiB a step" in str(attachment)
    train(model, range(STEPS), optimizer, rank=rank, world=world)
    compare(model)
    assert attachment.steps == STEPS
    assert set(attachment.residuals()) == {"0.weight", "2.weight", "4.weight"}


def ddp(_: Path, rank: int, world: int) -> None:
    model = DistributedDataParallel(make())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    gramian.attach(optimizer, model, beta=0.3)
    train(model, range(STEPS), optimizer, rank=rank, world=world)
    compare(model.module)


def tensor_parallel(_: Path, rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (world,))
    model = parallelize_module(make(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=False)
    gramian.attach(optimizer, model, beta=0.3)
    train(model, range(STEPS), optimizer)
    compare(model)


def every_way(_: Path, rank: int, world: int) -> None:
    """Each layout, placement and rule on one matrix, beside the same on the whole."""
    mesh = init_device_mesh("cpu", (world,))
    ways = set()
    for pattern in LAYOUTS:
        for rows, columns in ((16, 12), (12, 16), (7, 12), (12, 6)):
            named = {"m": 4, "h": 2} if rows % 4 == 0 else {"m": 7, "h": 2}
            layout = gramian.Layout(pattern, **{k: v for k, v in named.items() if k in pattern})
            for placement in (Shard(0), Shard(1), Replicate()):
                for rule in ("proximal", "subgradient", "polyak"):
                    torch.manual_seed(1)
                    tensor = torch.randn(rows, columns, dtype=torch.float64) / 3
                    length, _, n = layout.phi_shape((rows, columns))
                    if rule == "polyak" and n > length:
                        continue
                    spread = distribute_tensor(tensor.clone(), mesh, [placement])
                    loss = sharded_step_(spread, lr=0.02, beta=0.5, rule=rule, penalty="huber", layout=layout)
                    expected = gramian.step_(tensor, lr=0.02, beta=0.5, rule=rule, penalty="huber", layout=layout)
                    assert isinstance(spread, DTensor)
                    torch.testing.assert_close(spread.full_tensor(), tensor, rtol=1e-9, atol=1e-11)
                    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
                    ways.add(plan(spread, layout, rule).way)
    assert ways == {"groups", "coordinates", "exchange", "gather"}, ways


def restart(folder: Path, rank: int, world: int) -> None:
    """Go on from a checkpoint, if there is one; else make one half-way and stop as a killed job does."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model = make()
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    gramian.attach(optimizer, model, beta=0.3)
    path = folder / "checkpoint"
    if not path.exists():
        train(model, range(STEPS // 2), optimizer, rank=rank, world=world)
        state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        distributed.checkpoint.save(state, checkpoint_id=path)
        return
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    distributed.checkpoint.load(state, checkpoint_id=path)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    train(model, range(STEPS // 2, STEPS), optimizer, rank=rank, world=world)
    compare(model)


CASES = {"fsdp": fsdp, "ddp": ddp, "tensor_parallel": tensor_parallel, "every_way": every_way, "restart": restart}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    try:
        CASES[sys.argv[2]](Path(sys.argv[1]), distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()  # a process that leaves while another still talks to it may take that one down
    finally:
        distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # all was checked; at exit torch now and then ends a thread of gloo's that still runs, and aborts
