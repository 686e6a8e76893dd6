"""Compare ways to keep a weight orthonormal in training: time of a step, memory, residual, 16 bits, resuming.

    python benchmarks/parametrisations.py [--quick]

trains one weight by Adam with random gradients. It writes benchmarks/results/parametrisations.md and takes about
five minutes; the matrix exponentials of many groups take most of it.
"""

import argparse
import importlib.metadata
import io
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from kernels import in_turn, memory_needed, seconds
from record import machine, table, write
from torch import Tensor, nn

import gramian
from gramian import training

warnings.filterwarnings("ignore")

LR = 1e-3
STEPS = 20
SLOW = 30
"""A method that is so many times slower than the fastest is timed separately, three times."""

LONGEST = 1.0
"""Seconds of a step above which it is timed once."""


@dataclass(frozen=True)
class Case:
    """A weight of a layer, and its layout."""

    name: str
    layer: Callable[[], nn.Module]
    layout: str


def small_groups() -> nn.Module:
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(256, 192, 4) / 16)
    return layer


CASES = (
    Case("Linear 512 × 512", lambda: nn.Linear(512, 512, bias=False), "o i -> i () o"),
    Case("Linear 1024 × 256", lambda: nn.Linear(256, 1024, bias=False), "o i -> o () i"),
    Case("Conv2d 64 × 64 × 3 × 3", lambda: nn.Conv2d(64, 64, 3, bias=False), "o i h w -> (i h w) () o"),
    Case("8 heads of 64 × 512", lambda: nn.Linear(512, 512, bias=False), "(h d) i -> i h d; h=8"),
    Case("256 × 192 × 4", small_groups, "l m n -> l m n"),
)


FILTERS = Case("Conv2d 16 × 32 × 3 × 3", lambda: nn.Conv2d(16, 32, 3, bias=False), "o i h w -> (i h w) () o")
"""The weight of the last table, small because the matrix exponentials of the others take seconds."""


@dataclass
class Run:
    """A weight in training."""

    layer: nn.Module
    optimizer: torch.optim.Optimizer
    layout: str
    steps: int = 0

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        weight = self.layer.weight
        (weight * pull(weight, self.steps % 4)).sum().backward()
        self.optimizer.step()
        self.steps += 1

    def residual(self) -> float:
        """Return the largest |X_jk| of the weight at a forward, of its values in float64."""
        return gramian.residual(self.layer.weight.detach().double(), layout=self.layout).abs().max().item()


PULLS: dict[object, Tensor] = {}


def pull(weight: Tensor, number: int) -> Tensor:
    """Return one of the random gradients by a weight."""
    key = (weight.shape, weight.dtype, number)
    if key not in PULLS:
        generator = torch.Generator().manual_seed(number)
        PULLS[key] = torch.randn(weight.shape, generator=generator).to(weight.dtype)
    return PULLS[key]


