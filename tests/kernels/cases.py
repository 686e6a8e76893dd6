"""The table of kernels: the shapes on which each is tested."""

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import gramian
from gramian.kernels.gpu.epilogues import triton_version
from gramian.penalties import Penalty, as_penalty

HAS_TRITON = (triton_version() or (0,)) >= (3, 3)
HAS_LLVM = importlib.util.find_spec("llvmlite") is not None

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class KernelCase:
    """Shapes (l, m, n) for one kernel."""

    small: Shape
    """For many runs; n ≤ l, where the norms of the proximal rule are the same for every kernel."""
    medium: Shape
    """Several panels, tiles or batches."""
    large: Shape
    """Long sums, whose rounding errors accumulate."""
    edges: tuple[Shape, ...]
    """Empty, odd and overcomplete shapes; the default suite interprets device code for the first four only."""
    interpreted: bool = False
    """Whether Triton's interpreter may run it, one program after another, so that shapes must be small."""
    marks: tuple[pytest.MarkDecorator, ...] = ()


_NEEDS_TRITON = (pytest.mark.skipif(not HAS_TRITON, reason="needs Triton 3.3"),)
_NEEDS_LLVM = (pytest.mark.skipif(not HAS_LLVM, reason="needs llvmlite"),)

_EMPTY = ((0, 1, 4), (4, 0, 3), (4, 2, 0))
_MANY_SMALL = (
    *((8, 64, 1), (70, 65, 2), (33, 131, 3), (5, 200, 4), (100, 64, 8), (2, 70, 5), (0, 64, 2), (4, 0, 3), (9, 1, 7)),
)

KERNELS = {
    "panel": KernelCase(
        small=(40, 2, 30), medium=(400, 2, 300), large=(1024, 1, 1024),
        edges=((40, 1, 700), (700, 1, 513), (9, 3, 5), (1, 2, 1), (3, 2, 8), (600, 2, 520), *_EMPTY),
    ),
    "lanes": KernelCase(
        small=(20, 70, 4), medium=(90, 130, 4), large=(5000, 64, 4), marks=_NEEDS_LLVM,
        edges=(
            *((70, 65, 2), (33, 131, 3), (5, 200, 4), (70, 67, 5), (40, 66, 6), (33, 65, 7), (100, 64, 8), (65, 9, 8)),
            *((8, 64, 1), (0, 64, 2), (4, 0, 3), (9, 1, 7), (1, 3, 2), (3, 5, 8)),
        ),
    ),
    "outer": KernelCase(
        small=(40, 3, 30), medium=(300, 3, 140), large=(5000, 2, 100), marks=_NEEDS_LLVM,
        edges=(
            *((40, 1, 300), (130, 5, 17), (20, 30, 90), (5, 4, 33), (70, 2, 64), (9, 3, 20), (3, 2, 8), (1, 2, 1)),
            *_EMPTY,
        ),
    ),
    "block_diagonal": KernelCase(small=(20, 70, 4), medium=(90, 130, 4), large=(5000, 64, 4), edges=_MANY_SMALL),
    "batched": KernelCase(
        small=(40, 3, 30), medium=(300, 3, 260), large=(5000, 2, 300),
        edges=(
            *((40, 1, 300), (300, 3, 259), (20, 300, 90), (33, 131, 3), (9, 3, 20), (3, 2, 8), (1, 2, 1)), *_EMPTY
        ),
    ),
    "fused": KernelCase(
        small=(20, 7, 4), medium=(90, 13, 4), large=(800, 2, 4), interpreted=True, marks=_NEEDS_TRITON,
        edges=((9, 7, 3), (20, 2, 33), (0, 4, 2), (4, 0, 3), (8, 20, 1), (70, 11, 2), (100, 7, 16), (1, 2, 1)),
    ),
    "registers": KernelCase(
        small=(20, 7, 4), medium=(90, 13, 4), large=(800, 2, 4), interpreted=True, marks=_NEEDS_TRITON,
        edges=((300, 5, 8), (9, 37, 3), (0, 4, 2), (4, 0, 3), (8, 20, 1), (70, 11, 2), (20, 3, 7), (1, 2, 1)),
    ),
    "products": KernelCase(
        small=(20, 2, 7), medium=(90, 2, 80), large=(500, 1, 70), interpreted=True, marks=_NEEDS_TRITON,
        edges=((70, 1, 65), (3, 2, 8), (0, 1, 4), (4, 0, 3), (40, 1, 130), (140, 2, 65), (9, 3, 5), (1, 2, 1)),
    ),
    "tiled": KernelCase(
        small=(20, 2, 7), medium=(90, 1, 80), large=(500, 1, 66), interpreted=True, marks=_NEEDS_TRITON,
        edges=((70, 1, 65), (3, 2, 8), *_EMPTY[:2], (40, 1, 130), (70, 2, 65), (9, 3, 5), (1, 2, 1)),
    ),
}  # fmt: skip
"""All kernels but the reference."""

over_kernels = pytest.mark.parametrize("kernel", [pytest.param(name, marks=KERNELS[name].marks) for name in KERNELS])


def over_kernels_and(name: str, values: dict[str, object], *, interpreted: Collection[str]) -> pytest.MarkDecorator:
    """Parametrize a test over kernels and another argument, of which the default suite interprets a few values only."""
    return pytest.mark.parametrize(
        ("kernel", name),
        [
            pytest.param(
                kernel, value, id=f"{kernel}-{label}",
                marks=(*case.marks, *([pytest.mark.slow] if case.interpreted and label not in interpreted else ())),
            )
            for kernel, case in KERNELS.items()
            for label, value in values.items()
        ],
    )  # fmt: skip


over_edges = pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        pytest.param(
            name, shape, id=f"{name}-{shape}",
            marks=(*case.marks, *([pytest.mark.slow] if case.interpreted and i >= 4 else ())),
        )
        for name, case in KERNELS.items()
        for i, shape in enumerate(case.edges)
    ],
)  # fmt: skip


def draw(shape: Shape, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random vectors of length about 1."""
    return (torch.randn(shape, dtype=torch.float64) / max(1, shape[0]) ** 0.5).to(dtype)


def numbers(kernel: str, phi: Tensor, penalty: str | Penalty) -> dict[str, Tensor]:
    """All results of a kernel, through the public functions; checks that this kernel computed them."""
    options = {"beta": 0.7, "penalty": penalty}
    with gramian.kernels.use(kernel), gramian.kernels.watch() as used:
        value, grad = gramian.value_and_grad(phi, **options)
        loss = gramian.loss(phi, **options)
        leaf = phi.clone().requires_grad_()
        gramian.loss(leaf, **options).backward()
        stepped, descended = phi.clone(), phi.clone()
        rule = "proximal" if as_penalty(penalty).has_prox else "polyak"
        before = gramian.step_(stepped, lr=0.05, rule=rule, **options)
        gramian.step_(descended, lr=0.001, rule="subgradient", **options)
    assert used == 5 * [kernel]
    return {
        "value": value, "grad": grad, "loss": loss, "backward": leaf.grad, "stepped": stepped, "before": before,
        "descended": descended,
    }  # fmt: skip
