"""Block coordinate descent on working sets: work in proportion to the active groups, sample by sample."""

import importlib.util
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from gramian.coding.inference.base import ROUNDING, Inference, check_stop, majorize_minimize
from gramian.coding.inference.fista import fista
from gramian.coding.model import Codes
from gramian.coding.priors import GroupLaplace, Prior
from gramian.coding.synthesis import Samples, Synthesis, as_synthesis
from gramian.coding.synthesis.matrix import Dense
from gramian.errors import OptionError
from gramian.kernels.cpu import threads
from gramian.typing import Phi

__all__ = ["coordinate_descent", "fallback_reason"]

_INSTALLED = importlib.util.find_spec("numba") is not None
_CHUNK = 1 << 20
"""Correlations computed at once, for as many samples: 4 MiB in float32."""
_LARGEST_GRAM = 4096
"""Number of coefficients up to which the Gram matrix of all atoms is formed: 64 MiB in float32."""
_SAMPLES_PER_GRAM = 0.25
"""Samples, for each coefficient, from which forming the Gram matrix of all atoms costs less than it saves."""
_PART = 32
"""Fewest samples that a thread draws at a time."""
_WORK = 32
"""Multiplications for each coefficient of a sample, for the decision how many threads to start."""


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
    r"""Infer the codes of samples with block coordinate descent on working sets.

    Each round has two steps. It adds to the active groups those with the largest ‖Φ_iᵀr‖ > λw_i. It then minimises
    over this working set alone, by sweeps a_i ← prox_λ/L_i(a_i + Φ_iᵀr/L_i) with L_i a bound of the largest eigenvalue
    of Φ_iᵀΦ_i, which are exact for orthonormal groups, and by Newton steps on the nonzero coefficients between them.
    Samples are independent; they are distributed over as many threads as torch has.

    The codes are those of `fista` within the certified gaps. The method is faster if few groups are active; FISTA is
    faster for samples with thousands of nonzero coefficients.

    The loops are written in Numba, an optional dependency: `pip install 'gramian[fast]'`. The first call compiles for
    some seconds; the machine code is cached on disk. If Numba is missing, or samples are not on a CPU, or the synthesis
    is not that of a matrix, `fista` computes the result; `fallback_reason` says so.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.
        lam: Sparsity λ > 0.
        prior: Name or `Prior`.
        max_iter: Maximal number of rounds; 0 certifies the initial codes.
        tol: A sample is done when its duality gap is at most this fraction of its energy. 0 runs all rounds, and None
            runs all rounds without a certificate.
        start: Initial codes; default 0.

    Returns:
        The codes, the largest number of rounds of a sample, and the certified gap. The codes of samples that are not
        finite are NaN.

    Raises:
        ShapeError: If `x` or `start` does not fit the dictionary.
        OptionError: If λ is not positive, or `max_iter` or `tol` is negative or not a number, or atoms are not finite.

    Cost:
        For k nonzero coefficients, m·n·(l + k) flops of products for a round of a sample, and k² for a sweep. Memory
        for the codes, (m·n)² numbers for the Gram matrix of at most 4096 atoms, 4 MiB of correlations, and a few times
        k² for each thread.

    Examples:
        >>> import torch, gramian
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4)).phi
        >>> result = coordinate_descent(torch.randn(10, 32), phi, lam=1.0)
        >>> result.codes.shape, result.converged
        (torch.Size([10, 8, 4]), True)

    References:
        Friedman, Hastie and Tibshirani, "Regularization paths for generalized linear models via coordinate descent",
        2010; Massias, Gramfort and Salmon, "Celer: a fast solver for the lasso with dual extrapolation", 2018.
    """
    synthesis = as_synthesis(phi)
    if not isinstance(synthesis, Dense) or fallback_reason(x, synthesis) is not None:
        return fista(x, synthesis, lam=lam, prior=prior, max_iter=max_iter, tol=tol, start=start)
    check_stop(max_iter, tol)
    with torch.no_grad():
        synthesis.zeros(x)
        problem = _Problem(x, synthesis)
        zeros = start is None

        def solve(prior: GroupLaplace, start: Codes) -> Inference:
            nonlocal zeros
            # Codes of an earlier round, and zeros, belong to this call and are overwritten.
            codes = start if zeros else start.clone(memory_format=torch.contiguous_format)
            result = problem.solve(codes, prior, lam=lam, max_iter=max_iter, tol=tol, zeros=zeros)
            zeros = False
            return result

        return majorize_minimize(solve, x, synthesis, lam=lam, prior=prior, start=start)


