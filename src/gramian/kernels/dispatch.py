"""Which kernel makes the numbers: the ladder, and how to see, force and watch the choice."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from gramian.errors import OptionError
from gramian.kernels.base import Dense, Kernel, Problem, is_plain
from gramian.kernels.device import epilogue
from gramian.kernels.folded import Folded
from gramian.kernels.fused import Fused
from gramian.kernels.lanes import Lanes
from gramian.kernels.panel import Panel
from gramian.kernels.reduced import Reduced
from gramian.kernels.tiled import Tiled
from gramian.kernels.whole import Whole
from gramian.penalties import Penalty, as_penalty
from gramian.typing import Phi

__all__ = ["LADDER", "Explanation", "choose", "explain", "is_forced", "reduce_over", "use", "watch"]

_DENSE = Dense()

LADDER: tuple[Kernel, ...] = (Tiled(), Fused(), Panel(), Lanes(), Folded(), Whole(), _DENSE)
"""All kernels; the first that can and pays is taken."""

_forced: ContextVar[str | None] = ContextVar("forced", default=None)
_reduced: ContextVar[Kernel | None] = ContextVar("reduced", default=None)
_taken: dict[object, Kernel] = {}
_MOST_TAKEN = 4096
_watchers: ContextVar[tuple[list[str], ...]] = ContextVar("watchers", default=())


def choose(phi: Phi, penalty: Penalty) -> Kernel:
    """Give the kernel for a tensor and a penalty.

    Raises:
        OptionError: If a kernel is forced that cannot take them.
        ShapeError: If the penalty has parameters for groups of other sizes.
    """
    penalty.check_sizes(phi.shape[1], phi.shape[2])
    if torch.compiler.is_compiling():
        return _DENSE
    reduced = _reduced.get()
    if reduced is not None:
        kernel = reduced
    elif not is_plain(phi):
        kernel = _DENSE
    elif _forced.get() is not None:
        kernel = _forced_kernel(Problem.of(phi, penalty)) or _DENSE
    else:
        # A call for a small tensor finds the processor's caches cold, and every line here costs: so one table.
        key = (phi.shape, phi.stride(), phi.dtype, phi.device, type(penalty), penalty.entrywise)
        kernel = _taken.get(key)
        if kernel is None:
            if len(_taken) >= _MOST_TAKEN:
                _taken.clear()
            kernel = _taken[key] = _first(Problem.of(phi, penalty))
    for used in _watchers.get():
        used.append(kernel.name)
    return kernel


@contextmanager
def use(name: str) -> Generator[None]:
    """Force a kernel, within a `with` block; traced and vmapped tensors still go to the dense kernel.

    Args:
        name: 'tiled', 'fused', 'panel', 'lanes', 'folded', 'whole' or 'dense'.

    Raises:
        OptionError: If there is no such kernel; and, from the call within the block, if it cannot take its tensor.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.randn(64, 100, 4)
        >>> with gramian.kernels.use("dense"):
        ...     value = gramian.loss(phi)
    """
    if name not in {kernel.name for kernel in LADDER}:
        raise OptionError(f"the kernel must be one of {', '.join(repr(k.name) for k in LADDER)}; got {name!r}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def is_forced() -> bool:
    """Tell whether a kernel is forced, which may then refuse a tensor."""
    return _forced.get() is not None


@contextmanager
def reduce_over(group: Any) -> Generator[None]:
    """Take every Φ within a `with` block for some of the coordinates of vectors that are spread over a process group.

    Args:
        group: The process group; all of its members must make the same calls.
    """
    token = _reduced.set(Reduced(group))
    try:
        yield
    finally:
        _reduced.reset(token)


@contextmanager
def watch() -> Generator[list[str]]:
    """Collect the names of the kernels that run within a `with` block.

    Examples:
        >>> import torch, gramian
        >>> with gramian.kernels.watch() as used:
        ...     value = gramian.loss(torch.randn(8, 1, 3))
        >>> used
        ['whole']
    """
    used: list[str] = []
    token = _watchers.set((*_watchers.get(), used))
    try:
        yield used
    finally:
        _watchers.reset(token)


@dataclass(frozen=True)
class Explanation:
    """Which kernel is taken, and what speaks against each other one; printed, a line for each."""

    chosen: str
    reasons: dict[str, str]
    flops: int
    """Of the loss and its gradient at their least: m·l·n² for the symmetric Gram product, 2·m·l·n² for the other."""

    def __str__(self) -> str:
        lines = [f"{name:>8}  {reason}" for name, reason in self.reasons.items()]
        return "\n".join([*lines, f"at least {self.flops:.3g} flops for the loss and its gradient"])


def explain(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    strides: Sequence[int] | None = None,
    penalty: str | Penalty = "l1",
) -> Explanation:
    """Tell which kernel a tensor Φ[l, m, n] gets, and why not another.

    Args:
        shape: (l, m, n).
        dtype: Of Φ.
        device: Where Φ lies.
        strides: Of Φ, in numbers; contiguous by default.
        penalty: Name or `Penalty`.

    Returns:
        The choice with its reasons.

    Raises:
        OptionError: If shape or strides are not three sizes.

    Examples:
        >>> from gramian import kernels
        >>> kernels.explain((512, 1, 2048)).chosen
        'panel'
    """
    sizes = tuple(shape)
    steps = (sizes[1] * sizes[2], sizes[2], 1) if strides is None and len(sizes) == 3 else tuple(strides or ())
    if len(sizes) != 3 or len(steps) != 3 or min(sizes) < 0:
        raise OptionError(f"shape and strides must be three sizes (l, m, n); got {sizes} and {strides}")
    length, m, n = sizes
    mu = as_penalty(penalty)
    problem = Problem(
        (length, m, n), (steps[0], steps[1], steps[2]), dtype, torch.device(device).type,
        mu.entrywise, epilogue(mu) is not None,
    )  # fmt: skip
    forced = _forced_kernel(problem)
    chosen = forced or _first(problem)
    reasons: dict[str, str] = {}
    for kernel in LADDER:
        if kernel is chosen:
            reasons[kernel.name] = "taken" if forced is None else "forced"
        elif forced is not None:
            reasons[kernel.name] = "another kernel is forced"
        else:
            reasons[kernel.name] = kernel.cannot(problem) or kernel.loses(problem) or f"{chosen.name} is faster"
    return Explanation(chosen.name, reasons, 3 * m * length * n**2)


def _first(problem: Problem) -> Kernel:
    return next(kernel for kernel in LADDER if kernel.cannot(problem) is None and kernel.loses(problem) is None)


def _forced_kernel(problem: Problem) -> Kernel | None:
    name = _forced.get()
    if name is None:
        return None
    kernel = next(kernel for kernel in LADDER if kernel.name == name)
    reason = kernel.cannot(problem)
    if reason is not None:
        raise OptionError(f"the {name} kernel was forced, but cannot take Φ of shape {list(problem.shape)}: {reason}")
    return kernel