def start(case: Case, method: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Run:
    """Prepare a training. Other libraries get the groups as matrices [m, l, n], the form that they expect."""
    torch.manual_seed(seed)
    layer = training.orthogonalize_(case.layer(), select="weight", layouts=case.layout)
    layout = case.layout
    if method.startswith(("torch", "geotorch")):
        phi = gramian.Layout(layout).to_phi(layer.weight.detach())
        layer = nn.Module()
        layer.weight = nn.Parameter(phi.permute(1, 0, 2).contiguous())
        layout = "m l n -> l m n"
    layer.to(dtype)
    if method.startswith("torch"):
        nn.utils.parametrizations.orthogonal(layer, "weight", method.removeprefix("torch, "))
    elif method == "geotorch":
        import geotorch

        geotorch.orthogonal(layer, "weight")
    elif method.startswith("orthonormal"):
        training.orthonormal(layer, layout=layout, retract=method == "orthonormal")
    optimizer = torch.optim.Adam(layer.parameters(), lr=LR)
    if method == "attach, β = ∞":
        gramian.attach(optimizer, layer, beta=math.inf, select="weight", layouts=layout)
    return Run(layer, optimizer, layout)


METHODS = (
    "no constraint",
    "orthonormal",
    "orthonormal, no retraction",
    "attach, β = ∞",
    "torch, matrix_exp",
    "torch, cayley",
    "torch, householder",
    "geotorch",
)


def times(case: Case, patience: float) -> dict[str, float]:
    """Return the median seconds of a step of each method."""
    runs = {method: start(case, method) for method in METHODS}
    first = {}
    for method, run in runs.items():
        duration = seconds(run.step)
        first[method] = seconds(run.step) if duration < LONGEST else duration
    slow = [method for method in runs if first[method] > SLOW * min(first.values())]
    result = {
        method: median(seconds(runs[method].step) for _ in range(3)) if first[method] < LONGEST else first[method]
        for method in slow
    }
    return result | in_turn({method: run.step for method, run in runs.items() if method not in slow}, patience)


def peak(case: Case, method: str) -> float:
    """Return the peak memory of one forward and backward pass in MiB beyond the parameters, in a new process."""
    command = [sys.executable, __file__, "--peak", case.name, method]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(case: Case, method: str) -> None:
    tiny = Case("", lambda: nn.Linear(32, 32, bias=False), "o i -> i () o")
    start(tiny, method).step()  # what libraries allocate once
    run = start(case, method)
    with torch.no_grad():
        for parameter in run.layer.parameters():
            parameter.add_(LR * torch.randn_like(parameter))
    weighting = pull(torch.empty(run.layer.weight.shape), 0)
    print(memory_needed(lambda: (run.layer.weight * weighting).sum().backward()) / 2**20)


def trained(case: Case, method: str, dtype: torch.dtype = torch.float32) -> str:
    """Return the residual after some steps, or that the method refuses the dtype."""
    try:
        run = start(case, method, dtype=dtype)
        for _ in range(STEPS):
            run.step()
        return f"{run.residual():.0e}"
    except (NotImplementedError, RuntimeError, TypeError):
        return "error"


def resumed(case: Case, method: str) -> str:
    """Train, save and load after half of the steps, and compare with a training without interruption."""
    whole, first = start(case, method), start(case, method)
    for _ in range(STEPS):
        whole.step()
    for _ in range(STEPS // 2):
        first.step()
    file = io.BytesIO()
    torch.save([first.layer.state_dict(), first.optimizer.state_dict()], file)
    file.seek(0)
    second = start(case, method, seed=1)
    second.steps = first.steps
    for part, state in zip((second.layer, second.optimizer), torch.load(file), strict=True):
        part.load_state_dict(state)
    for _ in range(STEPS - STEPS // 2):
        second.step()
    same = torch.equal(whole.layer.weight, second.layer.weight)
    return f"{second.residual():.0e}, {'same' if same else 'other'} bits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer weights and rounds; nothing is written")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(next(case for case in CASES if case.name == options.peak[0]), options.peak[1])
        return
    cases = CASES[1:3] if options.quick else CASES
    timed, memory = [], []
    for case in cases:
        found = times(case, 1 if options.quick else 5)
        timed.append([case.name, *(f"{1e3 * found[method]:.3g}" for method in METHODS)])
        memory.append([case.name, *(f"{peak(case, method):.1f}" for method in METHODS)])
        print(timed[-1], memory[-1], flush=True)
    properties = [
        [method, trained(FILTERS, method), trained(FILTERS, method, torch.bfloat16), resumed(FILTERS, method)]
        for method in METHODS
    ]
    versions = f"torch {torch.__version__}, geotorch {importlib.metadata.version('geotorch')}"
    text = (
        "One step of training a single weight, ms: forward of the weight, backward and Adam.\n\n"
        f"{table(['weight', *METHODS], timed)}\n"
        "Peak memory of one forward and backward pass beyond the parameters, MiB.\n\n"
        f"{table(['weight', *METHODS], memory)}\n"
        f"The largest |X_jk| of the filters of {FILTERS.name} at the next forward, after {STEPS} steps.\n\n"
        f"{table(['method', 'float32', 'bfloat16', 'float32, resumed halfway'], properties)}\n"
        f"Adam, lr {LR:g}, random gradients of size 1; medians of interleaved rounds, except for methods {SLOW} times\n"
        "slower than the fastest, which are timed three times, or once above a second. torch's `orthogonal` and\n"
        "geotorch get the groups as a batch of matrices [m, l, n]: in a convolution they would take each kernel for a\n"
        f"matrix, and they have no heads. {versions}.\n\n"
        f"Measured by `python benchmarks/parametrisations.py` on {machine()}.\n"
    )
    if options.quick:
        print(text)
    else:
        write("parametrisations.md", text)


if __name__ == "__main__":
    main()
