"""Random tensors through the public face: a clear error or the numbers of float64. Run `make fuzz`, or this module.

Every example follows from a seed and an index, so that a failure is made again by one line. What may be asked of a
result follows from the input alone: the same function is asked in float64 about the input as it is and about inputs
that differ by the rounding of its format, and the result must be as near to the first as a few times the others are.
Where a penalty has a kink within that rounding, or its numbers are beyond the format, little is asked; `Report.exact`
counts the examples that were held to the bound.
"""

import argparse
import math
import random
import secrets
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

import gramian
from gramian import foreach, kernels
from gramian.errors import GramianError
from tests.cases import ALL_CASES, PenaltyCase

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KERNELS = ("panel", "batched", "block_diagonal", "reference", "lanes", "outer")
LAYOUTS = ("o i -> i () o", "o i -> o () i", "(m n) i -> i m n", "o i h w -> (i h w) () o", "o (h d) -> o h d")
RULES = ("proximal", "polyak", "subgradient")


@dataclass(frozen=True)
class Example:
    """An input, and what is asked of it."""

    function: str
    name: str
    phi: Tensor
    """Φ[l, m, n], as strided and as large as it came."""
    kernel: str | None
    beta: float
    lr: float
    rule: str
    index: int
    what: str

    @property
    def case(self) -> PenaltyCase:
        return ALL_CASES[self.name]

    def __str__(self) -> str:
        return (
            f"{self.function}, {self.name!r}, {self.rule}, {self.what}, shape {tuple(self.phi.shape)}, strides "
            f"{self.phi.stride()}, {self.phi.dtype}, kernel {self.kernel}, beta {self.beta:g}, lr {self.lr:g}"
        )


@dataclass
class Report:
    """What a run found."""

    seed: int
    examples: int = 0
    exact: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def some_shape(pick: random.Random) -> tuple[int, int, int]:
    kind = pick.random()
    if kind < 0.08:
        return pick.choice([(0, 2, 3), (3, 0, 2), (3, 2, 0), (0, 0, 0), (1, 1, 1)])
    if kind < 0.2:
        return pick.randint(1, 6), pick.randint(1, 3), pick.randint(2, 12)  # often n > l
    if kind < 0.3:
        return pick.choice([300, 2000, 9000]), pick.randint(1, 2), pick.randint(1, 6)
    if kind < 0.4:
        return pick.randint(4, 20), pick.choice([70, 300]), pick.randint(1, 5)
    n = pick.randint(1, 20)
    return n + pick.randint(0, 20), pick.randint(1, 4), n


