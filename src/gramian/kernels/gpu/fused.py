r"""The fused kernel, for groups of up to 64 vectors on a GPU: one launch computes the loss and its gradient, or a step.

A program processes as many adjacent groups as fill sixteen columns, or one group of up to 64 vectors. It forms X in
registers, computes its factor of P there, and reads the vectors a second time to multiply them. X is never written to
memory. If there are too few groups to keep the device busy, and for a step of more than 32 vectors, there are three
launches, which share the rows among programs: partial Gram matrices, one program a group for the factors, and the
products.

The products of 16-bit numbers are exact in float32, in which they are summed. float32 is multiplied as three tf32
products, which keeps its precision: with one tf32 product the sign of every X_jk below 1e-3 would be random.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian.kernels import reference
from gramian.kernels.base import FusedStep, KernelSpec
from gramian.kernels.gpu import epilogues, launching
from gramian.kernels.gpu.configurations import Configuration, configuration, shape_class
from gramian.kernels.gpu.launching import or_reference
from gramian.kernels.reference import Reference
from gramian.penalties import Penalty
from gramian.typing import GroupMatrices, GroupScalars, Phi, Scalar

__all__ = ["Fused", "Update"]

_MOST = 64
_SHORTEST_SPLIT = 256
"""Smallest number of rows for which starting a program pays off."""

_MOST_SPLITS = 64
"""Number of Gram matrices that one program sums."""


class Update(NamedTuple):
    """The operation of a launch: scale·PG, or for a step −PS or P − PS, and the penalty."""

    epilogue: epilogues.Epilogue
    scale: float
    step: bool = False
    add: bool = False
    rate: Tensor | None = None
    """A factor of the scale, on the device."""

    @property
    def numbers(self) -> tuple[float, float]:
        """The arguments of the device code."""
        return self.scale, self.epilogue.parameter


class Fused(Reference):
    """Gram product, penalty and product with its factor in one launch."""

    name = "fused"

    widens = True

    def unsupported_reason(self, problem: KernelSpec) -> str | None:
        reason = epilogues.unsupported_reason(problem.device)
        if reason is not None:
            return reason
        if not 1 <= problem.shape[2] <= _MOST:
            return f"it is for n from 1 to {_MOST}; n is {problem.shape[2]}"
        return None

    def slower_reason(self, problem: KernelSpec) -> str | None:
        return epilogues.slower_reason(problem.device, problem.dtype)

    @or_reference
    def residual(self, phi: Phi) -> GroupMatrices:
        _, m, n = phi.shape
        splits = _splits(phi)
        X = phi.new_empty(*((splits,) if splits > 1 else ()), m, n, n, dtype=reference.compute_dtype(phi.dtype))
        _gram(phi, X, splits, partial=splits > 1)
        if splits == 1:
            return X
        gram = X.sum(dim=0)
        gram = 0.5 * gram + 0.5 * gram.mT
        gram.diagonal(dim1=1, dim2=2).sub_(1)
        return gram

    @or_reference
    def apply(self, phi: Phi, M: GroupMatrices) -> Phi:
        out = torch.empty_like(phi, dtype=M.dtype)
        _apply(phi, M.contiguous(), out, add=False)
        return out

    @or_reference
    def add_apply_(self, phi: Phi, M: GroupMatrices) -> None:
        _apply(phi, M.contiguous(), phi, add=True)
        torch.autograd.graph.increment_version(phi)

    @or_reference
    def value_and_grad(self, phi: Phi, penalty: Penalty, beta: float) -> tuple[GroupScalars, Phi]:
        if epilogues.epilogue(penalty) is None:
            return super().value_and_grad(phi, penalty, beta)
        grad = torch.empty_like(phi)
        return self.value_and_grad_into(grad, phi, penalty, beta), grad

    @or_reference
    def value_and_grad_into(self, out: Phi, phi: Phi, penalty: Penalty, beta: float) -> GroupScalars:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return super().value_and_grad_into(out, phi, penalty, beta)
        values, _ = self._update(phi, out, Update(epilogue, 2 * beta))
        return values if beta == 1 else beta * values

    @or_reference
    def proximal_step(
        self, phi: Phi, penalty: Penalty, tau: float, *, in_place: bool, rate: Scalar | None = None
    ) -> FusedStep | None:
        epilogue = epilogues.epilogue(penalty)
        if epilogue is None:
            return None
        out = phi if in_place else torch.empty_like(phi)
        values, total = self._update(phi, out, Update(epilogue, tau, step=True, add=in_place, rate=rate))
        if in_place:
            torch.autograd.graph.increment_version(phi)
        return FusedStep(values, out, [], total)

    def _update(self, phi: Phi, out: Phi, update: Update) -> tuple[GroupScalars, Scalar | None]:
        """Write an update to `out` and return μ(X), and the sum over the groups where a launch computes it too."""
        _, m, n = phi.shape
        values = phi.new_empty(m, dtype=reference.compute_dtype(phi.dtype))
        options = {"PENALTY": update.epilogue.kind, "STEP": update.step, "RATE": update.rate is not None}
        rate = values if update.rate is None else update.rate
        splits = _splits(phi)
        # From n = 33 on, the norms of a step and its products in one program would spill registers in float32, and in
        # 16 bits Triton 3.7 cannot compile them for sm_100.
        together = not (update.step and n > _MOST // 2)
        if splits == 1 and together:
            _launch(
                "fused_update", (1,), phi, phi, out, values, rate, strides=out.stride(), numbers=update.numbers,
                EXACT=not update.step and update.epilogue.exact, ADD=update.add, **options,
                **launching.precision(phi.dtype),
            )  # fmt: skip
            return values, None
        grams = values.new_empty(splits, m, n, n)
        M = values.new_empty(m, n, n)
        _gram(phi, grams, splits, partial=True)
        _launch(
            "fused_factor", (1,), phi, phi, grams, M, values, rate, numbers=(splits, *update.numbers),
            **options, **launching.sums(phi.dtype),
        )  # fmt: skip
        total = values.new_empty(()) if update.step and m > 0 else None
        _apply(phi, M, out, add=update.add, values=values, total=total)
        return values, total


def _splits(phi: Phi) -> int:
    """Return the number of programs that share the rows of a group."""
    length, m, n = phi.shape
    programs = max(1, -(-m // max(1, 16 // n)))
    most = min(_MOST_SPLITS, length // _SHORTEST_SPLIT, 2 * launching.processors(phi.device) // programs)
    return max(1, most) if most > 3 else 1  # two more launches must be worth it


def _gram(phi: Phi, X: Tensor, splits: int, *, partial: bool) -> None:
    span = -(-phi.shape[0] // splits)
    options = launching.precision(phi.dtype)
    _launch("fused_gram", (splits,), phi, phi, X, numbers=(span,), SPLIT=partial, **options)


def _apply(
    phi: Phi,
    M: GroupMatrices,
    out: Phi,
    *,
    add: bool,
    values: GroupScalars | None = None,
    total: Scalar | None = None,
) -> None:
    """Write PM, or P + PM, to `out`, and the sum of the values to `total`."""
    splits = _splits(phi)
    options = launching.precision(M.dtype)
    del options["NARROW"]
    numbers = (-(-phi.shape[0] // splits),)
    _launch(
        "fused_apply", (splits,), phi, phi, M, out, M if values is None else values, M if total is None else total,
        strides=out.stride(), numbers=numbers, ADD=add, TOTAL=total is not None, **options,
    )  # fmt: skip


def _launch(
    name: str,
    programs: tuple[int, ...],
    phi: Phi,
    *tensors: Tensor,
    strides: tuple[int, ...] = (),
    numbers: tuple[float, ...] = (),
    **options: Any,
) -> None:
    length, m, n = phi.shape
    if m == 0:
        return
    fold = max(1, 16 // n)
    columns = max(16, 1 << (fold * n - 1).bit_length())
    step = options.get("STEP", False)
    key = f"{name} {shape_class(phi)} {options.get('PENALTY', '')}, {'step' if step else 'product'}"
    chosen = configuration(key, phi.device, lambda: _candidates(name, columns, phi.dtype, step=step))
    if name == "fused_factor":
        options |= launching.registers(255)
    launching.launch(
        name, (-(-m // fold), *programs), *tensors, length, m, *phi.stride(), *strides, *numbers,
        N=n, FOLD=fold, COLUMNS=columns, **chosen, **options,
    )  # fmt: skip


def _candidates(name: str, columns: int, dtype: torch.dtype, *, step: bool) -> list[Configuration]:
    """Return the rows at a time and the warps of a program, the default first, which spills no registers."""
    few, many = columns // 16, columns // 8
    if name == "fused_factor":
        choices = ((64, many),)
    elif columns < _MOST:
        choices = ((64, few), (32, few), (64, many))
        if dtype != torch.float32:
            choices += ((32, many),) if step else ((32, many), (128, few), (128, many))
    elif name == "fused_apply":
        choices = ((64, few), (32, few), (32, many), (128, many))
    elif dtype == torch.float32:
        choices = ((32, many), (16, many))
    else:
        choices = ((64, few), (32, few), (32, many), (64, many), (128, many))
    return [{"ROWS": rows, "num_warps": warps} for rows, warps in choices]
