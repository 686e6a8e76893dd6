"""Compile device code for GPUs, without one: `python -m tests.kernels.compile_device_code [--all] [--targets sm_90]`.

The launchers of the package run on meta tensors, under a driver that names a target and has no device, so that every
variant is one that a launch would compile. For each it prints a line with what the compiler reports.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # before Triton is imported; pytest imports this module too, to look for examples
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["JAXTYPING_DISABLE"] = "1"

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from gramian.kernels.gpu import configurations, launching
from gramian.kernels.gpu.fused import Fused
from gramian.kernels.gpu.products import Products
from gramian.kernels.gpu.registers import Registers
from gramian.kernels.gpu.tiled import Tiled
from gramian.penalties import as_penalty

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_MEMORY = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}

WITH_MATRIX_UNIT = {"fused_gram", "fused_update", "fused_apply", "symmetric_tiles", "sign_product"}
MATRIX_UNIT = r"\b(wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_mfma_\w+)"
LOADS = (
    r"ld\.global[\w.:]*?(?:\.v(?P<numbers>[248]))?\.[bfus](?P<bits>\d+)\b",
    r"cp\.async\.c[ga]\.shared\.global[^;]*, (?P<bytes>0x[0-9a-f]+|\d+)[,;]",
    r"(?:global|buffer)_load_dword(?:x(?P<words>\d))?\b",
)
"""Loads from memory, in PTX and in the code of AMD."""

TILE = ("TILE", "ROWS", "COLUMNS", "GROUPS", "DEPTH", "num_warps", "num_stages")
"""Options that are printed."""

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


class Case(NamedTuple):
    """A call of a kernel."""

    kernel: type
    shape: tuple[int, int, int]
    dtype: torch.dtype
    penalty: str = "l1"
    step: bool = False
    order: str = "l m n"
    rate: bool = False
    """Whether the learning rate is on the device."""

    def phi(self) -> Tensor:
        length, m, n = self.shape
        if self.order == "l m n":
            return torch.empty(length, m, n, dtype=self.dtype, device="meta")
        if self.order == "m l n":
            return torch.empty(m, length, n, dtype=self.dtype, device="meta").permute(1, 0, 2)
        if self.order == "m n l":
            return torch.empty(m, n, length, dtype=self.dtype, device="meta").permute(2, 0, 1)
        return torch.empty(length, m, 2 * n + 1, dtype=self.dtype, device="meta")[:, :, 1 : n + 1]  # gaps

    def run(self) -> None:
        kernel, phi, penalty = self.kernel(), self.phi(), as_penalty(self.penalty)
        if self.step:
            rate = torch.empty((), device="meta") if self.rate else None
            kernel.proximal_step(phi, penalty, 0.1, in_place=True, rate=rate)
        else:
            kernel.value_and_grad(phi, penalty, 1.0)


FEW = {
    "sm_80": (Case(Registers, (64, 4096, 4), BF16), Case(Fused, (256, 64, 16), FP32, step=True)),
    "sm_90": (
        Case(Registers, (768, 8192, 8), FP32, order="m n l"),
        Case(Fused, (4096, 1, 64), FP32, step=True, rate=True),
        Case(Products, (512, 8, 128), FP32),
        Case(Products, (512, 8, 128), BF16, step=True),
        Case(Products, (512, 1, 257), FP32, step=True, rate=True),
    ),
    "sm_100": (Case(Registers, (256, 192, 3), FP32, step=True, rate=True), Case(Tiled, (2048, 1, 2048), BF16)),
    "gfx942": (Case(Fused, (256, 64, 16), BF16),),
}


FEW_CANDIDATES = {"sm_100": (Case(Registers, (64, 4096, 4), FP32, step=True),)}


def cases_for_candidates() -> Iterator[Case]:
    for dtype, step in itertools.product((FP32, BF16), (False, True)):
        for shape in ((64, 4096, 4), (768, 8192, 8)):
            yield Case(Registers, shape, dtype, step=step)
        for shape in ((256, 640, 16), (256, 640, 32), (256, 640, 64), (8192, 1, 64)):
            yield Case(Fused, shape, dtype, step=step)
        for shape in ((512, 3, 128), (512, 3, 1000)):
            yield Case(Products, shape, dtype, step=step)
        for shape in ((2048, 1, 2048), (1777, 3, 1537)):
            yield Case(Tiled, shape, dtype, step=step)


def all_cases() -> Iterator[Case]:
    for dtype, step in itertools.product((FP32, BF16, FP16), (False, True)):
        for order, penalty in (
            *(("l m n", penalty) for penalty in ("l1", "huber", "squared_frobenius")),
            *((order, "l1") for order in ("m n l", "gaps")),
        ):
            rest = dtype, penalty, step, order
            few = penalty != "l1" or dtype == FP16
            if penalty == "l1" and order == "l m n" and step:
                for shape, kernel in (((256, 4096, 4), Registers), ((256, 640, 16), Fused), ((4096, 1, 64), Fused)):
                    yield Case(kernel, shape, *rest, rate=True)
                yield Case(Products, (512, 3, 300), *rest, rate=True)
            for length, n in itertools.product(
                (256,) if few else (64, 256, 768), (4, 8) if few else (1, 2, 3, 4, 5, 8)
            ):
                yield Case(Registers, (length, 4096, n), *rest)
            for n in (16, 64) if few else (9, 12, 16, 17, 31, 32, 33, 48, 64):
                yield Case(Fused, (256, 640, n), *rest)
            for n in (16, 64):
                yield Case(Fused, (8192, 1, n), *rest)
            for n in (65, 128, 1000):
                yield Case(Products, (512, 3, n), *rest)
            for shape in ((1024, 1, 1024), (777, 3, 1537), (512, 1, 12000)):
                if shape[2] <= shape[0] or not step:
                    yield Case(Tiled, shape, *rest)


@dataclass
class Variant:
    """A function that a launch compiles, and what the compiler says about it."""

    target: str
    name: str
    case: Case
    options: dict[str, Any]
    error: str = ""
    registers: int = 0
    stack: int = 0
    shared: int = 0
    matrix: set[str] = field(default_factory=set)
    widest_load: int = 0
    """Bytes that a thread loads at once."""

    def faults(self) -> list[str]:
        if self.error:
            return [f"it does not compile: {self.error}"]
        result = []
        if self.stack:
            result.append(f"it spills: {self.stack} bytes of stack")
        if self.shared > SHARED_MEMORY[self.target]:
            result.append(f"it needs {self.shared} bytes of shared memory")
        if self.name in WITH_MATRIX_UNIT and not self.matrix:
            result.append("no matrix unit is used")
        if self.name not in WITH_MATRIX_UNIT and self.matrix:
            result.append("a matrix unit is used")
        if self.widest_load < self.expected_load():
            result.append(f"no load of {self.expected_load()} bytes")
        return result

    def expected_load(self) -> int:
        """Return the bytes that a thread should load at once: 16, or all that it holds of a vector if that is less."""
        n, order = self.case.shape[2], self.case.order
        if self.name == "whole_groups" and order == "m n l":
            threads = TARGETS[self.target].warp_size * self.options["num_warps"]
            return min(16, self.options["ROWS"] * self.options["GROUPS"] * self.case.dtype.itemsize // threads)
        if self.name == "whole_groups":
            return 16 if order == "l m n" and n in (1, 2, 4, 8) else 0
        tiled = self.name in ("fused_update", "fused_gram", "symmetric_tiles", "sign_product")
        return 16 if tiled and order == "l m n" and n % 16 == 0 else 0

    def __str__(self) -> str:
        what = " ".join(str(part) for part in self.case[1:])
        tile = " ".join(f"{key}={self.options[key]}" for key in TILE if key in self.options)
        return (
            f"{self.target:7} {self.name:16} {self.case.kernel.name:9} {what:48} {tile:44} {self.registers:3} regs "
            f"{self.stack} stack {self.shared:6} shared {self.widest_load:2} B loads {' '.join(sorted(self.matrix))}"
        )


class NoDriver:
    """Names a target; there is no device. Each target has a number, because Triton caches code for each device."""

    def __init__(self, target: str) -> None:
        self.target, self.number = TARGETS[target], list(TARGETS).index(target)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.number

    def get_current_stream(self, _device: int) -> int:
        return 0


def compile_cases(target: str, cases: Iterable[Case], only: str = "", *, candidates: bool = False) -> Iterator[Variant]:
    """Run the launchers and compile each distinct function that they launch, with candidates instead of defaults.

    `only` is a part of the names of the kernels.
    """
    cases = [case for case in cases if only in case.kernel.name]
    triton.runtime.driver.set_active(NoDriver(target))
    torch.version.hip = "6.2" if target.startswith("gfx") else None
    seen: set[object] = set()
    for case, tried in with_candidates(cases) if candidates else ((case, {}) for case in cases):
        launches: list[tuple[str, tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = []
        with configurations.trial(tried):
            with_launches(
                lambda *args, launches=launches, **options: launches.append((args[0], args[1], args[2:], options)), case
            )
        for name, grid, arguments, options in launches:
            if tried and not next(iter(tried)).startswith(name):
                continue
            key = (name, tuple(map(_specialisation, arguments)), str(options))
            if key not in seen:
                seen.add(key)
                yield _compile(Variant(target, name, case, options), grid, arguments)


def with_candidates(cases: Iterable[Case]) -> Iterator[tuple[Case, dict[str, configurations.Configuration]]]:
    """Iterate over the configurations that are not the default ones, one at a time."""
    for case in cases:
        with configurations.queries() as asked:
            with_launches(lambda *_, **__: None, case)
        for query in asked:
            for candidate in query.candidates[1:]:
                yield case, {query.key: candidate}


def with_launches(record: Callable[..., None], case: Case) -> None:
    original = launching.launch
    original_version = torch.autograd.graph.increment_version
    launching.launch, torch.autograd.graph.increment_version = record, lambda _: None
    try:
        case.run()
    finally:
        launching.launch, torch.autograd.graph.increment_version = original, original_version


def _specialisation(argument: Any) -> object:
    """What of an argument Triton compiles anew for."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.storage_offset() * argument.element_size() % 16 == 0
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0
    return "float"


