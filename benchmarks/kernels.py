"""Compare the loss and its gradient with other libraries: time, memory and the fraction of the machine's limit.

    python benchmarks/kernels.py [--quick | --steps]

checks every gradient first, then times the methods in turn, so that a disturbance affects all of them; writes
kernels.json and kernels.md to benchmarks/results, and the curves to docs/figures. Steps of many small groups are
written to small_steps.md. It takes about ten minutes on an otherwise idle machine, with `--steps` one.
"""

import argparse
import json
import math
import warnings
from statistics import median
from unittest.mock import patch

import torch
from matplotlib.figure import Figure
from peak_memory import peak, print_peak
from peers import METHODS, Method, Work, prepare, version
from record import RESULTS, commit, machine, table, write
from small_steps import write_steps
from timing import CACHE, LAYOUTS, draw, draw_in_order, in_turn, rates, seconds
from torch import Tensor

import gramian
from gramian import kernels, penalties
from gramian.files import replace_file
from gramian.kernels.cpu.llvm import machine as lanes
from gramian.kernels.dispatch import choose
from gramian.typing import Phi

warnings.filterwarnings("ignore")

SHAPES = (
    (256, 192, 4), (64, 4096, 2), (64, 4096, 4), (64, 4096, 8), (64, 100_000, 4), (128, 256, 12), (64, 2048, 16),
    (128, 128, 24), (64, 1024, 32), (256, 16, 64), (512, 8, 128), (512, 4, 256), (512, 1, 512), (1024, 1, 1024),
    (512, 1, 2048), (512, 1, 4096), (2048, 1, 4096),
)  # fmt: skip
QUICK = ((256, 192, 4), (64, 4096, 4), (256, 16, 64), (512, 1, 512), (512, 1, 2048))
GROWTH = {
    "n, at m·n = 4096": [(256, 4096 // n, n) for n in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)],
    "m, at n = 4": [(64, m, 4) for m in (16, 64, 256, 1024, 4096, 16384, 65536)],
}
MEMORY = ((1024, 1, 8192), (512, 1, 32768))
SIXTEEN = ((256, 192, 4), (256, 16, 64), (512, 1, 512), (512, 1, 2048))
SMALL_SHAPES = ((64, 4096, 2), (64, 4096, 4), (64, 4096, 8))
LAYERS = {"16–64": (16, 32, 64), "64–256": (64, 128, 256), "256–1024": (256, 512, 1024)}
"""Sides from which the shapes of 100 layers are drawn."""

FIGURE = RESULTS.parents[1] / "docs" / "figures" / "kernels.png"
SLOW = ("autograd, compiled", "torch orthogonal", "geotorch")
LONGEST = 6.0
"""Most seconds for one call of a slow method."""


def check(method: Method, phi: Phi) -> None:
    """Compare loss and gradient with float64, with a tolerance for signs of X at the rounding level."""
    value, grad = prepare(method, phi)()
    P = phi.double().permute(1, 0, 2)
    X = P.mT @ P - torch.eye(phi.shape[2], dtype=torch.float64)
    exact = 2 * (P @ torch.sign(X)).permute(1, 0, 2)
    # Each entry of X at the rounding level may turn one sign, and move one row of the gradient by 4|P|.
    doubtful = (X.abs() < 1e-6).sum(dim=1)[None] * 4 * phi.abs().amax() + 1e-3
    error = (grad.double() - exact).abs()
    if not (bool((error <= doubtful).all()) and abs(value.item() / X.abs().sum().item() - 1) < 1e-4):
        raise SystemExit(f"{method.name} is wrong at {tuple(phi.shape)}: by {error.max():.1e}")


def measure(shape: tuple[int, int, int], methods: tuple[Method, ...], patience: float = 8) -> dict[str, float | str]:
    """Return the median seconds of each method, or the reason why it is not timed, within about `patience` seconds."""
    phi = draw(shape)
    result: dict[str, float | str] = {}
    ready = {}
    for method in methods:
        reason = "not installed" if version(method) is None else method.unfit(shape)
        if reason is not None:
            result[method.name] = reason
            continue
        if method.exact and phi.numel() < 1 << 24:
            check(method, phi)
        ready[method.name] = prepare(method, phi)
    first = {
        name: min(duration, seconds(work) if duration < LONGEST else duration)
        for name, work in ready.items()
        for duration in [seconds(work)]
    }
    # A method that is much slower disturbs the timing of the next one: it is timed separately, three times.
    slow = {name for name in ready if first[name] > 30 * min(first.values())}
    target = torch.zeros_like(phi)
    ready["copy"] = lambda: target.copy_(phi)
    for name in slow:
        result[name] = median(seconds(ready[name]) for _ in range(3)) if first[name] < LONGEST / 3 else first[name]
    turns = [name for name in ready if name not in slow]
    return result | in_turn({name: ready[name] for name in turns}, patience)


def in_memory_order(shape: tuple[int, int, int], axes: tuple[int, int, int], patience: float) -> dict[str, float]:
    """Time small groups in one memory order, with all installed kernels and with those of torch only."""
    phi = draw_in_order(shape, axes)
    works = {name: prepare(method, phi) for name, method in named("gramian", "two products")}
    with patch.object(lanes, "is_installed", lambda: False):
        explanation = kernels.explain(shape, strides=phi.stride())

    def with_torch_alone() -> object:
        with kernels.use(explanation.chosen):
            return works["gramian"]()

    return in_turn({"gramian": works["gramian"], "with torch alone": with_torch_alone, **works}, patience)


def many(sides: tuple[int, ...], patience: float) -> dict[str, float]:
    """Time 100 layers of mixed shapes: in one call, in one call for each layer, and in plain torch."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(sides), (100, 2), generator=generator).tolist()
    shapes = [sorted((sides[i], sides[j]), reverse=True) for i, j in drawn]
    layers = [torch.randn(shape, generator=generator) / math.sqrt(shape[0]) for shape in shapes]
    groups, penalty = [layer[:, None] for layer in layers], penalties.L1()
    singles = {name: [prepare(method, phi) for phi in groups] for name, method in named("two products", "autograd")}
    for grad, phi in zip(gramian.foreach.value_and_grad(layers)[1], groups, strict=True):
        check(Method("foreach", "penalty", lambda phi, grad=grad: lambda: (gramian.loss(phi), grad[:, None])), phi)
    works: dict[str, Work] = {
        "foreach": lambda: gramian.foreach.value_and_grad(layers),
        "kernels": lambda: [choose(phi, penalty).value_and_grad(phi, penalty, 1.0) for phi in groups],
        "calls": lambda: [gramian.value_and_grad(layer) for layer in layers],
        **{name: lambda each=each: [work() for work in each] for name, each in singles.items()},
        "foreach step": lambda: gramian.foreach.step_(layers, lr=1e-9),
    }
    return in_turn(works, patience)


def sixteen(shape: tuple[int, int, int], patience: float) -> dict[str, float]:
    """Time bfloat16 beside float32."""
    phi = draw(shape)
    half = phi.bfloat16()
    P, identity = half.permute(1, 0, 2), torch.eye(shape[2], dtype=torch.bfloat16)

    def products() -> Tensor:
        X = torch.bmm(P.mT, P) - identity
        return 2 * torch.bmm(P, torch.sign(X))

    works: dict[str, Work] = {
        "float32": lambda: gramian.value_and_grad(phi),
        "bfloat16": lambda: gramian.value_and_grad(half),
        "products in bfloat16": products,
    }
    return in_turn(works, patience)


def named(*names: str) -> list[tuple[str, Method]]:
    return [(method.name, method) for method in METHODS if method.name in names]


def roofline(shape: tuple[int, int, int], flops: float, bandwidth: float) -> dict[str, float]:
    """Return the least seconds of 3·m·l·n² flops, and of one read of Φ and one write of the gradient."""
    length, m, n = shape
    return {"arithmetic": 3 * m * length * n**2 / flops, "bandwidth": 2 * 4 * length * m * n / bandwidth}


def limit(result: dict) -> tuple[str, float]:
    """Return the limit that a row is held against, in words and in seconds.

    Where memory limits the loss and its gradient, it is three copies of Φ in the cache and 1.6 of a larger one;
    elsewhere two products by hand.
    """
    if result["roofline"]["arithmetic"] > result["roofline"]["bandwidth"]:
        return "arithmetic: two products", result["seconds"]["two products"]
    copies = 1.6 if 4 * math.prod(result["shape"]) > CACHE else 3
    return f"bandwidth: {copies} copies", copies * result["copy"]


def rows(results: list[dict], kind: str) -> str:
    names = [method.name for method in METHODS if method.kind == kind]
    base = names[0]
    body = []
    for result in results:
        times = result["seconds"]
        cells = [", ".join(map(str, result["shape"])), result["kernel"]]
        cells.append(f"{1e3 * times[base]:.3g} ms")
        if kind == "penalty":
            words, least = limit(result)
            best = max(result["roofline"].values()) / times[base]
            cells += [words, f"{times[base] / least:.2f}", f"{100 * best:.0f} %"]
        else:
            cells.append(f"{times[base] / times['gramian']:.2f}")
        cells += [f"{t / times[base]:.2f}" if isinstance(t := times[name], float) else t for name in names[1:]]
        body.append(cells)
    more = ["limit", "over the limit", "of the machine's rate"] if kind == "penalty" else ["over loss + gradient"]
    return table(["l, m, n", "kernel", base, *more, *names[1:]], body)


def milliseconds(what: str, results: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(results.values())))
    body = [[key.strip("()"), *(f"{1e3 * times[name]:.3g}" for name in names)] for key, times in results.items()]
    return table([what, *names], body)


def growth(quick: bool, patience: float) -> tuple[dict, Figure]:
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    methods = tuple(each for each in METHODS if each.name in {"gramian", "two products", "autograd"})
    curves = {}
    for axis, (name, shapes) in zip(axes, GROWTH.items(), strict=True):
        chosen = shapes[::3] if quick else shapes
        points = [measure(shape, methods, patience) for shape in chosen]
        sizes = [shape[2] if name[0] == "n" else shape[1] for shape in chosen]
        curves[name] = {"sizes": sizes, **{each.name: [point[each.name] for point in points] for each in methods}}
        for each in methods:
            axis.loglog(sizes, [1e3 * point[each.name] for point in points], "o-", ms=3, label=each.name)
        axis.set(xlabel=name, ylabel="loss and gradient, ms")
        axis.grid(alpha=0.3)
    axes[0].legend()
    return curves, figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer shapes, no memory: under two minutes")
    parser.add_argument("--steps", action="store_true", help="steps of many small groups only")
    parser.add_argument("--peak", nargs=4, metavar=("METHOD", "L", "M", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        length, m, n = map(int, options.peak[1:])
        print_peak(options.peak[0], (length, m, n))
        return
    patience = 1.5 if options.quick else 5
    if not options.quick:
        write_steps()
    if options.steps:
        return
    flops, bandwidth = rates()
    results = []
    shapes = QUICK if options.quick else SHAPES
    for shape in (*shapes, shapes[0]):  # the first shape again at the end, when the machine is warm
        methods = tuple(each for each in METHODS if not (options.quick and each.name in SLOW))
        times = measure(shape, methods, patience) | {each.name: "–" for each in METHODS if each not in methods}
        explanation = kernels.explain(shape)
        results.append(
            {
                "shape": shape,
                "kernel": explanation.chosen,
                "copy": times.pop("copy"),
                "roofline": roofline(shape, flops, bandwidth),
                "seconds": times,
            }
        )
        print(shape, explanation.chosen, f"{1e3 * times['gramian']:.3g} ms", flush=True)
    results = results[1:]  # without the timing of the cold machine
    results.insert(0, results.pop())
    memory = {}
    if not options.quick:
        for shape in MEMORY:
            memory[str(shape)] = {
                name: peak(shape, name) for name in ("gramian", "two products", "autograd", "gramian step")
            }
    curves, figure = growth(options.quick, patience / 2)
    layers = {sides: many(LAYERS[sides], patience) for sides in LAYERS if not (options.quick and "1024" in sides)}
    by_order = {
        f"{', '.join(map(str, shape))}, as {name}": in_memory_order(shape, axes, patience / 2)
        for shape in SMALL_SHAPES
        for name, axes in LAYOUTS.items()
    }
    halves = {str(shape): sixteen(shape, patience / 2) for shape in SIXTEEN}
    versions = {each.name: version(each) for each in METHODS if each.package}
    record = {
        "machine": machine(), "commit": commit(), "peers": versions, "flops_per_second": flops,
        "bytes_per_second": bandwidth, "results": results, "peak_mib": memory, "growth": curves,
        "layers": layers, "layouts": by_order, "bfloat16": halves,
    }  # fmt: skip
    text = (
        "Loss and gradient; the right columns are times divided by that of gramian, so above 1 gramian is faster.\n\n"
        f"{rows(results, 'penalty')}\n"
        "One step of a hard constraint; the right columns are times divided by that of gramian's proximal step on\n"
        "feasible groups, as in most of training.\n\n"
        f"{rows(results, 'constraint')}"
    )
    if memory:
        names = ["gramian", "two products", "autograd", "gramian step"]
        body = [
            [shape.strip("()"), *("does not finish" if peaks[name] is None else f"{peaks[name]:.0f}" for name in names)]
            for shape, peaks in memory.items()
        ]
        text += "\nPeak memory of one call beyond Φ, with the gradient, MiB.\n\n" + table(["l, m, n", *names], body)
    text += "\n100 layers with sides drawn from a range, ms.\n\n" + milliseconds("sides", layers)
    text += "\nSmall groups by memory order, ms.\n\n" + milliseconds("l, m, n", by_order)
    text += (
        "\nbfloat16 parameters, ms; the right column computes X in bfloat16, which makes many of its signs wrong.\n\n"
    )
    text += milliseconds("l, m, n", halves)
    text += (
        "\nfloat32 unless bfloat16 is named, Φ[l, m, n] contiguous; medians of interleaved rounds. The gradient is new "
        "memory in every column. The limit is a number of warm copies of Φ where its bytes take longer than the flops, "
        "and otherwise two products by hand; the machine's rate is "
        f"{flops / 1e9:.0f} GFLOP/s, for 3·m·l·n² flops, or {bandwidth / 1e9:.0f} GB/s, for Φ and the gradient, both "
        "measured in the same run. "
        f"Peers: {', '.join(f'{name} {each}' for name, each in versions.items() if each)}.\n\n"
        f"Measured by `python benchmarks/kernels.py{' --quick' if options.quick else ''}` on {machine()}.\n"
    )
    name = "kernels_quick" if options.quick else "kernels"
    replace_file(RESULTS / f"{name}.json", json.dumps(record, indent=1).encode())
    figure.savefig(RESULTS / f"{name}.png" if options.quick else FIGURE, dpi=120)
    write(f"{name}.md", text)


if __name__ == "__main__":
    main()
