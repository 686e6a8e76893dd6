r"""The fused kernel, for small and medium groups on a GPU: one launch computes the loss and its gradient.

A program processes as many adjacent groups as fill sixteen columns, or one group of up to 64 vectors. It forms X in
registers, computes G from it there, and reads the vectors a second time for P·G. X is never written to memory.

The products of 16-bit numbers are exact in float32, in which they are summed. float32 is multiplied as three tf32
products, which keeps its precision: with one tf32 product the sign of every X_jk below 1e-3 would be random.
"""

from typing import Any

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import KernelSpec
from gramian.kernels.gpu import epilogues
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi

__all__ = ["Fused"]

_MOST = 64
_ROWS = 64


class Fused(Reference):
    """Gram product, penalty and product with G in one launch."""

    name = "fused"

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        reason = epilogues.unsupported_reason(problem.device)
        if reason is not None:
            return reason
        if not 1 <= problem.shape[2] <= _MOST:
            return f"it is for n from 1 to {_MOST}; n is {problem.shape[2]}"
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:
        return epilogues.slower_reason(problem.device, problem.dtype)

    def residual(self, phi: Phi) -> GroupMatrices:
        _, m, n = phi.shape
        X = phi.new_empty(m, n, n, dtype=reference.compute_dtype(phi.dtype))
        _launch("fused_gram", phi, phi, X)
        return X

    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        out = torch.empty(phi.shape, dtype=M.dtype, device=phi.device)
        _launch("fused_apply", phi, phi, M.contiguous(), out, out=out, ADD=False)
        return out

    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        _launch("fused_apply", phi, phi, M.contiguous(), phi, out=phi, ADD=True)
        torch.autograd.graph.increment_version(phi)

    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return super().value_and_grad(phi, penalty, beta)
        _, m, n = phi.shape
        grad = torch.empty(phi.shape, dtype=phi.dtype, device=phi.device)
        values = phi.new_empty(m, n, dtype=reference.compute_dtype(phi.dtype))
        _launch(
            "fused_gradient", phi, phi, grad, values, out=grad, numbers=(2 * beta, epilogue.parameter),
            PENALTY=epilogue.kind, EXACT=epilogue.exact or phi.dtype == values.dtype,
        )  # fmt: skip
        return beta * values.sum(dim=1), grad


def _launch(
    name: str, phi: Phi, *tensors: Tensor, out: Tensor | None = None, numbers: tuple[float, ...] = (), **options: Any
) -> None:
    length, m, n = phi.shape
    if m == 0:
        return
    fold = max(1, 16 // n)
    strides = phi.stride() + (() if out is None else out.stride())
    epilogues.launch(
        name, (-(-m // fold),), *tensors, length, m, *strides, *numbers,
        N=n, FOLD=fold, COLUMNS=max(16, 1 << (fold * n - 1).bit_length()), ROWS=_ROWS,
        **epilogues.precision(phi.dtype if name != "fused_apply" else reference.compute_dtype(phi.dtype)), **options,
    )  # fmt: skip
