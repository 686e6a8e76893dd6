"""Block coordinate descent on working sets: exact codes of few active groups, sample by sample."""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from gramian.coding.inference.base import Inference, check_stop, majorize_minimize
from gramian.coding.inference.fista import fista
from gramian.coding.model import Codes
from gramian.coding.priors import GroupLaplace, Prior
from gramian.coding.synthesis import Samples, Synthesis, as_synthesis
from gramian.coding.synthesis.matrix import Dense
from gramian.errors import OptionError
from gramian.kernels.cpu import threads
from gramian.typing import Phi

__all__ = ["coordinate_descent", "unsupported_reason"]

_INSTALLED = importlib.util.find_spec("numba") is not None
_ENTRIES = 1 << 20
_ROUNDING = 4.0


def coordinate_descent(
    x: Samples,
    phi: Phi | Synthesis,
    *,
    lam: float,
    prior: str | Prior = "group_laplace",
    max_iter: int = 500,
    tol: float | None = 1e-4,
    start: Codes | None = None,
) -> Inference:
    synthesis = as_synthesis(phi)
    if not isinstance(synthesis, Dense) or unsupported_reason(x, synthesis) is not None:
        return fista(x, synthesis, lam=lam, prior=prior, max_iter=max_iter, tol=tol, start=start)
    check_stop(max_iter, tol)
    with torch.no_grad():
        synthesis.zeros(x)
        problem = _Problem(x, synthesis)
        cold = start is None

        def solve(prior: GroupLaplace, start: Codes) -> Inference:
            nonlocal cold
            result = problem.solve(prior, start, lam=lam, max_iter=max_iter, tol=tol, cold=cold)
            cold = False
            return result

        return majorize_minimize(solve, x, synthesis, lam=lam, prior=prior, start=start)


def unsupported_reason(x: Samples, synthesis: Synthesis) -> str | None:
    if not isinstance(synthesis, Dense):
        return "atoms are not as long as samples"
    if x.device.type != "cpu":
        return f"samples are on {x.device}"
    if not _INSTALLED:
        return "Numba is not installed"
    if x.dtype not in {torch.float32, torch.float64}:
        return f"x.dtype"
    return None


class _Problem:
    def __init__(self, x: Samples, synthesis: Dense) -> None:
        self.x = x.detach().contiguous()
        self.synthesis = synthesis
        self.D = synthesis.D
        self.atoms = synthesis.D.mT.contiguous()
        self.longest = synthesis.longest(x)
        if not self.longest < torch.inf:
            raise OptionError("atoms must be finite, and so must their products; got NaN, infinity, or numbers too large")
        blocks = self.atoms.unflatten(0, synthesis.groups)
        self.curvature = (blocks @ blocks.mT).abs().sum(dim=2).amax(dim=1)
        self.gram = synthesis.gram

    def solve(self, prior: GroupLaplace, start: Codes, *, lam: float, max_iter: int, tol: float | None, cold: bool) -> Inference:
        from gramian.coding.inference.descent_loops import descend

        x, D = self.x, self.D
        m, n = self.synthesis.groups
        p = m * n
        codes = start.view(len(x), p) if cold else start.reshape(len(x), p).clone()
        weights = x.new_ones(1, m) if prior.weights is None else prior.weights.to(x).reshape(-1, m)
        thresholds = lam * weights
        results = torch.zeros(len(x), 4, dtype=torch.float64)
        step = max(64, _ENTRIES // p)
        unit = _ROUNDING * torch.finfo(x.dtype).eps
        for first in range(0, len(x), step):
            todo = torch.arange(first, min(first + step, len(x)))
            exact = max_iter == 0
            if exact:
                r = x[todo] - codes[todo] @ D.mT
            else:
                r = torch.empty_like(x[todo])
            while len(todo):
                q = r @ D if exact else x[todo] @ D
                arrays = (x, q, codes, self.atoms, x.new_empty(0, 0) if exact else self.gram, thresholds, self.curvature, r, results, todo)
                numpy: Any = tuple(a.numpy() for a in arrays)
                threads.run_blocks(
                    lambda a, b: descend(*numpy, n, prior.nonnegative, tol or 0.0, max_iter, self.longest, unit, cold and not exact, a, b),
                    len(todo), len(todo) * p * 32,
                )
                rest = results[todo, 3] == 0
                todo, r = todo[rest], r[rest]
                exact = True
        gap = results[:, 0].to(x.dtype)
        it = int(results[:, 2].max()) if len(x) else max_iter
        self.results = results
        if tol is None:
            return Inference(codes.view(start.shape), max_iter, torch.full_like(gap, torch.inf), converged=False)
        return Inference(codes.view(start.shape), it, gap, converged=bool((results[:, 3] == 1).all()))
