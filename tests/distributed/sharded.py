"""One process of many: `torchrun tests/distributed/sharded.py FOLDER CASE`; beside the same training in one process."""

import math
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import gramian
from gramian.distributed.sharded import is_sharded, plan, sharded_restore_, sharded_step_
from gramian.errors import ShapeError
from gramian.frozen import FrozenBasis
from gramian.penalties import L1, Cosine, Huber, TargetGram, Weighted
from gramian.rules import Step, groupwise, polyak, proximal
from tests.torchrun import in_process_group

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
    for row in gramian.inspect(model).rows:
        assert math.isclose(row.statistics.largest, attachment.residuals()[row.name], rel_tol=1e-3)
    attachment.remove()
    hard = gramian.attach(optimizer, model, beta=math.inf)
    assert max(hard.residuals().values()) < 1e-5


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


def matrices(m: int, n: int) -> torch.Tensor:
    """A symmetric positive definite matrix for each of m groups, all different."""
    A = torch.randn(m, n, n, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.eye(n, dtype=torch.float64) + (A @ A.mT) / (2 * n)


def penalties(m: int, n: int) -> list[gramian.Penalty]:
    W = matrices(m, n).abs() * (1 + torch.arange(m, dtype=torch.float64))[:, None, None]
    weighted, target = Weighted(Huber(), W), TargetGram(Huber(), matrices(m, n))
    return [weighted, target, L1() + 0.5 * weighted, TargetGram(weighted, matrices(m, n)), Cosine(target.penalty)]


def a_matrix_for_each_group(_: Path, rank: int, world: int) -> None:
    """Penalties with parameters of their own for each group, beside the same on the whole: parts follow the shard."""
    mesh = init_device_mesh("cpu", (world,))
    ways = set()
    for pattern, sizes, shape, axes in (
        ("(m n) i -> i m n", {"n": 3}, (12, 9), (0, 1)),
        ("(h three d) i -> i (three h) d", {"h": 4, "three": 3}, (24, 7), (0, 1)),  # some groups in every stretch
        ("g l n -> l g n", {}, (5, 6, 2), (0, 1)),  # parts of unequal length
        ("g l n -> l g n", {}, (1, 6, 2), (0, 1)),  # a part without a group
        ("(g n) l -> l g n", {"n": 2}, (10, 6), (0, 1)),  # a part that would cut a group
        ("i a b n -> i (a b) n", {}, (6, 2, 4, 3), (0, 1, 2, 3)),
    ):
        layout = gramian.Layout(pattern, **sizes)
        _, m, n = layout.phi_shape(shape)
        for axis in axes:
            for penalty in penalties(m, n):
                for rule in ("proximal", "polyak", "subgradient"):
                    if rule == "proximal" and not penalty.has_prox:
                        continue
                    torch.manual_seed(1)
                    tensor = torch.randn(shape, dtype=torch.float64) / 2
                    spread = distribute_tensor(tensor.clone(), mesh, [Shard(axis)])
                    options = {"lr": 0.02, "beta": 0.5, "rule": rule, "penalty": penalty, "layout": layout}
                    loss, expected = sharded_step_(spread, **options), gramian.step_(tensor, **options)
                    torch.testing.assert_close(spread.full_tensor(), tensor, rtol=1e-9, atol=1e-11)
                    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
                    ways.add(plan(spread, layout, rule).way)
        for wrong in (Weighted(L1(), matrices(m + 1, n).abs()), L1() + TargetGram(L1(), matrices(2 * m, n))):
            spread = distribute_tensor(torch.randn(shape, dtype=torch.float64), mesh, [Shard(0)])
            before = spread.full_tensor()
            try:
                sharded_step_(spread, lr=0.1, beta=1.0, rule="subgradient", penalty=wrong, layout=layout)
                raise AssertionError("sizes that do not fit were accepted")
            except ShapeError:
                assert torch.equal(spread.full_tensor(), before)
    assert ways == {"groups", "coordinates", "exchange", "gather"}, ways


def a_matrix_for_each_group_in_fsdp(_: Path, rank: int, world: int) -> None:
    """The same in training: a model whose groups FSDP spreads, in parts of unequal length."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.weight = nn.Parameter(torch.randn(5, 12, 3, dtype=torch.float64) / 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bl,mln->bn", x, self.weight)

    penalty = Weighted(L1(), matrices(5, 3).abs())
    models = [Heads(), Heads()]
    fully_shard(models[0])
    for model in models:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        attachment = gramian.attach(
            optimizer, model, beta=0.3, select="weight", layouts="m l n -> l m n", penalty=penalty
        )
        if model is models[0]:
            assert "nothing is sent" in str(attachment)
            train(model, range(10), optimizer, rank=rank, world=world)
        else:
            train(model, range(10), optimizer)
    torch.testing.assert_close(whole(models[0])[0], whole(models[1])[0], rtol=1e-9, atol=1e-11)


def rules_and_restorations(_: Path, rank: int, world: int) -> None:
    """A rule under its name and as a function; rules of one's own that see all groups; the hard constraint."""
    mesh = init_device_mesh("cpu", (world,))

    def by_all(phi: torch.Tensor, *, lr: float, beta: float, penalty: gramian.Penalty) -> Step:
        return Step(-lr * beta * phi.norm() * phi, phi.square().sum())

    @groupwise
    def by_group(phi: torch.Tensor, *, lr: float, beta: float, penalty: gramian.Penalty) -> Step:
        return Step(-lr * beta * phi.norm(dim=(0, 2), keepdim=True) * phi, phi.square().sum())

    for pattern, sizes in (("(m n) i -> i m n", {"m": 4}), ("o i -> i () o", {}), ("o (a b) -> (a b) () o", {"a": 3})):
        layout = gramian.Layout(pattern, **sizes)
        for axis in (0, 1):
            tensor = torch.randn(8, 18, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 4
            for rule in (by_all, by_group):
                spread, one = distribute_tensor(tensor.clone(), mesh, [Shard(axis)]), tensor.clone()
                options = {"lr": 0.02, "beta": 0.5, "rule": rule, "penalty": "l1", "layout": layout}
                torch.testing.assert_close(sharded_step_(spread, **options), gramian.step_(one, **options))
                torch.testing.assert_close(spread.full_tensor(), one)
            assert str(plan(spread, layout, "proximal")) == str(plan(spread, layout, proximal))
            assert str(plan(spread, layout, "polyak")) == str(plan(spread, layout, polyak))
            for penalty in ("l1", L1(diagonal=False)):
                spread, one = distribute_tensor(tensor.clone(), mesh, [Shard(axis)]), tensor.clone()
                done = sharded_restore_(spread, penalty=penalty, layout=layout)
                alone = gramian.foreach.restore_([one], penalty=penalty, layouts=layout)
                torch.testing.assert_close(done.loss, alone.loss)
                assert alone.converged
                if penalty != "l1":  # of a whole tensor, lengths are 1 on the way: it ends sooner, elsewhere
                    continue
                assert (done.stopped, done.steps) == (alone.stopped, alone.steps)
                torch.testing.assert_close(spread.full_tensor(), one)
                assert gramian.residual(one, layout=layout).abs().max() < 1e-14


def against_frozen_vectors(_: Path, rank: int, world: int) -> None:
    """Frozen vectors of all groups and of each, in every layout and placement, soft and hard, beside the whole."""
    mesh = init_device_mesh("cpu", (world,))
    merged = ("(a i) o -> (i a) () o", "o (a b) -> (b a) () o")
    for pattern in (*LAYOUTS, *merged):
        for rows, columns in ((16, 12), (7, 12)) if pattern not in merged else ((18, 8), (8, 18)):
            named = {"m": 4, "h": 2, "a": 3} if rows % 4 == 0 else {"m": 7, "h": 2, "a": 3}
            if pattern == merged[rows == 18]:
                continue
            layout = gramian.Layout(pattern, **{k: v for k, v in named.items() if k in pattern})
            torch.manual_seed(1)
            length, m, n = layout.phi_shape((rows, columns))
            for groups in {1, m}:
                basis = FrozenBasis(torch.randn(length, groups, 2, dtype=torch.float64))
                tensor = torch.randn(rows, columns, dtype=torch.float64) / 3
                for placement in (Shard(0), Shard(1), Replicate()):
                    spread, one = distribute_tensor(tensor.clone(), mesh, [placement]), tensor.clone()
                    options = {"lr": 0.02, "beta": 0.5, "rule": "proximal", "penalty": "l1", "layout": layout}
                    options |= {"against": basis, "against_beta": 3.0}
                    loss, expected = sharded_step_(spread, **options), gramian.step_(one, **options)
                    torch.testing.assert_close(spread.full_tensor(), one, rtol=1e-9, atol=1e-11)
                    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
                    if n > length - 2:
                        continue
                    spread, one = distribute_tensor(tensor.clone(), mesh, [placement]), tensor.clone()
                    done = sharded_restore_(spread, penalty="l1", layout=layout, against=basis)
                    gramian.foreach.restore_([one], layouts=layout, against=[basis])
                    assert done.converged
                    torch.testing.assert_close(spread.full_tensor(), one)


def against_in_fsdp(_: Path, rank: int, world: int) -> None:
    """`attach` with frozen vectors, sharded themselves, of a sharded model."""
    models = [make(), make()]
    old = torch.randn(3, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    fully_shard(models[0][0])
    fully_shard(models[0])
    sharded = distribute_tensor(old, init_device_mesh("cpu", (world,)), [Shard(0)])
    for model, vectors in zip(models, (sharded, old), strict=True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        attachment = gramian.attach(
            optimizer, model, beta=0.3, select="0.weight", against={"0.weight": vectors}, against_beta=20.0
        )
        ranks = {"rank": rank, "world": world} if model is models[0] else {}
        train(model, range(20), optimizer, **ranks)
        assert attachment.overlaps()["0.weight"] < 1e-12
    for one, two in zip(*map(whole, models), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


CASES = {"fsdp": fsdp, "ddp": ddp, "tensor_parallel": tensor_parallel, "every_way": every_way, "restart": restart}
CASES |= {
    each.__name__: each
    for each in (
        a_matrix_for_each_group,
        a_matrix_for_each_group_in_fsdp,
        rules_and_restorations,
        against_frozen_vectors,
        against_in_fsdp,
    )
}


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        CASES[name](folder, distributed.get_rank(), distributed.get_world_size())


if __name__ == "__main__":
    in_process_group(lambda: main(Path(sys.argv[1]), sys.argv[2:]))
