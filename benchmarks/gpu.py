"""Check the kernels on a GPU, then time them against the device's library and other methods.

    make gpu                                                  # or: python benchmarks/gpu.py [--quick] [--minutes 9]
    python benchmarks/gpu.py --device cpu --quick --out runs  # a rehearsal, which goes through every line

It runs the tests marked `gpu`, compares every kernel with float64 for many shapes, dtypes and memory orders, and checks
CUDA graphs, waiting for the device, streams, a second device and torch.compile. Then it tunes the kernels for some
shapes, times the methods in turn, for these shapes also with the default configurations, and writes gpu-NAME.md to
benchmarks/results, NAME being that of the device. It stops in time, and says what it left out. What tuning finds is
kept where `gramian.kernels.tune` keeps it, and used from then on.
"""

import argparse
import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from statistics import median

os.environ["TRITON_INTERPRET"] = "0"

import torch
from record import RESULTS, commit, machine, table, write
from torch import Tensor

import gramian
from gramian import kernels
from gramian.errors import OptionError
from gramian.kernels.gpu import configurations
from gramian.penalties import as_penalty

warnings.filterwarnings("ignore", category=gramian.errors.OvercompleteWarning)

Shape = tuple[int, int, int]
SHAPES: tuple[Shape, ...] = (
    *((64, 4096, 2), (64, 4096, 4), (64, 4096, 8), (256, 20000, 4), (768, 8192, 4), (256, 4096, 16), (512, 64, 64)),
    *((4096, 1, 64), (512, 8, 128), (1024, 16, 256), (512, 1, 512), (1024, 8, 1024), (2048, 1, 4096), (4096, 1, 4096)),
)
FEW_SHAPES: tuple[Shape, ...] = ((64, 4096, 4), (768, 8192, 4), (512, 64, 64), (1024, 1, 1024))
TINY_SHAPES: tuple[Shape, ...] = ((16, 20, 4), (24, 2, 12), (40, 1, 70))
CHECKED: tuple[Shape, ...] = (
    *((64, 129, 1), (64, 40, 2), (70, 33, 3), (300, 41, 4), (77, 17, 5), (3000, 2, 8), (128, 9, 16), (96, 5, 31)),
    *((200, 3, 33), (256, 3, 64), (4096, 1, 48), (300, 2, 130), (512, 1, 512), (1100, 2, 1030), (100, 1, 1200)),
)
ORDERS = {"l m n": (0, 1, 2), "m l n": (1, 0, 2), "(m n) l": (1, 2, 0)}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TUNED: tuple[Shape, ...] = ((768, 8192, 4), (512, 64, 64), (512, 8, 128), (4096, 1, 4096))
RULES = ("proximal", "polyak", "subgradient")
FLUSHED = 1 << 28
OURS = ("value_and_grad(out=)", "step_", "loss")


