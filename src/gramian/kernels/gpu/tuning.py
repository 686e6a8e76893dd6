"""Tuning: configurations of the GPU kernels are timed for a tensor, and the fastest correct ones are kept in a file.

It is a call of its own, and not `triton.autotune`, because that times configurations inside a launch: it waits for the
device there, which a CUDA graph cannot capture, and checks neither the results nor a limit of time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from gramian.errors import OptionError
from gramian.kernels.dispatch import choose
from gramian.kernels.gpu import configurations, epilogues
from gramian.kernels.gpu.configurations import Configuration, TrialError
from gramian.kernels.reference import REFERENCE
from gramian.penalties import Penalty, as_penalty
from gramian.typing import Phi

__all__ = ["Operation", "Tuning", "operations", "search", "tune"]

_TAU = 0.04
"""τ of the step that is timed."""

_FLUSHED = 1 << 28
"""Bytes that are written before each measurement, more than the cache of a device holds."""

_ROUNDS = 15
_SECONDS = 0.3
"""Limit of the rounds of one measurement."""


class Operation(NamedTuple):
    """A call that is timed."""

    name: str
    prepare: Callable[[], object]
    """Restores what the call overwrites; not timed."""
    run: Callable[[], object]
    is_correct: Callable[[], bool]
    """Checks the results of the last run."""


@dataclass(frozen=True)
class Tuning:
    """What `tune` found."""

    milliseconds: dict[str, tuple[float, float]]
    """For each operation the time with the default configurations, and with those that were kept."""
    configurations: dict[str, Configuration]
    """The fastest correct configuration for each function of the device code and class of shapes."""
    tried: int
    """Number of configurations that were run in addition to the default ones."""
    refused: int
    """How many of them did not compile, or gave wrong results."""
    complete: bool
    """Whether all candidates were tried within the time."""
    path: Path | None = None
    """The file, None if nothing was kept."""


def tune(phi: Tensor, *, penalty: str | Penalty = "l1", seconds: float = 60.0) -> Tuning:
    r"""Time configurations of the GPU kernels for tensors such as Φ, and keep the fastest correct ones in a file.

    The loss with its gradient and a proximal step are timed with at most six candidates for each function of the
    device code: other tiles, warps and stages. A candidate whose results differ from float64, for the step from those
    of the default, by more than rounding is refused. The configurations are for this device, for the versions of
    Triton and of the device code, and for tensors of the same dtype and penalty whose sizes have the same powers of
    two. They are kept in `gramian/gpu.json` in the folder `$XDG_CACHE_HOME`, by default `~/.cache`. Later calls use
    them, also in other processes; a file that is damaged or for other versions is ignored, with a warning.

    Args:
        phi: Φ[l, m, n] on a CUDA device, with typical numbers. It is not changed.
        penalty: Name or `Penalty`.
        seconds: Limit of time. It is checked before each candidate, so that a compilation may exceed it.

    Returns:
        The times before and after, and the configurations.

    Raises:
        OptionError: If Φ is no tensor on a CUDA device with three axes, or `seconds` is not positive.
        RunError: If the file cannot be written.

    Cost:
        Memory for X in float64, some times, and for six tensors like Φ. It waits for the device, as no other function
        of the kernels does, so it must not be called while a CUDA graph is captured.

    Examples:
        >>> import gramian, torch
        >>> if torch.cuda.is_available():
        ...     tuning = gramian.kernels.tune(torch.randn(64, 4096, 4, device="cuda") / 8)
    """
    if not seconds > 0:
        raise OptionError(f"seconds must be positive; got {seconds}")
    if not isinstance(phi, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            f"phi must be a tensor [l, m, n] on a CUDA device; got {phi!r:.80}; try torch.randn(l, m, n, device='cuda')"
        )
    if phi.device.type != "cuda" or phi.ndim != 3:
        raise OptionError(
            f"phi must be a tensor [l, m, n] on a CUDA device; got shape {list(phi.shape)} on {phi.device}; try "
            "phi.cuda()"
        )
    end = time.monotonic() + seconds
    with torch.no_grad(), torch.cuda.device(phi.device):
        found = search(
            operations(phi.detach(), as_penalty(penalty)), _Timer(phi.device), lambda: end - time.monotonic()
        )
    if not found.configurations:
        return found
    path = configurations.save(phi.device, found.configurations)
    return Tuning(found.milliseconds, found.configurations, found.tried, found.refused, found.complete, path)


def search(calls: Sequence[Operation], measure: Callable[[Operation], float], left: Callable[[], float]) -> Tuning:
    """Try the candidates of one function after another, and keep the fastest correct one of each.

    Args:
        calls: The calls that are timed.
        measure: Returns the milliseconds of a call.
        left: Returns the seconds that are left.
    """
    chosen: dict[str, Configuration] = {}
    times: dict[str, tuple[float, float]] = {}
    tried = refused = 0
    complete = True
    for call in calls:
        with configurations.trial({}), configurations.queries() as asked:
            if not _run(call):
                continue  # its default configurations do not compile here
            default = best = measure(call)
        if chosen:
            with configurations.trial(chosen):
                best = measure(call)
        for query in asked:
            if query.key in chosen:
                continue  # by a call before
            for candidate in query.candidates[1:]:
                if left() <= 0:
                    complete = False
                    break
                tried += 1
                with configurations.trial({**chosen, query.key: candidate}):
                    milliseconds = measure(call) if _run(call) else None
                if milliseconds is None:
                    refused += 1
                elif milliseconds < best:
                    best, chosen[query.key] = milliseconds, candidate
            if complete:
                chosen.setdefault(query.key, query.candidates[0])
        times[call.name] = default, best
    return Tuning(times, chosen, tried, refused, complete)


def _run(call: Operation) -> bool:
    """Run a call once, and tell whether its configurations compile and its results are correct."""
    call.prepare()
    try:
        call.run()
    except TrialError:
        return False
    return call.is_correct()


def operations(phi: Phi, penalty: Penalty) -> list[Operation]:
    """Return the loss with its gradient, and the step in place, as the kernel for Φ computes them."""
    kernel = choose(phi, penalty)
    grad, stepped = torch.empty_like(phi), phi.clone()
    values, exact, level = _exact(phi, penalty)

    def gradient() -> None:
        values.found = kernel.value_and_grad_into(grad, phi, penalty, 1.0)

    def is_gradient() -> bool:
        error = (grad.double() - exact).abs()
        return bool((error <= level).all()) and torch.allclose(values.found.double(), values.exact, rtol=2e-5)

    calls = [Operation("value_and_grad", lambda: grad.fill_(float("nan")), gradient, is_gradient)]
    try:
        with configurations.trial({}):
            expected = kernel.proximal_step(stepped, penalty, _TAU, in_place=True)
    except TrialError:
        return calls
    if expected is None:
        return calls
    target = stepped.double()
    near = 4 * torch.finfo(phi.dtype).eps * target.abs() + 2e-5 * target.abs().amax()

    def step() -> None:
        kernel.proximal_step(stepped, penalty, _TAU, in_place=True)

    def is_step() -> bool:
        return bool(((stepped.double() - target).abs() <= near).all())

    return [*calls, Operation("step_", lambda: stepped.copy_(phi), step, is_step)]


class _Values:
    """μ(X) of every group: the exact one, and that of the last run."""

    def __init__(self, exact: Tensor) -> None:
        self.exact = self.found = exact


def _exact(phi: Phi, penalty: Penalty) -> tuple[_Values, Tensor, Tensor]:
    """Return the loss and its gradient in float64, and the largest error of each entry that rounding explains."""
    wide = phi.double()
    values, grad = REFERENCE.value_and_grad(wide, penalty, 1.0)
    level = 4 * torch.finfo(phi.dtype).eps * grad.abs() + 2e-5 * grad.abs().amax()
    known = epilogues.epilogue(penalty)
    if known is not None and known.exact:
        # Rounding may decide the sign of an entry near 0, which changes the gradient by twice a vector.
        doubt = (REFERENCE.residual(wide).abs() < 1e-5).to(wide.dtype)
        level += 4 * REFERENCE.apply(wide.abs(), doubt)
    return _Values(values), grad, level


class _Timer:
    """Times a call with a cold cache, by events of the device."""

    def __init__(self, device: torch.device) -> None:
        self.other = torch.empty(_FLUSHED, dtype=torch.uint8, device=device)

    def __call__(self, call: Operation) -> float:
        """Return the median of some runs, in milliseconds."""
        times: list[float] = []
        began = time.monotonic()
        while len(times) < 3 or (len(times) < _ROUNDS and time.monotonic() - began < _SECONDS):
            call.prepare()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.other.zero_()
            start.record()
            call.run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return median(times)
