r"""The loss and its gradient as operators of torch, which torch.compile and torch.export see as one node of a graph.

A compiler cannot look into a kernel: it has no operations of torch. So each operator has a fake implementation, which
says what shapes it returns, a derivative, and a rule for vmap, by which a batch of tensors is one tensor with more
groups. At each run of the graph an operator chooses the kernel as any other call does, for the tensor that it gets.

An operator gets numbers instead of a penalty: it exists for those that device code computes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.gpu.epilogues import Epilogue, epilogue
from gramian.kernels.reference import REFERENCE, Reference
from gramian.penalties import L1, Huber, Penalty, SquaredFrobenius
from gramian.typing import GroupScalars, Phi

__all__ = ["OPERATORS", "Operators", "epilogue_of", "is_traceable", "penalty_of"]

_DEVICES = ("cuda",)
"""Devices whose kernels a compiler sees; on a CPU it compiles the operations of the reference kernel."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_traceable(phi: Tensor, penalty: Penalty) -> bool:
    """Tell whether there are operators for a tensor that is traced; it adds no condition on its sizes to the graph."""
    return phi.device.type in _DEVICES and phi.dtype in _DTYPES and epilogue(penalty) is not None


def penalty_of(kind: int, parameter: float) -> Penalty:
    """Return the penalty of an epilogue."""
    if kind == 1:
        return Huber(parameter)
    return L1() if kind == 0 else SquaredFrobenius()


@torch.library.custom_op(
    "gramian::value", mutates_args=(), schema="(Tensor phi, int penalty, float parameter) -> Tensor"
)
def _value(phi: Any, penalty: Any, parameter: Any) -> Any:
    from gramian.kernels.dispatch import choose

    mu = penalty_of(penalty, parameter)
    return choose(phi, mu).value(phi, mu)


@_value.register_fake
def _(phi: Any, penalty: Any, parameter: Any) -> Any:  # noqa: ARG001
    return phi.new_empty(phi.shape[1], dtype=reference.compute_dtype(phi.dtype))


@torch.library.custom_op(
    "gramian::value_and_grad",
    mutates_args=(),
    schema="(Tensor phi, int penalty, float parameter, float beta, bool wide) -> (Tensor, Tensor)",
)
def _value_and_grad(phi: Any, penalty: Any, parameter: Any, beta: Any, wide: Any) -> Any:
    from gramian.kernels.dispatch import choose

    mu = penalty_of(penalty, parameter)
    kernel = choose(phi, mu)
    dtype = reference.compute_dtype(phi.dtype) if wide else phi.dtype
    grad = torch.empty_like(phi, dtype=dtype)  # of the strides that the compiler expects
    if dtype == phi.dtype or kernel.widens:
        return kernel.value_and_grad_into(grad, phi, mu, beta), grad
    phi = phi.to(dtype)
    return choose(phi, mu).value_and_grad_into(grad, phi, mu, beta), grad


@_value_and_grad.register_fake
def _(phi: Any, penalty: Any, parameter: Any, beta: Any, wide: Any) -> Any:  # noqa: ARG001
    dtype = reference.compute_dtype(phi.dtype)
    return phi.new_empty(phi.shape[1], dtype=dtype), torch.empty_like(phi, dtype=dtype if wide else phi.dtype)


class _Arguments(NamedTuple):
    penalty: int
    parameter: float
    beta: float = 1.0


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], *(output[1:] if isinstance(output, tuple) else ()))
    ctx.arguments = _Arguments(*inputs[1:4])


def _value_backward(ctx: Any, cotangent: Tensor | None) -> tuple[Any, ...]:
    if cotangent is None:
        return None, None, None
    (phi,) = ctx.saved_tensors
    _, grad = torch.ops.gramian.value_and_grad(phi, *ctx.arguments, True)
    return (grad * cotangent[:, None]).to(phi.dtype), None, None


def _value_and_grad_backward(ctx: Any, value: Tensor | None, grad: Tensor | None) -> tuple[Any, ...]:
    phi, gradient = ctx.saved_tensors
    result = None if value is None else (value[:, None] * gradient).to(phi.dtype)
    if grad is not None:
        kind, parameter, beta = ctx.arguments
        wide = phi.to(reference.compute_dtype(phi.dtype))

        def again(phi: Tensor) -> Tensor:
            return REFERENCE.value_and_grad(phi, penalty_of(kind, parameter), beta)[1]

        # The Hessian is symmetric, so its product with V is the vector-Jacobian product of the gradient.
        second = torch.func.vjp(again, wide)[1](grad.to(wide.dtype))[0].to(phi.dtype)
        result = second if result is None else result + second
    return result, None, None, None, None


_value.register_autograd(_value_backward, setup_context=_keep)
_value_and_grad.register_autograd(_value_and_grad_backward, setup_context=_keep)


def _as_groups(info: Any, in_dims: tuple[Any, ...], phi: Tensor) -> Tensor:
    """Move the axis of a batch beside the groups: [l, batch, m, n]."""
    return phi.movedim(in_dims[0], 1) if in_dims[0] is not None else phi[:, None].expand(-1, info.batch_size, -1, -1)


@_value.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], phi: Any, *numbers: Any) -> Any:
    batch = _as_groups(info, in_dims, phi)
    values = torch.ops.gramian.value(batch.flatten(1, 2), *numbers)
    return values.reshape(batch.shape[1:3]), 0


@_value_and_grad.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], phi: Any, *numbers: Any) -> Any:
    batch = _as_groups(info, in_dims, phi)
    values, grad = torch.ops.gramian.value_and_grad(batch.flatten(1, 2), *numbers)
    return (values.reshape(batch.shape[1:3]), grad.reshape(batch.shape)), (0, 1)


class Operators(Reference):
    """The operators as a kernel, for tensors that are traced; all else is the reference kernel."""

    name = "operators"

    widens = True

    def value(self, phi: Phi, penalty: Penalty) -> GroupScalars:
        known = epilogue_of(penalty)
        return torch.ops.gramian.value(phi, known.kind, known.parameter)

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        known = epilogue_of(penalty)
        return torch.ops.gramian.value_and_grad(phi, known.kind, known.parameter, beta, False)

    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        known = epilogue_of(penalty)
        wide = out.dtype != phi.dtype
        values, grad = torch.ops.gramian.value_and_grad(phi, known.kind, known.parameter, beta, wide)
        out.copy_(grad)
        return values


def epilogue_of(penalty: Penalty) -> Epilogue:
    """Return the epilogue of a penalty for which `is_traceable` is true."""
    known = epilogue(penalty)
    if known is None:
        raise TypeError("operators need a penalty for which is_traceable is true")
    return known


OPERATORS = Operators()
"""The kernel for tensors that are traced, which has no state."""