class Clock:
    """Tells how many seconds are left."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def left(self) -> float:
        return self.end - time.monotonic()


def draw(shape: Shape, dtype: torch.dtype, device: str, order: str = "l m n") -> Tensor:
    """Draw random vectors of length about 1, the same ones for every dtype and order."""
    axes = ORDERS[order]
    generator = torch.Generator().manual_seed(0)
    phi = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[0])
    return phi.to(dtype).permute(axes).contiguous().to(device).permute([axes.index(axis) for axis in range(3)])


class Checks:
    """Counts checks and collects what failed."""

    def __init__(self) -> None:
        self.count = 0
        self.faults: list[str] = []
        self.kernels: set[str] = set()

    def run(self, what: str, check: Callable[[], object]) -> None:
        """Run a check, which raises an error or returns a message if it fails."""
        self.count += 1
        try:
            message = check()
        except Exception as error:
            message = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
            message += f" at {traceback.extract_tb(error.__traceback__)[-1].name}"
        if message:
            self.faults.append(f"{what}: {message}")
            print("  FAULT", self.faults[-1], flush=True)


def check_gradient(phi: Tensor, penalty: str, kernel: str) -> str | None:
    """Compare value and gradient with float64, and one run with the next; a NaN must stay in its group."""
    mu = as_penalty(penalty)
    P = phi.double().permute(1, 0, 2)
    X = P.mT @ P - torch.eye(P.shape[2], dtype=P.dtype, device=P.device)
    value, grad = mu.value(X).sum(), 2 * P @ mu.subgradient(X)
    # Rounding may decide the sign of an entry near 0, which changes a gradient by twice a vector.
    doubt = 4 * P.abs() @ (X.abs() < 1e-5).to(P.dtype) if penalty == "l1" else 0
    level = 4 * torch.finfo(phi.dtype).eps * grad.abs() + 2e-5 * grad.abs().amax() + doubt
    with kernels.use(kernel):
        found, slope = gramian.value_and_grad(phi, penalty=penalty)
        again = gramian.value_and_grad(phi, penalty=penalty)[1]
        bad = phi.clone()
        bad[0, -1, 0] = math.nan
        invalid = gramian.value_and_grad(bad, penalty=penalty)[1].isfinite()
    error = (slope.double().permute(1, 0, 2) - grad).abs()
    if not bool((error <= level).all()):
        return f"the gradient is off by {(error - level).max():.1e} more than rounding explains"
    if not abs(found.item() / value.item() - 1) < 2e-5:
        return f"the value is off by {found.item() / value.item() - 1:.1e}"
    if not torch.equal(slope, again):
        return "the second run has other bits"
    if invalid[:, -1].any().item() or not invalid[:, :-1].all().item():
        return "a NaN does not stay in its group, or not all of the group is NaN"
    return None


def check_step(phi: Tensor, penalty: str, rule: str, kernel: str) -> str | None:
    """Compare a step with the same in float64 on the CPU."""
    expected = phi.double().cpu()
    before = gramian.step_(expected, lr=0.03, rule=rule, penalty=penalty)
    stepped = phi.clone()
    with kernels.use(kernel):
        found = gramian.step_(stepped, lr=0.03, rule=rule, penalty=penalty)
    error = (stepped.double().cpu() - expected).abs().amax().item()
    # For n > l the norms that limit a step are other estimates in kernels that never hold X.
    limit = 4 * torch.finfo(phi.dtype).eps + (2e-2 if phi.shape[2] > phi.shape[0] else 2e-5)
    if not error < limit:
        return f"off by {error:.1e}"
    return None if abs(found.item() / before.item() - 1) < 2e-5 else "the loss before the step differs"


def check_numbers(checks: Checks, device: str, clock: Clock, shapes: tuple[Shape, ...]) -> None:
    """Compare every kernel with float64: for every shape, dtype, penalty, memory order and rule."""
    names = ("tiled", "products", "registers", "fused") if device == "cuda" else ("panel", "batched")
    for shape, dtype, name in itertools.product(shapes, DTYPES, (*names, "reference")):
        if clock.left() < 0:
            checks.faults.append(f"out of time for checks at {shape}")
            return
        try:
            with kernels.use(name):
                gramian.loss(draw(shape, dtype, device))
        except OptionError:
            continue
        checks.kernels.add(name)
        for penalty, order in itertools.product(("l1", "huber", "squared_frobenius"), ORDERS):
            phi, what = draw(shape, dtype, device, order), f"{name} {shape} {dtype} {penalty} {order}"
            checks.run(what, lambda p=phi, mu=penalty, k=name: check_gradient(p, mu, k))
        for rule in RULES if shape[2] <= shape[0] else ("proximal",):
            phi, what = draw(shape, dtype, device), f"{name} {shape} {dtype} {rule}"
            checks.run(what, lambda p=phi, r=rule, k=name: check_step(p, "huber", r, k))


def check_surroundings(checks: Checks, device: str) -> None:
    """Check torch.compile, and on a GPU graphs, streams, a second device and that nothing waits."""
    phi = draw((96, 64, 8), torch.float32, device)
    expected = gramian.value_and_grad(phi)[1].cpu()
    checks.run("torch.compile", lambda: None if torch.compile(gramian.loss)(phi) > 0 else "not positive")
    checks.run("orthogonalize", lambda: None if gramian.orthogonalize(phi).converged else "did not converge")
    if device != "cuda":
        return

    def on_a_stream() -> str | None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            grad = gramian.value_and_grad(phi)[1]
        torch.cuda.current_stream().wait_stream(stream)
        return None if torch.equal(grad.cpu(), expected) else "other numbers"

    def on_the_second_device() -> str | None:
        grad = gramian.value_and_grad(phi.to("cuda:1"))[1]
        return None if torch.allclose(grad.cpu(), expected, atol=1e-5) else "other numbers"

    def in_a_graph(shape: Shape, rule: str) -> str | None:
        parameter = draw(shape, torch.float32, "cuda")
        start = parameter.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                gramian.step_(parameter, lr=0.03, rule=rule)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gramian.step_(parameter, lr=0.03, rule=rule)
        parameter.copy_(start)
        graph.replay()
        gramian.step_(start, lr=0.03, rule=rule)
        return None if torch.allclose(parameter, start, atol=1e-5) else "other numbers"

    def without_waiting(shape: Shape, rule: str) -> None:
        parameter = draw(shape, torch.float32, "cuda")
        gramian.step_(parameter, lr=0.03, rule=rule)
        torch.cuda.set_sync_debug_mode("error")
        try:
            gramian.step_(parameter, lr=0.03, rule=rule)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    checks.run("a side stream", on_a_stream)
    if torch.cuda.device_count() > 1:
        checks.run("cuda:1 while cuda:0 is current", on_the_second_device)
    for shape in ((96, 64, 8), (256, 8, 32), (8192, 1, 64), (300, 3, 130), (1536, 1, 1536), (64, 1, 1500)):
        for rule in RULES if shape[2] <= shape[0] else ("proximal",):
            checks.run(f"in a CUDA graph {shape} {rule}", lambda s=shape, r=rule: in_a_graph(s, r))
            checks.run(f"without waiting {shape} {rule}", lambda s=shape, r=rule: without_waiting(s, r))


def run_tests(checks: Checks, timeout: float) -> str:
    """Run the tests marked `gpu`, and return their last line."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/test_devices.py", "-q", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            command, cwd=RESULTS.parents[1], capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        checks.faults.append(f"tests/test_devices.py took more than {timeout:.0f} s")
        return "not finished"
    if done.returncode not in (0, 5):
        checks.faults.append(f"tests/test_devices.py: {done.stdout[-2000:]}")
    return (done.stdout.strip().splitlines() or ["no output"])[-1]