def some_values(pick: random.Random, shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[str, Tensor]:
    """Give Φ in float64, of numbers that its format has."""
    length, m, n = shape
    phi = torch.randn(shape, dtype=torch.float64) / max(1, length) ** 0.5
    what = pick.choice(
        ["random"] * 6 + ["near", "orthonormal", "whole numbers", "zero", "dependent", "a zero vector", "tiny", "huge"]
        + ["huge group", "not a number", "infinite", "mixed lengths"]
    )  # fmt: skip
    if what in ("near", "orthonormal") and n <= length and phi.numel():
        phi = torch.linalg.qr(phi.permute(1, 0, 2)).Q.permute(1, 0, 2)
        phi = phi + (1e-2 * torch.randn(shape, dtype=torch.float64) if what == "near" else 0)
    elif what == "whole numbers":
        phi = torch.randint(-2, 3, shape).double()
    elif what == "zero":
        phi = 0 * phi
    elif what == "dependent" and n > 1:
        phi[:, :, 1] = phi[:, :, 0]
    elif what == "a zero vector" and n > 0:
        phi[:, :, 0] = 0
    elif what == "tiny":
        phi = phi * (1e-7 if dtype == torch.float16 else pick.choice([1e-20, 1e-30]))
    elif what in ("huge", "huge group"):
        size = {torch.float64: 1e160, torch.float16: 1e4}.get(dtype, pick.choice([1e12, 1e20]))
        phi[:, : None if what == "huge" else 1] *= size
    elif what in ("not a number", "infinite") and phi.numel():
        where = tuple(pick.randrange(size) for size in shape)
        phi[where] = math.nan if what == "not a number" else pick.choice([math.inf, -math.inf])
    elif what == "mixed lengths":
        phi = phi * 10 ** (4 * torch.rand(1, m, n, dtype=torch.float64) - 2)
    return what, phi


def some_strides(pick: random.Random, phi: Tensor) -> tuple[str, Tensor]:
    how = pick.choice(["contiguous"] * 3 + ["permuted", "every other", "a slice", "expanded", "flipped"])
    if how == "permuted":
        order = pick.sample(range(3), 3)
        back = [order.index(i) for i in range(3)]
        return how, phi.permute(order).contiguous().permute(back)
    if how == "every other":
        return how, torch.stack([phi, phi], dim=-1)[..., pick.randrange(2)]
    if how == "a slice":
        return how, torch.cat([phi, phi, phi], dim=1)[:, phi.shape[1] : 2 * phi.shape[1]]
    if how == "expanded" and phi.shape[1]:
        return how, phi[:, :1].expand(phi.shape)
    if how == "flipped":
        return how, phi.flip(0).contiguous().flip(0)
    return "contiguous", phi.contiguous()


def example(seed: int, index: int) -> Example:
    """Make the example of a seed and an index."""
    pick = random.Random(f"{seed}:{index}")
    torch.manual_seed(pick.getrandbits(60))
    shape, dtype = some_shape(pick), pick.choice(DTYPES)
    what, wide = some_values(pick, shape, dtype)
    how, phi = some_strides(pick, wide.to(dtype))
    function = pick.choice(list(FUNCTIONS))
    return Example(
        function=function,
        name=pick.choice(list(ALL_CASES)),
        phi=phi,
        kernel=pick.choice(KERNELS) if pick.random() < 0.35 else None,
        beta=pick.choice([1.0] * 8 + [0.3, 0.0, 1e-30, 1e6, -1.0, math.nan, math.inf]),
        lr=pick.choice([0.1, 0.01, 1e-3] * 4 + [0.0, 1e6, math.inf, -1.0, math.nan]),
        rule=pick.choice(RULES),
        index=pick.randrange(-3, 3),
        what=f"{what}, {how}",
    )


def options(one: Example) -> dict:
    return {"beta": one.beta, "penalty": one.case.at(*one.phi.shape[1:])}


def loss(one: Example, phi: Tensor) -> list[Tensor]:
    leaf = phi.detach().requires_grad_()
    value = gramian.loss(leaf, **options(one))
    value.backward()
    return [value.detach(), leaf.grad]


def step(one: Example, phi: Tensor) -> list[Tensor]:
    before = gramian.step_(phi, lr=one.lr, rule=one.rule, **options(one))
    return [before, phi]


def foreach_step(one: Example, phi: Tensor) -> list[Tensor]:
    tensors = [phi, phi.clone(), torch.full_like(phi, 0.5)]
    before = foreach.step_(tensors, lr=one.lr, rule=one.rule, **options(one))
    return [before, *tensors]


def foreach_grad(one: Example, phi: Tensor) -> list[Tensor]:
    total, grads = foreach.value_and_grad([phi, 0.5 * phi, phi], **options(one))
    return [total, *grads]


def _orthogonalized(one: Example, phi: Tensor) -> list[Tensor]:
    result = gramian.orthogonalize(phi, penalty=options(one)["penalty"], rule=one.rule, lr=one.lr, max_steps=40)
    if result.converged:
        seen = options(one)["penalty"].penalized(gramian.residual(result.phi.double()))
        largest = seen.abs().max().item() if seen.numel() else 0.0
        assert largest <= 1e-6 + 100 * torch.finfo(phi.dtype).eps * phi.shape[0], "converged, but is not"
    assert result.phi.shape == phi.shape
    return []


def _inspected(one: Example, phi: Tensor) -> list[Tensor]:
    found = gramian.inspect({"a": phi, "b": phi[:, :, 0] if phi.shape[2] else phi}, layouts={"a": "l m n -> l m n"})
    rows = {row.name: row for row in found.rows}
    exact = phi.double().permute(1, 0, 2)
    X = exact.mT @ exact - torch.eye(phi.shape[2], dtype=torch.float64)
    if "a" in rows and X.isfinite().all() and phi.numel():
        assert math.isclose(rows["a"].statistics.largest, X.abs().max().item(), rel_tol=1e-9, abs_tol=1e-12)
        assert math.isclose(rows["a"].statistics.mean, X.abs().mean().item(), rel_tol=1e-9, abs_tol=1e-12)
        assert rows["a"].statistics.condition >= 1 - 1e-9
        assert 0 <= rows["a"].statistics.coherence <= 1 + 1e-6
    return []


def _through_a_layout(one: Example, phi: Tensor) -> list[Tensor]:
    pattern = LAYOUTS[one.index % len(LAYOUTS)]
    length, m, n = phi.shape
    weight = phi.reshape(length, m, n, 1) if pattern.startswith("o i h w") else phi.reshape(length, m * n)
    layout = gramian.Layout(pattern, **{axis: 2 for axis in ("m", "h") if f"({axis} " in pattern})
    value, grad = gramian.value_and_grad(weight, penalty="huber", layout=layout)
    assert grad.shape == weight.shape
    return [value, grad]


FUNCTIONS: dict[str, Callable[[Example, Tensor], list[Tensor]]] = {
    "loss": loss,
    "value_and_grad": lambda one, phi: list(gramian.value_and_grad(phi, **options(one))),
    "grad_group": lambda one, phi: [gramian.grad_group(phi, one.index, **options(one))],
    "grad_vector": lambda one, phi: [gramian.grad_vector(phi, one.index, one.index, **options(one))],
    "grad_slice": lambda one, phi: [gramian.grad_slice(phi, one.index, **options(one))],
    "residual": lambda one, phi: [gramian.residual(phi)],
    "step_": step,
    "foreach.value_and_grad": foreach_grad,
    "foreach.step_": foreach_step,
    "orthogonalize": _orthogonalized,
    "inspect": _inspected,
    "layout": _through_a_layout,
}


def judge(one: Example, report: Report) -> str | None:
    """Run an example; give what is wrong with it, or None."""
    stepping = one.function.endswith("step_")
    before = one.phi.clone(memory_format=torch.contiguous_format)
    with warnings.catch_warnings(record=True) as warned, kernels.use(one.kernel) if one.kernel else nullcontext():
        warnings.simplefilter("always")
        try:
            result = FUNCTIONS[one.function](one, one.phi)
        except GramianError as error:
            report.errors[type(error).__name__] += 1
            same = torch.equal(one.phi.nan_to_num(), before.nan_to_num())
            return None if same else "an error, and the tensor was written to"
    foreign = [w for w in warned if not w.category.__module__.startswith("gramian")]
    if foreign:
        return f"a warning that is none of ours: {foreign[0].message}"
    if not stepping and not torch.equal(one.phi.nan_to_num(), before.nan_to_num()):
        return "the tensor was written to"
    return compare(one, before, result, report)


def compare(one: Example, phi: Tensor, result: list[Tensor], report: Report) -> str | None:
    """Hold a result to that of float64, within a few times the spread that the rounding of the input makes."""
    compute = torch.float32 if phi.dtype.itemsize == 2 else phi.dtype
    eps = torch.finfo(compute).eps
    good = phi.isfinite().all(dim=2).all(dim=0)
    if one.function.startswith("foreach") or one.function in ("layout", "loss", "value_and_grad", "step_"):
        alike = [each for each in result if each.shape == phi.shape and one.function != "layout"]
        if one.function == "foreach.step_":
            alike = alike[:2]  # the third holds other numbers
        if not all(each[:, ~good].isnan().all() for each in alike):
            return "a group that is not finite does not become NaN"
    if not good.all() or not result:
        return _others_are_finite(one, phi, result, good)
    wide = phi.double()
    with warnings.catch_warnings(), kernels.use("reference"):
        warnings.simplefilter("ignore")
        try:
            exact = FUNCTIONS[one.function](one, wide.clone())
            spread = []
            for _ in range(3):
                change = 1 + eps * (4 + phi.shape[0] ** 0.5) * torch.randn(phi.shape, dtype=torch.float64)
                spread.append(FUNCTIONS[one.function](one, wide * change))
        except GramianError as error:
            return f"float64 refuses what {phi.dtype} takes: {error}"
    clear = True
    lengths = wide.square().sum(dim=0)
    if one.name.startswith("cosine") and lengths.numel() and lengths.min() < 1e3 * eps:
        return None  # X = −1 to rounding knows no length
    for i, (each, right) in enumerate(zip(result, exact, strict=True)):
        if each.shape != right.shape:
            return f"shape {list(each.shape)} and not {list(right.shape)}"
        if right.numel() == 0:
            continue
        size = right.abs().amax()
        top = torch.finfo(each.dtype).max
        if not size.isfinite() or size > 1e-3 * top or (wide.abs().max() ** 4 if wide.numel() else 0) > 1e-3 * top:
            clear = False  # beyond the format
            continue
        moved = torch.stack([(other[i] - right).abs().amax() for other in spread]).amax()
        rounding = torch.finfo(each.dtype).eps * (size + (wide.abs().max() if i and wide.numel() else 0))
        if moved > 1e-2 * size + 1e-30:
            clear = False  # a kink, or a condition that leaves nothing
            continue
        floor = 16 * eps * (1 + (wide.square().sum(dim=0).max() if wide.numel() else 0)) * phi.shape[2]
        floor *= abs(one.beta) if math.isfinite(one.beta) else 1
        error = (each.double() - right).abs().amax()
        if not error <= 20 * moved + 4 * rounding + floor + 2 * torch.finfo(each.dtype).tiny:
            return f"result {i} is off by {error:.3g} of {size:.3g}, where rounding explains {moved + rounding:.3g}"
    report.exact += clear
    return None


def _others_are_finite(one: Example, phi: Tensor, result: list[Tensor], good: Tensor) -> str | None:
    if one.function not in ("loss", "value_and_grad", "step_") or phi.numel() == 0 or "logdet" in one.name:
        return None
    small = phi[:, good].abs().max().item() < 100 if good.any() else False
    if small and one.lr < 1 and one.beta < 100 and not result[1][:, good].isfinite().all():
        return "a group that is finite became NaN beside one that is not"
    return None


def once(seed: int, index: int, report: Report) -> None:
    """Make and judge one example; write down what fails, with the line that makes it again."""
    one = example(seed, index)
    again = f"python -m tests.faults.fuzz_inputs --seed {seed} --only {index}"
    try:
        wrong = judge(one, report)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        wrong = f"{type(error).__name__} at {where.filename}:{where.lineno}: {str(error).splitlines()[:1]}"
    if wrong is not None:
        report.failures.append(f"{again}  # {one}: {wrong}")
    report.examples += 1


def run(seconds: float, seed: int) -> Report:
    """Make examples for some seconds."""
    report, end = Report(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        once(seed, report.examples, report)
    return report


def main() -> None:
    """Run for some seconds, or one example again; the exit status tells of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, help="the index of one example")
    given = parser.parse_args()
    seed = secrets.randbits(32) if given.seed is None else given.seed
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"seed {seed}")
    if given.only is None:
        report = run(given.seconds, seed)
    else:
        report = Report(seed)
        once(seed, given.only, report)
    for line in report.failures:
        print(line)
    print(
        f"{report.examples} examples, {report.exact} held to rounding, {sum(report.errors.values())} clear errors, "
        f"{len(report.failures)} failures"
    )
    raise SystemExit(bool(report.failures))


if __name__ == "__main__":
    main()
