"""`attach` with frozen vectors: those of earlier tasks, to which new weights are kept orthogonal."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

import gramian
from gramian.errors import DataError, OptionError, ShapeError
from gramian.frozen import FrozenBasis
from gramian.training import WarmUp
from tests.training.networks import backward, make, sgd

ROWS = "o i -> i () o"


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    backward(model, seed)
    optimizer.step()


def same(model: nn.Module, other: nn.Module) -> None:
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def olds() -> dict[str, Tensor]:
    return {"0.weight": torch.randn(3, 12), "2.weight": torch.randn(2, 8)}


def test_a_step_by_hand_after_each_of_the_optimiser() -> None:
    old = olds()
    model, twin = make(), make()
    optimizer, other = sgd(model), sgd(twin)
    attachment = gramian.attach(
        optimizer, model, beta=0.3, select=["0.weight", "2.weight", "4.weight"], against=old, against_beta=0.7,
        layouts=ROWS,
    )  # fmt: skip
    for seed in range(3):
        step(model, optimizer, seed)
        step(twin, other, seed)
        losses = [
            gramian.step_(
                twin.get_parameter(name), lr=0.1, beta=0.3, layout=ROWS, against=old.get(name), against_beta=0.7
            )
            for name in ("0.weight", "2.weight", "4.weight")
        ]
    same(model, twin)
    torch.testing.assert_close(attachment.loss, torch.stack(losses).sum())
    assert "rows of Linear" in str(attachment) or "laid out as requested" in str(attachment)
    assert "; orthogonal to 3 frozen dimensions" in str(attachment)
    assert set(attachment.overlaps()) == set(old)


@pytest.mark.parametrize(
    "against",
    [
        lambda old: old,
        lambda old: {"*weight": old},
        lambda old: {"*weight": lambda name: old[name]},
        lambda old: {"0.*": [old["0.weight"][:1], lambda name: old[name][1:]], "2.*": FrozenBasis(old["2.weight"].T)},
        lambda old: {nn.Linear: [old, old]},
    ],
    ids=["names", "mapping", "function", "several", "module"],
)
def test_every_way_to_give_them(against) -> None:
    old = olds()
    model, twin = make(), make()
    optimizer, other = sgd(model), sgd(twin)
    select = ["0.weight", "2.weight"]
    gramian.attach(optimizer, model, beta=0.0, select=select, against=against(old), against_beta=0.7)
    gramian.attach(other, twin, beta=0.0, select=select, against={n: old[n] for n in select}, against_beta=0.7)
    step(model, optimizer)
    step(twin, other)
    same(model, twin)
    free = make()
    step(free, sgd(free))
    assert not torch.equal(free[0].weight, model[0].weight)


def test_zero_at_a_finite_strength_which_may_vary() -> None:
    model = make()
    optimizer = sgd(model)
    attachment = gramian.attach(
        optimizer, model, beta=0.0, select=["0.weight", "2.weight"], against=olds(),
        against_beta=WarmUp(2.0, steps=10),
    )  # fmt: skip
    start = max(attachment.overlaps().values())
    for seed in range(30):
        step(model, optimizer, seed)
    assert start > 0.1
    assert max(attachment.overlaps().values()) < 1e-6


def test_a_hard_constraint() -> None:
    model = make()
    optimizer = sgd(model)
    select = ["0.weight", "2.weight"]
    old = {"0.weight": torch.randn(3, 12), "2.weight": torch.randn(1, 8)}
    with pytest.raises(ShapeError, match=r"2\.weight: orthonormal groups need n <= l - k dimensions .* n = 8, l = 8"):
        gramian.attach(optimizer, model, beta=math.inf, select=select, against=old)
    soft = gramian.attach(optimizer, model, beta=1.0, select=select, against=old)
    with pytest.raises(ShapeError, match=r"2\.weight: orthonormal groups need n <= l - k dimensions"):
        soft.beta = math.inf
    assert soft.beta == 1.0
    soft.remove()
    with torch.no_grad():
        attachment = gramian.attach(
            optimizer, model, beta=math.inf, select="0.weight", against={"0.weight": old["0.weight"]}
        )
    for seed in range(3):
        assert max(attachment.overlaps().values()) < 1e-6
        assert max(attachment.residuals().values()) < 1e-6
        step(model, optimizer, seed)
    attachment.remove()
    projecting = gramian.attach(optimizer, model, beta=0.0, select=select, against=old, against_beta=math.inf)
    before = model[0].weight.detach().clone()
    assert max(projecting.overlaps().values()) < 1e-6
    assert torch.equal(before, model[0].weight) or (before - model[0].weight).abs().max() < 1e-5
    step(model, optimizer)
    assert max(projecting.overlaps().values()) < 1e-6
    projecting.remove()
    mixed = gramian.attach(
        optimizer, model, beta=math.inf, select="0.weight", against={"0.weight": old["0.weight"]}, against_beta=5.0
    )
    step(model, optimizer)
    assert max(mixed.overlaps().values()) < 1e-6
    assert max(mixed.residuals().values()) < 1e-6


def test_in_16_bits() -> None:
    model = make(torch.bfloat16)
    optimizer = sgd(model)
    old = {"0.weight": torch.randn(3, 12).bfloat16()}
    attachment = gramian.attach(optimizer, model, beta=0.0, select="0.weight", against=old, against_beta=20.0)
    for seed in range(5):
        optimizer.zero_grad()
        backward(model, seed, torch.bfloat16)
        optimizer.step()
    largest = model[0].weight.float().norm(dim=1).max()
    assert attachment.overlaps()["0.weight"] < 2 * torch.finfo(torch.bfloat16).eps * largest


def test_a_copy_and_a_replaced_parameter() -> None:
    model, old = make(), olds()
    optimizer = sgd(model)
    attachment = gramian.attach(
        optimizer, model, beta=0.0, select="*weight", against={"[02].*": lambda name: old[name]}, against_beta=50.0
    )
    twin = pickle.loads(pickle.dumps(copy.deepcopy(attachment)))
    assert twin.overlaps() == attachment.overlaps()
    weight = nn.Parameter(torch.randn(8, 12))
    model[0].weight = weight
    optimizer.param_groups[0]["params"][0] = weight
    step(model, optimizer)
    step(model, optimizer)
    assert max(attachment.overlaps().values()) < 1e-6


@pytest.mark.parametrize(
    ("against", "error", "message"),
    [
        ({"9.*": torch.ones(1, 12)}, OptionError, r"every pattern in against must match a parameter; got '9\.\*'"),
        ({"4.*": torch.ones(1, 8)}, OptionError, r"match a selected parameter; got '4\.\*'.*try select"),
        ({"0.*": torch.ones(1, 7)}, ShapeError, r"0\.weight: frozen vectors must have the length l = 12"),
        ({"0.*": {"2.weight": torch.ones(1, 8)}}, OptionError, r"0\.weight: a mapping .* got none among 1 entries"),
        ({"0.*": lambda name: None}, OptionError, r"0\.weight: frozen vectors must be a tensor.*got NoneType"),
        ({"0.*": [FrozenBasis(torch.eye(12, 1)), torch.ones(1, 12)]}, OptionError, "must be the only entry"),
        ({"0.*": torch.zeros(1, 12)}, DataError, r"0\.weight: frozen vectors must not all be zero"),
        (torch.ones(1, 12), OptionError, r"by pattern; got Tensor; try \{'\*lora_A\*': old\}"),
    ],
)
def test_errors(against, error, message) -> None:
    model = make()
    before = copy.deepcopy(model)
    with pytest.raises(error, match=message):
        gramian.attach(sgd(model), model, beta=0.3, select=["0.weight", "2.weight"], against=against)
    same(model, before)


@pytest.mark.filterwarnings("ignore")  # of the library, about itself
def test_adapters_of_peft_for_a_sequence_of_tasks() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    config = LoraConfig(r=2, target_modules=["0", "2"])
    model = get_peft_model(network, config, adapter_name="task0")
    for task in range(1, 3):
        model.add_adapter(f"task{task}", config)
        model.set_adapter(f"task{task}")
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        weights = dict(model.named_parameters())

        def earlier(name: str, task: int = task, weights: dict[str, Tensor] = weights) -> list[Tensor]:
            return [weights[name.replace(f"task{task}", f"task{old}")] for old in range(task)]

        factors = f"*lora_A.task{task}.weight"
        attachment = gramian.attach(
            optimizer, model, beta=0.0, select=factors, against={factors: earlier}, against_beta=20.0
        )
        for _ in range(40):
            optimizer.zero_grad()
            x, y = torch.randn(16, 12), torch.randint(3, (16,))
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        assert len(attachment.overlaps()) == 2
        assert max(attachment.overlaps().values()) < 1e-6
    A = torch.cat([weights[f"base_model.model.0.lora_A.task{task}.weight"] for task in range(3)])
    gram = A @ A.T
    apart = [gram[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].abs().max().item() for i in range(3) for j in range(i)]
    assert max(apart) < 1e-6
