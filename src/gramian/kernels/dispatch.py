"""The choice of a kernel: the ladder, and functions that explain, force and record the choice."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from gramian.errors import OptionError
from gramian.kernels.base import Kernel, KernelSpec, is_plain
from gramian.kernels.cpu.batched import Batched
from gramian.kernels.cpu.block_diagonal import BlockDiagonal
from gramian.kernels.cpu.lanes.kernel import Lanes
from gramian.kernels.cpu.outer.kernel import Outer
from gramian.kernels.cpu.panel import Panel
from gramian.kernels.gpu.epilogues import epilogue
from gramian.kernels.gpu.fused import Fused
from gramian.kernels.gpu.operators import OPERATORS, is_traceable
from gramian.kernels.gpu.products import Products
from gramian.kernels.gpu.registers import Registers
from gramian.kernels.gpu.tiled import Tiled
from gramian.kernels.reference import REFERENCE
from gramian.penalties import Penalty, as_penalty
from gramian.typing import Phi

__all__ = ["LADDER", "Explanation", "choose", "explain", "is_forced", "override", "use", "watch"]

LADDER: tuple[Kernel, ...] = (
    Tiled(),
    Products(),
    Registers(),
    Fused(),
    Panel(),
    Outer(),
    Lanes(),
    BlockDiagonal(),
    Batched(),
    REFERENCE,
)
"""All kernels; the first one that is supported and not slower than a later one is used."""

_forced: ContextVar[str | None] = ContextVar("forced", default=None)
_override: ContextVar[Kernel | None] = ContextVar("override", default=None)
_choices: dict[object, Kernel] = {}
_MOST_CHOICES = 4096
_watchers: ContextVar[tuple[list[str], ...]] = ContextVar("watchers", default=())


def choose(phi: Phi, penalty: Penalty, *, differentiated: bool = False) -> Kernel:
    """Choose the kernel for a tensor and a penalty.

    Args:
        phi: Φ[l, m, n].
        penalty: The penalty.
        differentiated: Whether a derivative may pass through the result. While torch.compile traces, a transform of
            torch.func cannot be told from a plain call, and an operator has no forward derivative.

    Raises:
        OptionError: If a kernel is forced that does not support them.
        ShapeError: If the penalty has parameters for groups of other sizes.
    """
    penalty.check_sizes(phi.shape[1], phi.shape[2])
    if torch.compiler.is_compiling():
        return OPERATORS if not differentiated and is_traceable(phi, penalty) else REFERENCE
    override = _override.get()
    if override is not None:
        kernel = override
    elif not is_plain(phi):
        kernel = REFERENCE
    elif _forced.get() is not None:
        kernel = _forced_kernel(KernelSpec.of(phi, penalty)) or REFERENCE
    else:
        # For small tensors each line here costs time: one dictionary look-up replaces the checks of all kernels.
        key = (phi.shape, phi.stride(), phi.dtype, phi.device, type(penalty), penalty.accepts_blocks)
        kernel = _choices.get(key)
        if kernel is None:
            if len(_choices) >= _MOST_CHOICES:
                _choices.clear()
            kernel = _choices[key] = _first(KernelSpec.of(phi, penalty))
    for used in _watchers.get():
        used.append(kernel.name)
    return kernel


@contextmanager
def use(name: str) -> Generator[None]:
    """Force a kernel within a `with` block; traced and vmapped tensors still use the reference kernel.

    Args:
        name: 'tiled', 'products', 'registers', 'fused', 'panel', 'outer', 'lanes', 'block_diagonal', 'batched' or
            'reference'.

    Raises:
        OptionError: If there is no such kernel; and from a call within the block, if the kernel does not support it.

    Examples:
        >>> import torch, gramian
        >>> phi = torch.randn(64, 100, 4)
        >>> with gramian.kernels.use("reference"):
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
    """Tell whether a kernel is forced, so that `choose` may raise an error."""
    return _forced.get() is not None


@contextmanager
def override(kernel: Kernel) -> Generator[None]:
    """Use a kernel, which may be outside the ladder, for every tensor within a `with` block."""
    token = _override.set(kernel)
    try:
        yield
    finally:
        _override.reset(token)


@contextmanager
def watch() -> Generator[list[str]]:
    """Record the names of the kernels that run within a `with` block, in the order of the calls.

    Examples:
        >>> import torch, gramian
        >>> with gramian.kernels.watch() as used:
        ...     value = gramian.loss(torch.randn(8, 1, 3))
        >>> used
        ['batched']
    """
    used: list[str] = []
    token = _watchers.set((*_watchers.get(), used))
    try:
        yield used
    finally:
        _watchers.reset(token)


@dataclass(frozen=True)
class Explanation:
    """The kernel that is used, and for every other kernel the reason why it is not; `str` prints a line for each."""

    chosen: str
    reasons: dict[str, str]
    flops: int
    """Fewest flops for the loss and its gradient: m·l·n² for the symmetric Gram product, 2·m·l·n² for P·G."""

    def __str__(self) -> str:
        width = max(map(len, self.reasons))
        lines = [f"{name:>{width}}  {reason}" for name, reason in self.reasons.items()]
        return "\n".join([*lines, f"at least {self.flops:.3g} flops for the loss and its gradient"])


def explain(
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    *,
    strides: Sequence[int] | None = None,
    penalty: str | Penalty = "l1",
) -> Explanation:
    """Explain which kernel is used for a tensor Φ[l, m, n], and why each other kernel is not.

    Args:
        shape: (l, m, n).
        dtype: The dtype of Φ.
        device: The device of Φ.
        strides: The strides of Φ, in entries; contiguous by default.
        penalty: Name or `Penalty`.

    Returns:
        The choice and the reasons.

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
    problem = KernelSpec(
        (length, m, n), (steps[0], steps[1], steps[2]), dtype, torch.device(device).type,
        mu.accepts_blocks, epilogue(mu) is not None,
    )  # fmt: skip
    forced = _forced_kernel(problem)
    chosen = forced or _first(problem)
    reasons: dict[str, str] = {}
    for kernel in LADDER:
        if kernel is chosen:
            reasons[kernel.name] = "used" if forced is None else "forced"
        elif forced is not None:
            reasons[kernel.name] = "another kernel is forced"
        else:
            reasons[kernel.name] = (
                kernel.unsupported_reason(problem) or kernel.slower_reason(problem) or f"{chosen.name} is faster"
            )
    return Explanation(chosen.name, reasons, 3 * m * length * n**2)


def _first(problem: KernelSpec) -> Kernel:
    return next(
        kernel
        for kernel in LADDER
        if kernel.unsupported_reason(problem) is None and kernel.slower_reason(problem) is None
    )


def _forced_kernel(problem: KernelSpec) -> Kernel | None:
    name = _forced.get()
    if name is None:
        return None
    kernel = next(kernel for kernel in LADDER if kernel.name == name)
    reason = kernel.unsupported_reason(problem)
    if reason is not None:
        raise OptionError(f"the forced {name} kernel does not support Φ of shape {list(problem.shape)}: {reason}")
    return kernel