def _compile(variant: Variant, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> Variant:
    function = launching._function(variant.name)
    try:
        code = function.warmup(*arguments, grid=grid, **variant.options)
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        variant.error = f"{type(error).__name__}: {error}".strip().replace("\n", " ")[-300:]
        return variant
    variant.shared = code.metadata.shared
    text = code.asm["amdgcn" if variant.target.startswith("gfx") else "ptx"]
    variant.matrix = set(re.findall(MATRIX_UNIT, text))
    variant.widest_load = _widest_load(text)
    if variant.target.startswith("gfx"):
        variant.registers, variant.stack = (
            int(re.search(rf"\.{key}:\s*(\d+)", text)[1]) for key in ("vgpr_count", "private_segment_fixed_size")
        )
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(code.asm["cubin"])
            file.flush()
            tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
            report = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        variant.registers, variant.stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", report).groups())
    return variant


def _widest_load(text: str) -> int:
    widest = 0
    for pattern in LOADS:
        for match in re.finditer(pattern, text):
            found = {key: int(value, 0) for key, value in match.groupdict().items() if value}
            size = (
                found.get("bytes") or 4 * found.get("words", 0) or found.get("numbers", 1) * found.get("bits", 32) // 8
            )
            widest = max(widest, size)
    return widest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every variant, in some minutes for each target")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--only", default="", help="a part of the names of the kernels to compile")
    parser.add_argument("--candidates", action="store_true", help="the configurations that tuning tries")
    parser.add_argument("--quiet", action="store_true", help="print variants at fault only")
    options = parser.parse_args()
    only = options.only
    count = bad = 0
    for target in options.targets.split(","):
        variants = itertools.chain(
            () if options.candidates else compile_cases(target, all_cases() if options.all else FEW[target], only),
            compile_cases(target, FEW_CANDIDATES.get(target, ()), only, candidates=True) if not options.all else (),
            compile_cases(target, cases_for_candidates(), only, candidates=True) if options.candidates else (),
        )
        for variant in variants:
            count += 1
            faults = variant.faults()
            bad += bool(faults)
            if faults or not options.quiet:
                print(variant, *(f"\n    FAULT {fault}" for fault in faults), flush=True)
    print(f"{count} compiled, {bad} at fault")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
