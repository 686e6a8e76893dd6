"""Penalties that are a sum over the entries of X, μ(X) = Σ_jk h(X_jk), and the prox of any such sum by bisection."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.errors import OptionError
from gramian.penalties.base import Penalty
from gramian.typing import Block, Entries

__all__ = ["L1", "Elementwise", "Huber", "SquaredFrobenius", "prox_residual_by_bisection"]

_PROBES = (-9.1, -2.3, -0.71, -0.113, -0.0137, 0.0, 0.0137, 0.113, 0.71, 2.3, 9.1)
_STEP = 1e-6


@dataclass(frozen=True)
class L1(Penalty):
    r"""μ(X) = Σ_jk |X_jk|, G = sign(X), C_τ(X) = clip(X, −τ, τ).

    It makes inner products exactly zero. At X_jk = 0 the absolute value has a kink; the subgradient there is
    sign(0) = 0, the member of the Clarke subdifferential [−1, 1] of least size.

    Args:
        diagonal: Whether lengths are penalised too, or angles only.

    Examples:
        >>> import torch
        >>> from gramian.penalties import L1
        >>> X = torch.tensor([[0.0, 0.5], [0.5, 0.25]])
        >>> L1().value(X).item(), L1().subgradient(X).tolist()
        (1.25, [[0.0, 1.0], [1.0, 1.0]])
    """

    diagonal: bool = True

    elementwise = True

    def value(self, X: Block) -> Float[Tensor, "..."]:
        # Not torch.linalg.vector_norm(X, 1): in float32 on a CPU it adds without cascading and is off by 8 % at 8192².
        return self.penalized(X).abs().sum(dim=(-2, -1))

    def subgradient(self, X: Entries) -> Entries:
        return torch.sign(self.penalized(X))

    def prox_residual(self, X: Entries, tau: Tensor) -> Entries:
        return self.penalized(X).clamp(-tau, tau)


@dataclass(frozen=True)
class Huber(Penalty):
    r"""μ(X) = Σ_jk h_δ(X_jk) with h_δ(x) = x²/2δ for |x| ≤ δ and |x| − δ/2 beyond; G = clip(X/δ, −1, 1).

    It is the Moreau envelope of the absolute value: smooth, and at most δ/2 below it. Its prox residual is
    C_τ(X) = clip(Xτ/(τ + δ), −τ, τ).

    Args:
        delta: Width δ > 0 of the quadratic part, in units of X.
        diagonal: Whether lengths are penalised too, or angles only.

    Raises:
        OptionError: If δ is not a positive finite number.

    Examples:
        >>> import torch
        >>> from gramian.penalties import Huber
        >>> Huber(delta=0.5).value(torch.tensor([[0.0, 0.5], [0.5, 1.0]])).item()
        1.25

    References:
        Huber, "Robust estimation of a location parameter", 1964.
    """

    delta: float = 0.1
    diagonal: bool = True

    elementwise = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise OptionError(f"delta must be a positive finite number; got {self.delta!r}; try delta=0.1")

    def value(self, X: Block) -> Float[Tensor, "..."]:
        # |x|·c − δc²/2 with c = min(|x|/δ, 1) covers both branches without an overflow of x² for large x.
        size = self.penalized(X).abs()
        slope = (size / self.delta).clamp_max(1)
        return (slope * (size - 0.5 * self.delta * slope)).sum(dim=(-2, -1))

    def subgradient(self, X: Entries) -> Entries:
        return (self.penalized(X) / self.delta).clamp(-1, 1)

    def prox_residual(self, X: Entries, tau: Tensor) -> Entries:
        # τ/(τ + δ) in a form that gives 0 at τ = 0 and 1 at τ = ∞.
        slope = 1 / (1 + self.delta / tau)
        return (self.penalized(X) * slope).clamp(-tau, tau)


@dataclass(frozen=True)
class SquaredFrobenius(Penalty):
    r"""μ(X) = ‖X‖²_F, G = 2X, C_τ(X) = 2τX/(1 + 2τ). It has no kink, and makes no entry exactly zero.

    Args:
        diagonal: Whether lengths are penalised too, or angles only.

    Examples:
        >>> import torch
        >>> from gramian.penalties import SquaredFrobenius
        >>> X = torch.tensor([[0.0, 0.5], [0.5, 0.25]])
        >>> SquaredFrobenius().value(X).item()
        0.5625

    References:
        Bansal, Chen and Wang, "Can we gain more from orthogonality regularizations in training deep networks?",
        NeurIPS 2018 ("soft orthogonality"); without lengths, Brock, Donahue and Simonyan, "Large scale GAN training
        for high fidelity natural image synthesis", ICLR 2019.
    """

    diagonal: bool = True

    elementwise = True

    def value(self, X: Block) -> Float[Tensor, "..."]:
        return self.penalized(X).square().sum(dim=(-2, -1))

    def subgradient(self, X: Entries) -> Entries:
        return 2 * self.penalized(X)

    def prox_residual(self, X: Entries, tau: Tensor) -> Entries:
        # 2τ/(1 + 2τ) in a form that gives 0 at τ = 0 and 1 at τ = ∞, and loses no digits for a tiny τ.
        return self.penalized(X) / (1 + 0.5 / tau)


@dataclass(frozen=True, eq=False)
class Elementwise(Penalty):
    r"""μ(X) = Σ_jk h(X_jk) for any convex h with h(0) = 0; G = h'(X), C_τ by bisection.

    Args:
        function: h, applied to each entry of a tensor; differentiable torch operations.
        derivative: h', applied to each entry; at a kink the subgradient of least size.
        diagonal: Whether lengths are penalised too, or angles only.

    Raises:
        OptionError: If h(0) is not 0, h' decreases somewhere or has the sign of −x, or h' is not the derivative of h;
            checked at a few points between −10 and 10.

    Cost:
        The prox evaluates h' about 26 times in float32 and 55 times in float64.

    Examples:
        >>> import torch, gramian
        >>> from gramian.penalties import Elementwise
        >>> def logcosh(x):
        ...     return torch.nn.functional.softplus(2 * x) - x - 0.6931471805599453
        >>> mu = Elementwise(logcosh, torch.tanh)
        >>> gramian.orthogonalize(torch.randn(32, 4, 8), penalty=mu).converged
        True
    """

    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    diagonal: bool = True

    elementwise = True

    def __post_init__(self) -> None:
        x = torch.tensor(_PROBES, dtype=torch.float64, device="cpu")
        h, slope = self.function(x), self.derivative(x)
        if h.shape != x.shape or slope.shape != x.shape:
            raise OptionError(
                f"function and derivative must act entry by entry; got results of shape {list(h.shape)} and "
                f"{list(slope.shape)} for {list(x.shape)}"
            )
        zero = len(_PROBES) // 2
        if h[zero].abs() > 1e-12:
            raise OptionError(f"function must be 0 at 0; got {h[zero].item():.3g}")
        if (slope * x < 0).any() or (slope.diff() < 0).any():
            raise OptionError("function must be convex, with its minimum at 0; got a derivative that decreases")
        quotient = (self.function(x + _STEP) - self.function(x - _STEP)) / (2 * _STEP)
        nonzero = x != 0
        if not torch.allclose(slope[nonzero], quotient[nonzero], rtol=1e-3, atol=1e-6):
            worst = (slope - quotient)[nonzero].abs().argmax()
            raise OptionError(
                f"derivative must be the derivative of function; got {slope[nonzero][worst].item():.3g} at "
                f"{x[nonzero][worst].item():g}, where the difference quotient is {quotient[nonzero][worst].item():.3g}"
            )

    def __repr__(self) -> str:
        function, derivative = (getattr(f, "__name__", type(f).__name__) for f in (self.function, self.derivative))
        return f"Elementwise({function}, {derivative}, diagonal={self.diagonal})"

    def value(self, X: Block) -> Float[Tensor, "..."]:
        return self.function(self.penalized(X)).sum(dim=(-2, -1))

    def subgradient(self, X: Entries) -> Entries:
        return self.penalized(self.derivative(self.penalized(X)))

    def prox_residual(self, X: Entries, tau: Tensor) -> Entries:
        return prox_residual_by_bisection(self.derivative, self.penalized(X), tau)


def prox_residual_by_bisection(subgradient: Callable[[Entries], Entries], X: Entries, tau: Tensor) -> Entries:
    r"""Compute X − Y, where Y + τh'(Y) ∋ X entry by entry, for convex h with their minimum at 0.

    Y lies between 0 and X, and Y + τh'(Y) increases with Y, so that bisection finds each entry to the precision of
    its dtype. Where Y is at a kink, h' jumps past X, and the bisection ends at the kink.

    Args:
        subgradient: h', entry by entry.
        X: Any shape.
        tau: τ ≥ 0, possibly infinite; broadcasts against X.

    Cost:
        One evaluation of `subgradient` for each binary digit of the dtype.
    """
    low, high = torch.zeros_like(X), torch.ones_like(X)  # bounds of Y/X
    eps = torch.finfo(X.dtype).eps
    size = X.abs()
    for _ in range(2 - round(torch.tensor(eps, dtype=torch.float64, device="cpu").log2().item())):
        middle = (low + high) / 2
        slope = subgradient(X * middle).abs()
        # ∞·0 is NaN: where the slope is zero, an infinite τ removes nothing.
        over = size * middle + torch.where(slope > 0, tau * slope, 0) > size
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    # Y/X within rounding of 0 or 1 is exactly 0 or 1.
    ratio = torch.where(low > 1 - 2 * eps, 1, torch.where(high < 2 * eps, 0, (low + high) / 2))
    return X - X * ratio
