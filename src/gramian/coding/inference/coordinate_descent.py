"""Block coordinate descent on working sets, whose cost grows with the number of active groups of each sample."""

import importlib.util
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

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
_LARGEST_GRAM = 4096
"""Number of coefficients up to which the Gram matrix of all atoms is formed: 64 MiB in float32."""
_SAMPLES_PER_GRAM = 0.125
"""Samples for each coefficient above which forming the Gram matrix of all atoms saves more than it costs."""
_WORK = 32
"""Assumed multiplications for each coefficient of a sample; they determine the number of threads."""


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

    The loops are written in Numba, an optional dependency: `pip install 'gramian[fast]'`. The first call takes some
    seconds to compile; the machine code is cached on disk. If Numba is missing, or samples are not on a CPU, or the
    synthesis is not that of a matrix, `fista` computes the result; `fallback_reason` says so.

    Args:
        x: Samples [batch, l].
        phi: Dictionary Φ[l, m, n] or a `Synthesis`.
        lam: Sparsity λ > 0.
        prior: Name or `Prior`.
        max_iter: Maximal number of rounds; 0 certifies the initial codes.
        tol: A sample is done when its duality gap is at most this fraction of its energy. 0 runs all rounds, and None
            runs all rounds without a certificate.
        start: Initial codes; by default 0.

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
        >>> phi = gramian.orthogonalize(torch.randn(32, 8, 4).double()).phi
        >>> result = coordinate_descent(torch.randn(10, 32).double(), phi, lam=1.0)
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
        if x.ndim != 2 or x.shape[1] != len(synthesis.D):
            synthesis.zeros(x)  # says what is wrong
        solver = _Solver(synthesis, len(x), ROUNDING * synthesis.roundoff(x))
        samples, zeros = x.detach().contiguous(), start is None

        def solve(prior: GroupLaplace, start: Codes) -> Inference:
            nonlocal zeros
            # The zeros belong to this call and are overwritten.
            codes = start if zeros else start.clone(memory_format=torch.contiguous_format)
            result = solver.solve(samples, codes, prior, lam=lam, max_iter=max_iter, tol=tol, zeros=zeros)
            zeros = False
            return result

        return majorize_minimize(solve, x, synthesis, lam=lam, prior=prior, start=start, zeros=_zeros(x, synthesis))


def fallback_reason(x: Samples, phi: Phi | Synthesis) -> str | None:
    """Return why `coordinate_descent` calls `fista` for these samples; None if it does not.

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


def _zeros(x: Samples, synthesis: Dense) -> Codes:
    """Return zeros that need no memory until they are written; most are never written."""
    import numpy as np

    return torch.from_numpy(np.zeros((len(x), *synthesis.groups), synthesis.D.numpy(force=True).dtype))


class _Solver:
    """The arrays of a dictionary for the loops."""

    def __init__(self, synthesis: Dense, batch: int, unit: float) -> None:
        import numpy as np

        from gramian.coding.inference.loops import descent, vectors

        self.loops: Any = descent
        self.vectors: Any = vectors
        self.groups, self.unit = tuple(synthesis.groups), unit
        m, n = self.groups
        self.D = np.ascontiguousarray(synthesis.D.detach().numpy())
        self.atoms = np.ascontiguousarray(self.D.T)
        squares = np.einsum("al,al->a", self.atoms, self.atoms)
        self.longest = float(np.sqrt(squares.max()))
        if not self.longest**2 < np.finfo(self.D.dtype).max:
            raise OptionError(
                "atoms must be finite, and so must their products; got NaN, infinity, or numbers too large"
            )
        # The largest sum of a row bounds the largest eigenvalue; for orthonormal groups both are 1.
        blocks = self.atoms.reshape(m, n, -1)
        bounds = squares if n == 1 else np.abs(blocks @ blocks.transpose(0, 2, 1)).sum(axis=2).max(axis=1)
        with np.errstate(divide="ignore", over="ignore"):
            self.rates = np.where(np.isfinite(1 / bounds), 1 / bounds, 0).astype(self.D.dtype)
        p = m * n
        worthwhile = p <= _LARGEST_GRAM and batch >= _SAMPLES_PER_GRAM * p
        self.gram = np.empty((p, p) if worthwhile else (0, 0), self.D.dtype)
        self._run(len(self.gram), self.D.size, self._multiply)

    def solve(
        self,
        x: Samples,
        codes: Codes,
        prior: GroupLaplace,
        *,
        lam: float,
        max_iter: int,
        tol: float | None,
        zeros: bool,
    ) -> Inference:
        """Overwrite the codes by better ones, and certify them."""
        m, n = self.groups
        if max_iter > 0 and not zeros:
            codes[:, torch.from_numpy(self.rates == 0)] = 0  # groups of zeros have no part in the reconstruction
        weights = x.new_ones(m) if prior.weights is None else prior.weights.detach().to(x)
        results = torch.zeros((len(x), 4), dtype=torch.float64, device="cpu")
        problem = self.loops.Problem(
            x.numpy(), self.D, self.atoms, self.gram if max_iter > 0 else self.gram[:0, :0],
            (lam * weights).view(-1, m).numpy(), self.rates, n, prior.nonnegative, tol or 0.0, max_iter, self.longest,
            self.unit,
        )  # fmt: skip
        arrays = codes.view(len(x), m * n).numpy(), results.numpy()
        self._run(len(x), _WORK * m * n, lambda start, stop: self.loops.descend(problem, *arrays, zeros, start, stop))
        if tol is None:
            return Inference(codes, max_iter, x.new_full((len(x),), math.inf), converged=False)
        rounds = int(results[:, 2].max()) if len(x) else 0
        return Inference(codes, rounds, results[:, 0].to(x), converged=bool((results[:, 3] == self.loops.DONE).all()))

    def _multiply(self, start: int, stop: int) -> None:
        self.vectors.multiply(self.atoms, self.D, self.gram, start, stop)

    def _run(self, count: int, work: int, loop: Callable[[int, int], None]) -> None:
        """Run a loop over samples in threads, each of which takes the next part: samples differ in their work."""
        size = self.vectors.SAMPLES * max(1, count // (8 * self.vectors.SAMPLES * torch.get_num_threads()))
        firsts = itertools.count(0, size)

        def draw(*_: int) -> None:
            while (start := next(firsts)) < count:
                loop(start, min(start + size, count))

        threads.run_blocks(draw, -(-count // size), count * work)
