"""The step of the proximal rule as an operator of torch, which torch.compile sees as one node of a graph.

It writes to Φ, so that a compiled step of an optimiser needs no second tensor of its size. The learning rate is a
number, or a tensor, which is not read while the graph is compiled, nor by the host where Φ is on a device.
"""

from typing import Any

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.gpu.operators import epilogue_of, penalty_of
from gramian.penalties import Penalty
from gramian.typing import LearningRate, Phi, Scalar

__all__ = ["traced_change", "traced_step_"]

_NUMBERS = "Tensor? lr, float rate, float beta, int penalty, float parameter"


@torch.library.custom_op(
    "gramian::proximal_step_", mutates_args=("phi",), schema=f"(Tensor(a!) phi, {_NUMBERS}) -> Tensor"
)
def _step(phi: Any, lr: Any, rate: Any, beta: Any, penalty: Any, parameter: Any) -> Any:  # noqa: PLR0917
    from gramian.rules.prox import proximal_

    return proximal_(phi, lr=_rate(lr, rate), beta=beta, penalty=penalty_of(penalty, parameter))


@_step.register_fake
def _(phi: Any, *_numbers: Any) -> Any:
    return phi.new_empty((), dtype=reference.compute_dtype(phi.dtype))


@torch.library.custom_op(
    "gramian::proximal_change", mutates_args=(), schema=f"(Tensor phi, {_NUMBERS}) -> (Tensor, Tensor)"
)
def _change(phi: Any, lr: Any, rate: Any, beta: Any, penalty: Any, parameter: Any) -> Any:  # noqa: PLR0917
    from gramian.rules.prox import proximal

    step = proximal(phi, lr=_rate(lr, rate), beta=beta, penalty=penalty_of(penalty, parameter))
    change = torch.empty_like(phi)  # of the strides that the compiler expects
    return (step.change if step.change.stride() == change.stride() else change.copy_(step.change)), step.loss


@_change.register_fake
def _(phi: Any, *_numbers: Any) -> Any:
    return torch.empty_like(phi), phi.new_empty((), dtype=reference.compute_dtype(phi.dtype))


def traced_step_(phi: Phi, *, lr: LearningRate, beta: float, penalty: Penalty) -> Scalar:
    """Make the step of `gramian.rules.prox.proximal_`, while torch.compile traces."""
    return torch.ops.gramian.proximal_step_(phi, *_numbers_of(lr, beta, penalty))


def traced_change(phi: Phi, *, lr: LearningRate, beta: float, penalty: Penalty) -> tuple[Phi, Scalar]:
    """Compute the change and the loss of `gramian.rules.prox.proximal`, while torch.compile traces."""
    return torch.ops.gramian.proximal_change(phi, *_numbers_of(lr, beta, penalty))


def _numbers_of(lr: LearningRate, beta: float, penalty: Penalty) -> tuple[Any, ...]:
    known = epilogue_of(penalty)
    rates = (lr, 0.0) if isinstance(lr, Tensor) else (None, lr)
    return (*rates, beta, known.kind, known.parameter)


def _rate(lr: Tensor | None, rate: float) -> LearningRate:
    """Return the learning rate: a number on a CPU."""
    if lr is None:
        return rate
    return float(lr) if lr.device.type == "cpu" else lr