def fallback_reason(x: Samples, phi: Phi | Synthesis) -> str | None:
    """Say why `coordinate_descent` calls `fista` for these samples; None if it does not.

    Examples:
        >>> import torch
        >>> fallback_reason(torch.ones(1, 4, dtype=torch.float16), torch.eye(4, dtype=torch.float16)[:, None])
        'samples must be float32 or float64; got torch.float16'
    """
    synthesis = as_synthesis(phi)
    if type(synthesis) is not Dense:
        return f"the synthesis must be that of a matrix; got {type(synthesis).__name__}"
    D, reason = synthesis.D, None
    if x.device.type != "cpu" or D.device.type != "cpu":
        reason = f"samples and atoms must be on a CPU; got {x.device} and {D.device}"
    elif x.dtype not in {torch.float32, torch.float64}:
        reason = f"samples must be float32 or float64; got {x.dtype}"
    elif x.dtype != D.dtype:
        reason = f"samples and atoms must have the same dtype; got {x.dtype} and {D.dtype}"
    elif D.numel() == 0:
        reason = "there are no atoms"
    elif not _INSTALLED:
        reason = "Numba is not installed; try pip install 'gramian[fast]'"
    return reason


class _Problem:
    """Samples and atoms, as the loops need them."""

    def __init__(self, x: Samples, synthesis: Dense) -> None:
        self.x = x.detach().contiguous()
        self.D = synthesis.D.detach()
        self.atoms = self.D.mT.contiguous()
        self.groups = synthesis.groups
        self.unit = ROUNDING * synthesis.roundoff(x)
        self.longest = synthesis.longest(x)
        if not self.longest**2 < torch.finfo(x.dtype).max:
            raise OptionError(
                "atoms must be finite, and so must their products; got NaN, infinity, or numbers too large"
            )
        blocks = self.atoms.unflatten(0, self.groups)
        # The largest sum of a row bounds the largest eigenvalue; for orthonormal groups both are 1.
        inverse = 1 / (blocks @ blocks.mT).abs().sum(dim=2).amax(dim=1)
        self.rates = torch.where(inverse.isfinite(), inverse, 0)
        p = len(self.atoms)
        worthwhile = p <= _LARGEST_GRAM and len(x) >= _SAMPLES_PER_GRAM * p
        self.gram = synthesis.gram.detach() if worthwhile else self.D.new_empty((0, 0))

    def solve(
        self, codes: Codes, prior: GroupLaplace, *, lam: float, max_iter: int, tol: float | None, zeros: bool
    ) -> Inference:
        """Overwrite the codes by better ones, and certify them."""
        from gramian.coding.inference import descent_loops as loops

        x, p = self.x, len(self.atoms)
        if max_iter > 0 and not zeros:
            codes[:, self.rates == 0] = 0  # groups of zeros have no part in the reconstruction
        flat = codes.view(len(x), p)
        weights = x.new_ones(self.groups[0]) if prior.weights is None else prior.weights.detach().to(x)
        thresholds = (lam * weights).view(-1, self.groups[0])
        results = torch.zeros((len(x), 4), dtype=torch.float64, device="cpu")

        def run(correlations: Tensor, residuals: Tensor, todo: Tensor, gram: Tensor) -> None:
            problem = loops.Problem(
                x.numpy(), self.atoms.numpy(), gram.numpy(), thresholds.numpy(), self.rates.numpy(), self.groups[1],
                prior.nonnegative, tol or 0.0, max_iter, self.longest, self.unit,
            )  # fmt: skip
            arrays: list[Any] = [tensor.numpy() for tensor in (correlations, flat, residuals, results, todo)]
            cold = zeros and len(gram) > 0
            # Samples differ in their work, so threads draw parts of them one after the other.
            size = max(_PART, len(todo) // (8 * torch.get_num_threads()))
            firsts = itertools.count(0, size)

            def loop(*_: int) -> None:
                while (start := next(firsts)) < len(todo):
                    loops.descend(problem, *arrays, cold, start, min(start + size, len(todo)))

            threads.run_blocks(loop, -(-len(todo) // size), len(todo) * p * _WORK)

        step = max(1, _CHUNK // p)
        for first in range(0, len(x), step):
            part = x[first : first + step]
            todo = torch.arange(first, first + len(part), device="cpu")
            if len(self.gram) and max_iter > 0:
                residuals = torch.empty_like(part)
                run(part @ self.D, residuals, todo, self.gram)
            else:
                residuals = part if zeros else part - flat[first : first + step] @ self.atoms
            # Rounds with correlations of the residuals themselves, for samples that are not done.
            while True:
                remaining = results[todo, 3] == 0
                todo, residuals = todo[remaining], residuals[remaining]
                if len(todo) == 0:
                    break
                run(residuals @ self.D, residuals, todo, self.gram[:0, :0])
        if tol is None:
            return Inference(codes, max_iter, x.new_full((len(x),), math.inf), converged=False)
        rounds = int(results[:, 2].max()) if len(x) else 0
        return Inference(codes, rounds, results[:, 0].to(x), converged=bool((results[:, 3] == loops.DONE).all()))
