"""The update after every step of an optimiser, under the conditions in which networks are trained."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

import gramian
from gramian import training
from gramian.errors import OptionError
from gramian.penalties import L1
from tests.training.networks import backward, batch, make


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(10), **more) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(model, step, **more)
        optimizer.step()


def weights(model: nn.Module) -> list[nn.Parameter]:
    return [each for name, each in model.named_parameters() if name.endswith("weight")]


def by_hand(model: nn.Module, lr: float, beta: float) -> None:
    for weight in weights(model):
        layout = "o i -> i () o" if weight.shape[0] <= weight.shape[1] else "o i -> o () i"
        gramian.step_(weight, lr=lr, beta=beta, layout=layout)


def same(model: nn.Module, other: nn.Module, **tolerance) -> None:
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, **tolerance)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD, foreach": lambda p: torch.optim.SGD(p, lr=0.1, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW, lr a tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), foreach=False),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}

over_optimizers = pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


@over_optimizers
def test_equal_to_a_manual_step_after_every_optimiser_step(make_optimizer) -> None:
    model, twin = make(), make()
    optimizer, other = make_optimizer(model.parameters()), make_optimizer(twin.parameters())
    attachment = gramian.attach(optimizer, model, beta=0.3)
    for step in range(10):
        train(model, optimizer, range(step, step + 1))
        train(twin, other, range(step, step + 1))
        by_hand(twin, float(other.param_groups[0]["lr"]), 0.3)
    same(model, twin)
    assert attachment.steps == 10


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_beside_muon() -> None:
    model = make()
    matrices = weights(model)
    optimizer = torch.optim.Muon(matrices, lr=0.02)
    attachment = gramian.attach(optimizer, model, beta=2.0)
    train(model, optimizer, range(40))
    free = make()
    train(free, torch.optim.Muon(weights(free), lr=0.02), range(40))
    plain = [
        gramian.residual(w, layout=t.layout).abs().max() for w, t in zip(weights(free), attachment.targets, strict=True)
    ]
    assert max(attachment.residuals().values()) < 0.1 * max(plain)


def test_each_parameter_group_has_its_rate() -> None:
    model = make()
    groups = [
        {"params": model[0].parameters(), "lr": 0.0},
        {"params": [*model[2].parameters(), *model[4].parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05)
    first = model[0].weight.detach().clone()
    attachment = gramian.attach(optimizer, model, beta=5.0)
    train(model, optimizer, range(30))
    assert torch.equal(model[0].weight, first)
    residuals = attachment.residuals()
    assert residuals["0.weight"] > 0.5
    assert residuals["2.weight"] < 0.05


def test_a_schedule() -> None:
    model, twin = make(), make()
    optimizer, other = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, twin))
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.8) for each in (optimizer, other)]
    gramian.attach(optimizer, model, beta=0.2)
    for step in range(8):
        train(model, optimizer, range(step, step + 1))
        train(twin, other, range(step, step + 1))
        by_hand(twin, 0.1 * 0.8**step, 0.2)
        for schedule in schedules:
            schedule.step()
    same(model, twin)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_a_step_that_the_gradient_scaler_skips_is_skipped(fused) -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    attachment = gramian.attach(optimizer, model, beta=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(6):
        before = copy.deepcopy(model)
        optimizer.zero_grad()
        x, y = batch(step)
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        if step in (2, 3):
            model[0].weight.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        moved = not torch.equal(before[0].weight, model[0].weight)
        assert moved == (step not in (2, 3))
    assert attachment.steps == 4


def test_independent_of_accumulation_and_clipping() -> None:
    model, twin = make(), make()
    optimizer, other = (torch.optim.AdamW(each.parameters(), lr=0.01) for each in (model, twin))
    attachment = gramian.attach(optimizer, model, beta=0.5)
    for step in range(8):
        for each in (model, twin):
            backward(each, step)
        if step % 2:
            for each, stepper in ((model, optimizer), (twin, other)):
                nn.utils.clip_grad_norm_(each.parameters(), 0.1)
                stepper.step()
                stepper.zero_grad()
            by_hand(twin, 0.01, 0.5)
    same(model, twin)
    assert attachment.steps == 4


def test_under_autocast() -> None:
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=3.0)
    for step in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            backward(model, step)
            optimizer.step()
    # X near 4·lr·β/10 or below: products in bfloat16 would leave 4e-3 to chance.
    assert max(attachment.residuals().values()) < 1e-3


def test_bfloat16_weights() -> None:
    model = make(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    attachment = gramian.attach(optimizer, model, beta=3.0)
    train(model, optimizer, range(60), dtype=torch.bfloat16)
    assert max(attachment.residuals().values()) < 4 * torch.finfo(torch.bfloat16).eps
    assert all(weight.dtype == torch.bfloat16 for weight in weights(model))


def test_bfloat16_weights_with_master_copies() -> None:
    model = make(torch.bfloat16)
    masters = make()
    optimizer = torch.optim.AdamW(masters.parameters(), lr=0.01)
    attachment = gramian.attach(optimizer, masters, beta=3.0)
    for step in range(60):
        backward(model, step, torch.bfloat16)
        for master, weight in zip(masters.parameters(), model.parameters(), strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        optimizer.step()
        with torch.no_grad():
            for master, weight in zip(masters.parameters(), model.parameters(), strict=True):
                weight.copy_(master)
    assert max(attachment.residuals().values()) < 1e-3


def test_a_frozen_one_rests_from_then_on() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gramian.attach(optimizer, model, beta=0.1)
    train(model, optimizer, range(2))
    model[0].weight.requires_grad_(False)
    model[0].weight.grad = None
    before = model[0].weight.clone()
    train(model, optimizer, range(2, 4))
    assert torch.equal(model[0].weight, before)


def test_tied_weights_are_stepped_once() -> None:
    model = make()
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    tied = nn.ModuleList([model[2], nn.Linear(8, 8)])
    tied[1].weight = tied[0].weight
    optimizer = torch.optim.SGD([tied[0].weight], lr=0.0)
    optimizer.param_groups[0]["lr"] = 0.05
    attachment = gramian.attach(optimizer, tied, beta=0.1)
    expected = tied[0].weight.detach().clone()
    gramian.step_(expected, lr=0.05, beta=0.1, layout="o i -> i () o")
    tied[0].weight.grad = torch.zeros_like(tied[0].weight)
    optimizer.step()
    torch.testing.assert_close(tied[0].weight.detach(), expected)
    assert len(attachment.targets) == 1


def test_a_moving_average_follows() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gramian.attach(optimizer, model, beta=3.0)
    average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5))
    for step in range(60):
        train(model, optimizer, range(step, step + 1))
        average.update_parameters(model)
    assert gramian.residual(average.module[2].weight).abs().max() < 0.02


@pytest.mark.parametrize(
    ("beta", "penalty"),
    [(0.5, "l1"), (math.inf, "l1"), (math.inf, L1(diagonal=False))],
    ids=["finite", "hard", "hard, free lengths"],
)
def test_resumed_in_the_middle_it_ends_with_the_same_bits(beta, penalty, tmp_path) -> None:
    def start(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        gramian.attach(optimizer, model, beta=beta, penalty=penalty)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)

    def go(model, optimizer, schedule, steps) -> None:
        for step in steps:
            train(model, optimizer, range(step, step + 1))
            schedule.step()

    whole = start(make())
    go(*whole, range(20))
    first = start(make())
    go(*first, range(9))
    torch.save([each.state_dict() for each in first], tmp_path / "checkpoint.pt")
    # A hard constraint acts at once, so it is attached after the weights are loaded.
    second = start(copy.deepcopy(first[0]) if math.isinf(beta) else make())
    for each, state in zip(second, torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=True):
        each.load_state_dict(state)
    go(*second, range(9, 20))
    same(second[0], whole[0], rtol=0, atol=0)


def test_copies_of_an_optimiser_are_not_attached() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    attachment = gramian.attach(optimizer, model, beta=3.0)
    train(model, optimizer, range(1))
    pickle.loads(pickle.dumps(optimizer))
    both = copy.deepcopy((model, optimizer))
    train(*both, range(1, 2))
    assert attachment.steps == 1
    anew = gramian.attach(both[1], both[0], beta=3.0)
    train(*both, range(2, 3))
    assert (attachment.steps, anew.steps) == (1, 1)


class TestTheHandle:
    def test_pause_resume_remove(self) -> None:
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        attachment = gramian.attach(optimizer, model, beta=1.0)
        taken = []
        for change in (lambda: None, attachment.pause, attachment.resume, attachment.remove, attachment.remove):
            change()
            train(model, optimizer, range(1))
            taken.append(attachment.steps)
        assert taken == [1, 1, 2, 2, 2]
        assert "removed" in str(attachment)

    def test_the_loss_before_the_last_update(self) -> None:
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        attachment = gramian.attach(optimizer, model, beta=2.0)
        assert attachment.loss is None
        train(model, optimizer, range(1))
        expected = training.loss(attachment.targets, beta=2.0)
        torch.testing.assert_close(attachment.loss, expected.detach())

    def test_the_printed_table(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Embedding(5, 2))
        attachment = gramian.attach(torch.optim.SGD(model.parameters(), lr=0.1), model, beta=0.5)
        lines = str(attachment).splitlines()
        assert lines[0] == "β = 0.5, after every step: 1 parameter"
        assert lines[2].startswith(
            "0.weight   [4, 3, 3, 3]  27 × 1 × 4  '(g o) i h w -> (i h w) g o; g=1'  filters of Conv2d"
        )
        assert lines[3] == "skipped:"
        assert lines[4:] == [
            "2 × a bias: 0.bias, 1.bias",
            "1 × a scale of BatchNorm2d: 1.weight",
            "1 × an embedding, skipped unless select names it: 2.weight",
        ]


class TestAHardConstraint:
    @over_optimizers
    def test_weights_are_orthonormal_to_rounding_through_training(self, make_optimizer) -> None:
        model = make()
        optimizer = make_optimizer(model.parameters())
        attachment = gramian.attach(optimizer, model, beta=math.inf)
        assert max(attachment.residuals().values()) < 1e-6
        for step in range(20):
            train(model, optimizer, range(step, step + 1))
            assert max(attachment.residuals().values()) < 2e-6

    def test_another_rule(self) -> None:
        model = make()
        with pytest.raises(OptionError, match="needs the proximal rule"):
            gramian.attach(torch.optim.SGD(model.parameters()), model, beta=math.inf, rule="polyak")


class TestErrors:
    def test_a_parameter_that_the_optimiser_does_not_own(self) -> None:
        model = make()
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        with pytest.raises(
            OptionError, match=r"must be in the optimizer; got 2.weight, 4.weight, which it does not have"
        ):
            gramian.attach(optimizer, model, beta=1.0)
        gramian.attach(optimizer, model, beta=1.0, select="0.weight")

    @pytest.mark.parametrize("beta", [-1.0, math.nan, -math.inf])
    def test_beta(self, beta) -> None:
        model = make()
        with pytest.raises(OptionError, match="beta must be"):
            gramian.attach(torch.optim.SGD(model.parameters()), model, beta=beta)

    def test_names_and_kinds(self) -> None:
        model = make()
        optimizer = torch.optim.SGD(model.parameters())
        for options, match in (({"rule": "magic"}, "rule must be"), ({"penalty": "magic"}, "penalty must be")):
            with pytest.raises(OptionError, match=match):
                gramian.attach(optimizer, model, beta=1.0, **options)
        with pytest.raises(OptionError, match=r"optimizer must be a torch.optim.Optimizer; got Sequential"):
            gramian.attach(model, optimizer, beta=1.0)
        with pytest.raises(OptionError, match=r"model must be a torch.nn.Module; got list"):
            gramian.attach(optimizer, [], beta=1.0)
        assert not optimizer._optimizer_step_post_hooks