def two_products(phi: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient as one writes them by hand."""
    P = phi.permute(1, 0, 2)
    X = torch.baddbmm(torch.eye(P.shape[2], dtype=P.dtype, device=P.device), P.mT, P, beta=-1)
    return X.abs().sum(), 2 * torch.bmm(P, torch.sign(X)).permute(1, 0, 2)


def tune(device: str, shapes: Iterable[Shape], clock: Clock) -> list[str]:
    """Tune the kernels for some shapes within a fourth of the time that is left, and say how much faster they are."""
    every = list(itertools.product(shapes, DTYPES[:2]))
    end = clock.left() - clock.left() / 4
    notes: list[str] = []
    for i, (shape, dtype) in enumerate(every):
        seconds = (clock.left() - end) / (len(every) - i)
        if seconds < 1:
            break
        try:
            tuning = kernels.tune(draw(shape, dtype, device), seconds=seconds)
        except Exception as error:
            notes.append(f"{shape} {dtype}: not tuned, {type(error).__name__}: {str(error)[:160]}")
            continue
        times = ", ".join(f"{name} {old:.4f} → {new:.4f} ms" for name, (old, new) in tuning.milliseconds.items())
        rest = "" if tuning.complete else ", stopped by the time"
        notes.append(f"{shape} {dtype}: {times}; {tuning.tried} tried, {tuning.refused} refused{rest}")
        print("  tuned", notes[-1], flush=True)
    return notes


def methods(phi: Tensor, compiled: Callable[[Tensor], object]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The calls that are timed, each with new or warm memory as it is used."""
    parameter, grad = phi.clone(), torch.empty_like(phi)
    P = phi.permute(1, 0, 2).contiguous()
    G = torch.sign(torch.randn(P.shape[0], P.shape[2], P.shape[2], device=P.device)).to(P.dtype)
    yield "value_and_grad(out=)", lambda: gramian.value_and_grad(phi, out=grad)
    yield "loss", lambda: gramian.loss(phi)
    yield "step_", lambda: gramian.step_(parameter, lr=0.01)
    if tuple(phi.shape) in (*TUNED, TINY_SHAPES[0]):
        yield "value_and_grad(out=), defaults", lambda: by_default(lambda: gramian.value_and_grad(phi, out=grad))
        yield "step_, defaults", lambda: by_default(lambda: gramian.step_(parameter, lr=0.01))
    yield "copy", lambda: grad.copy_(phi)
    yield "two products by hand", lambda: two_products(phi)
    yield "the same, torch.compile", lambda: compiled(phi)
    yield "two products of the library alone", lambda: (torch.bmm(P.mT, P), torch.bmm(P, G))
    if phi.dtype == torch.float32 and phi.shape[2] <= phi.shape[0]:
        yield "batched QR", lambda: torch.linalg.qr(P)
        yield "batched eigh of the Gram matrix", lambda: torch.linalg.eigh(torch.bmm(P.mT, P))
    rows = P.mT.contiguous()
    if phi.dtype == torch.bfloat16 and phi.shape[1] == 1 and importlib.util.find_spec("flash_muon"):
        from flash_muon import matmul_transpose  # pyright: ignore[reportMissingImports]

        yield "flash-muon, Gram product alone", lambda: matmul_transpose(rows[0])
    if phi.dtype == torch.bfloat16 and phi.shape[2] > 256 and importlib.util.find_spec("quack"):
        from quack.gemm_interface import gemm_symmetric  # pyright: ignore[reportMissingImports]

        yield "quack, Gram product alone", lambda: gemm_symmetric(rows, rows.mT)


def by_default(call: Callable[[], object]) -> None:
    """Make a call with the default configurations."""
    with configurations.trial({}):
        call()


class Timer:
    """Times calls with a cold cache: on a GPU by events, on a CPU by the clock."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.other = torch.empty(FLUSHED if self.cuda else 1, dtype=torch.uint8, device=device)

    def once(self, call: Callable[[], object]) -> float:
        """Return the milliseconds of a call."""
        if not self.cuda:
            began = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - began)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.other.zero_()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def graphed(self, call: Callable[[], object], rounds: int) -> float:
        """Return the milliseconds of a call in a CUDA graph, where launches cost little; NaN on a CPU."""
        if not self.cuda:
            return math.nan
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return median(self.once(graph.replay) for _ in range(rounds))


def limits(timer: Timer, device: str) -> dict[object, float]:
    """Measure bytes a second of a copy, and flops a second of a large product for each dtype."""
    size, side = (1 << 30, 8192) if timer.cuda else (1 << 20, 128)
    a, b = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    found: dict[object, float] = {"bytes": 2 * size / median(timer.once(lambda: b.copy_(a)) for _ in range(15)) * 1e3}
    for dtype in DTYPES[:2]:
        x = torch.randn(side, side, device=device).to(dtype)
        times = [timer.once(lambda x=x: x @ x) for _ in range(15)]
        found[dtype] = 2 * side**3 / median(times) * 1e3
    return found


def measure(device: str, clock: Clock, shapes: tuple[Shape, ...], rounds: int) -> tuple[str, list[str]]:
    """Time all methods in turn; return a description of the limits, and the rows of the table."""
    timer = Timer(device)
    most = limits(timer, device)
    rows: list[list[str]] = []
    compiled = torch.compile(two_products, dynamic=False)
    left_out: list[str] = []
    for shape, dtype in itertools.product(shapes, DTYPES[:2]):
        if clock.left() < 15:
            left_out.append(f"{shape} {dtype}")
            continue
        length, m, n = shape
        phi = draw(shape, dtype, device)
        least = 1e3 * max(2 * phi.nbytes / most["bytes"], 3 * m * length * n * n / most[dtype])
        with kernels.watch() as used:
            gramian.loss(phi)
        calls, times, notes = dict(methods(phi, compiled)), {}, {}
        for name, call in list(calls.items()):
            try:
                call()
                times[name] = [timer.once(call)]
            except Exception as error:
                notes[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
                del calls[name]
        for _ in range(rounds):
            for name, call in calls.items():
                if times[name][0] < 2000 * clock.left() / 100 / rounds:
                    times[name].append(timer.once(call))
        ours = median(times["value_and_grad(out=)"]) if "value_and_grad(out=)" in times else math.nan
        for name in (*times, *notes):
            cells = [f"{length}, {m}, {n}", str(dtype)[6:], used[0] if used else "", name]
            if name in notes:
                rows.append([*cells, notes[name], "", "", ""])
                continue
            ms = median(times[name])
            graph = math.nan
            if name.split(",")[0] in ("value_and_grad(out=)", "step_"):
                try:
                    graph = timer.graphed(calls[name], rounds)
                except Exception as error:
                    print("  no graph:", name, shape, error)
            best = ms if math.isnan(graph) else graph
            share = f"{100 * least / best:.0f} %" if name.split(",")[0] in OURS else ""
            rows.append([*cells, f"{ms:.4f}", "" if math.isnan(graph) else f"{graph:.4f}", f"{ms / ours:.2f}", share])
    header = ["l, m, n", "dtype", "kernel", "call", "ms", "ms in a CUDA graph", "over value_and_grad", "of the limit"]
    rates = ", ".join(
        f"{rate / 1e9:,.0f} GB/s" if what == "bytes" else f"{rate / 1e12:,.1f} TFLOP/s in {str(what)[6:]}"
        for what, rate in most.items()
    )
    return f"Limits measured by a copy and by large products: {rates}.\n\n{table(header, rows)}", left_out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="fewer shapes")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device; try --device cpu for a rehearsal", file=sys.stderr)
        return 2
    clock, half = Clock(options.minutes), Clock(0.5 * options.minutes)
    checks = Checks()
    name = torch.cuda.get_device_name() if device == "cuda" else "rehearsal on a CPU"
    shapes = TINY_SHAPES if device == "cpu" else FEW_SHAPES if options.quick else SHAPES
    checked = TINY_SHAPES if device == "cpu" else CHECKED[::3] if options.quick else CHECKED
    tests = run_tests(checks, max(60, 0.25 * clock.left()))
    print(f"{name}; tests: {tests}", flush=True)
    with nullcontext() if device == "cuda" else warnings.catch_warnings():
        check_surroundings(checks, device)
        check_numbers(checks, device, half, checked)
    print(f"{checks.count} checks, {len(checks.faults)} faults, {clock.left():.0f} s left", flush=True)
    tuned = tune(device, TINY_SHAPES[:1] if device == "cpu" else TUNED[:2] if options.quick else TUNED, clock)
    body, left_out = measure(device, clock, shapes, 5 if options.quick else 20)
    faults = "".join(f"- {fault}\n" for fault in checks.faults)
    text = (
        f"Measured on {name}; {machine()}, commit {commit()}. Tests marked `gpu`: {tests}. {checks.count} checks of "
        f"{', '.join(sorted(checks.kernels))}: {len(checks.faults)} faults.\n\n{faults}\n"
        f"Tuned:\n\n{''.join(f'- {note}' + chr(10) for note in tuned) or '- nothing' + chr(10)}\n{body}"
    )
    if left_out:
        text += f"\nLeft out for time: {'; '.join(left_out)}.\n"
    write(f"gpu-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.md", text, options.out)
    return 1 if checks.faults else 0


if __name__ == "__main__":
    sys.exit(main())
