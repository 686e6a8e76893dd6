r"""Inference: the codes that minimise ½‖x − Σ Φ_i a_i‖² − log p(a), with a certificate of optimality."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gramian.coding.model import Codes, group_norms
from gramian.coding.priors import PRIORS, GroupLaplace, Prior, as_prior
from gramian.coding.synthesis import Samples, Synthesis, as_synthesis
from gramian.errors import ShapeError
from gramian.options import real_number, whole_number
from gramian.typing import Phi

__all__ = [
    "ROUNDING",
    "Inference",
    "InferenceMethod",
    "Steps",
    "check_start",
    "check_stop",
    "duality_gap",
    "majorize_minimize",
    "until_certified",
]

Steps = Generator[Codes, Int[Tensor, " selected"] | None, None]
"""A generator of the codes after each step of a method.

To continue with some samples only, send their indices: `send` returns the codes of these samples.
"""

_CHECK_EVERY = 10
ROUNDING = 4.0
"""Bound on the rounding error of a sum, in units of rounding; measured errors are one or two units."""
_DEFAULT_PRIOR = PRIORS["group_laplace"]


@dataclass(frozen=True)
class Inference:
    """Codes, with a certificate of their distance from the minimal energy.

    Attributes:
        codes: Coefficients [batch, m, n].
        iterations: Number of iterations.
        gap: For each sample, an upper bound on the difference between its energy and the minimum, including rounding
            errors; infinite if no bound was computed or none is known. For a prior that is not log-concave, the bound
            holds for the energy of the last round.
        converged: Whether the gap of every sample is at most the tolerance times its energy, or at the level of
            rounding errors; for methods without a gap, whether their stopping rule was met.
        certified: What is known about the codes: 'minimum', their energy exceeds the least one by at most `gap`;
            'majorizer', the same for the majorizer of the last round; 'support', they have the least energy on their
            support, and nothing is known about other supports.
    """

    codes: Codes
    iterations: int
    gap: Float[Tensor, " batch"]
    converged: bool
    certified: str = "minimum"

    @property
    def support(self) -> Bool[Tensor, "batch m *places"]:
        """Which groups of each sample are active."""
        return group_norms(self.codes) > 0


def check_start(start: Codes | None, zeros: Codes) -> None:
    """Check that initial codes have the shape of the codes.

    Raises:
        ShapeError: If they do not.
    """
    if start is not None and start.shape != zeros.shape:
        raise ShapeError(f"codes to start from must have shape {list(zeros.shape)}; got {list(start.shape)}")


def check_stop(max_iter: int, tol: float | None) -> None:
    """Check the options of the stopping rule.

    Raises:
        OptionError: If `max_iter` is not a whole number of at least 0, or `tol` is negative or not a number.
    """
    whole_number(max_iter, name="max_iter", least=0)
    if tol is not None:
        real_number(tol, name="tol", zero=True, attempt="1e-4")


@runtime_checkable
class InferenceMethod(Protocol):
    """An inference method; all methods have this signature and minimise the same energy."""

    def __call__(
        self,
        x: Samples,
        phi: Phi | Synthesis,
        *,
        lam: float,
        prior: str | Prior = "group_laplace",
        max_iter: int = 500,
        tol: float | None = 1e-4,
        start: Codes | None = None,
    ) -> Inference:
        """Infer the codes of samples."""
        ...


def duality_gap(
    x: Samples, phi: Phi | Synthesis, codes: Codes, lam: float, prior: Prior = _DEFAULT_PRIOR
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    r"""Bound the difference between the energy of codes and its minimum, for each sample.

    The dual problem is max ½‖x‖² − ½‖x − u‖² over all u with ‖Φ_iᵀu‖₂ ≤ λw_i. The residual r = x − Σ Φ_i a_i, scaled
    into that set, is such a u, and the difference between the two values bounds the error.

    Args:
        x: Samples.
        phi: Dictionary Φ[l, m, n].
        codes: Any codes.
        lam: Sparsity λ > 0.
        prior: The prior. One that is not log-concave is replaced by its majorizer at these codes.

    Returns:
        The gap and the energy of each sample. The gap includes rounding errors, so the bound holds in the precision of
        `x`. The gap is infinite for samples that are not finite and for codes that the prior does not allow.

    Raises:
        OptionError: If λ is not positive.

    Cost:
        Two products with the dictionary.

    Examples:
        >>> import torch
        >>> phi, x = torch.eye(2)[:, None, :], torch.tensor([[3.0, 4.0]])
        >>> gap, energy = duality_gap(x, phi, torch.tensor([[[1.8, 2.4]]]), lam=2.0)  # the optimum: x, shortened by λ
        >>> 0 < gap.item() < 1e-4, energy.item()
        (True, 8.0)
    """
    lam = real_number(lam, name="lam")
    synthesis = as_synthesis(phi)
    certificate = _certificate(x, synthesis, codes, lam, prior.majorizer(codes, lam), synthesis.longest(x))
    return certificate.gap, certificate.energy


@dataclass(frozen=True)
class _Certificate:
    """The energy of codes, a bound on its distance from the minimum, and the part of the bound due to rounding."""

    gap: Float[Tensor, " batch"]
    energy: Float[Tensor, " batch"]
    rounding: Float[Tensor, " batch"]


def _certificate(  # noqa: PLR0917
    x: Samples, synthesis: Synthesis, codes: Codes, lam: float, bound: GroupLaplace, longest: float
) -> _Certificate:
    r = x - synthesis.synthesise(codes)
    square, inner, power = (_dot(a, b) for a, b in ((r, r), (x, r), (x, x)))
    primal = 0.5 * square + synthesis.total(bound.value(codes, lam))
    correlations = synthesis.analyse(r)
    # The rounding error of Φa is proportional to Σ|a_j|·‖φ_j‖, at most the length of the longest atom times Σ|a_j|.
    unit = ROUNDING * synthesis.roundoff(x)
    terms = power.sqrt() + longest * synthesis.total(codes.abs().flatten(1).sum(dim=1))
    slack = unit * longest * codes.shape[2] ** 0.5 * square.sqrt()
    rounding = unit * (primal + power + terms * square.sqrt() + unit * terms.square())
    plain, safe = (
        primal - (scale * inner - 0.5 * scale.square() * square)
        for scale in (
            _dual_scale(lam, synthesis.largest(bound.lambda_max(correlations, extra))) for extra in (0 * slack, slack)
        )
    )
    gap = torch.maximum(plain, safe) + rounding
    unknown = ~(gap.isfinite() & primal.isfinite())
    gap = torch.where(unknown, torch.inf, gap.clamp_min(0))
    return _Certificate(gap, primal, torch.where(unknown, 0, gap - plain))


def _dual_scale(lam: float, lambda_max: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return (lam / lambda_max.clamp_min(torch.finfo(lambda_max.dtype).tiny)).clamp_max(1)


def _dot(a: Samples, b: Samples) -> Float[Tensor, " batch"]:
    return (a * b).flatten(1).sum(dim=1)


def until_certified(
    steps: Steps,
    x: Samples,
    synthesis: Synthesis,
    prior: GroupLaplace,
    *,
    lam: float,
    start: Codes,
    max_iter: int,
    tol: float | None,
) -> Inference:
    """Run a method step by step until the gap of every sample is small enough.

    The codes of a sample are those of the first check at which its gap is small enough, so they do not depend on the
    other samples. Once half of the samples are done, the method continues with the remaining ones only.

    Args:
        steps: An endless generator of the codes after each step; it accepts the indices of samples to continue with.
        x: Samples.
        synthesis: The map from codes to samples.
        prior: A log-concave prior.
        lam: Sparsity λ.
        start: Codes before the first step.
        max_iter: Maximal number of steps; 0 returns the initial codes.
        tol: Relative gap at which to stop; 0 runs all steps, and None runs all steps without a certificate.

    Returns:
        The codes with their certificate.
    """
    codes = start
    if tol is None:
        for _ in range(max_iter):
            codes = next(steps)
        return Inference(codes, max_iter, x.new_full((len(x),), torch.inf), converged=False)
    longest = synthesis.longest(x)
    result, gaps = codes.clone(), x.new_full((len(x),), torch.inf)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    iterations = 0
    for iterations in range(min(1, max_iter), max_iter + 1):
        if iterations > 0:
            codes = next(steps)
        last = iterations == max_iter
        if not (last or (tol > 0 and iterations % _CHECK_EVERY == 0)):
            continue
        certificate = _certificate(x[rows], synthesis, codes, lam, prior.select(rows), longest)
        gap = certificate.gap
        # A gap includes its rounding error, so a gap of twice this error is small enough for any tolerance.
        small = (gap <= tol * certificate.energy + (2 * certificate.rounding if tol > 0 else 0)) & gap.isfinite()
        new = (small | last) & ~done[rows]
        result[rows[new]], gaps[rows[new]] = codes[new], gap[new]
        done[rows] |= small
        if last or bool(done.all()):
            break
        remaining = (~done[rows]).nonzero()[:, 0]
        if 2 * len(remaining) <= len(rows):
            rows = rows[remaining]
            codes = steps.send(remaining)
    return Inference(result, iterations, gaps, converged=bool(done.all()))


def majorize_minimize(
    solve: Callable[[GroupLaplace, Codes], Inference],
    x: Samples,
    synthesis: Synthesis,
    *,
    lam: float,
    prior: str | Prior,
    start: Codes | None,
    zeros: Codes | None = None,
) -> Inference:
    """Infer with any prior: each round solves for the majorizer of the prior at the codes of the previous round.

    Args:
        solve: A method for log-concave priors, called with the prior and the initial codes.
        x: Samples.
        synthesis: The map from codes to samples.
        lam: Sparsity λ.
        prior: Name or `Prior`.
        start: Initial codes; by default 0.
        zeros: Zero codes of the right shape, if the caller has some.

    Returns:
        The inference of the last round, with the iterations of all rounds.

    Raises:
        ShapeError: If samples or initial codes do not fit the dictionary.
        OptionError: If λ is not positive, or weights do not fit the dictionary.
    """
    zeros = synthesis.zeros(x) if zeros is None else zeros
    lam = real_number(lam, name="lam")
    prior = as_prior(prior)
    check_start(start, zeros)
    if isinstance(prior, GroupLaplace):
        prior.check(zeros)
    # If there are several rounds and no initial codes, the first round uses the mean scale for every group.
    codes = zeros if start is None else start.to(zeros)
    bound = GroupLaplace() if prior.rounds > 1 and start is None else prior.majorizer(codes, lam)
    result = solve(bound, codes)
    iterations = result.iterations
    for _ in range(prior.rounds - 1):
        result = solve(prior.majorizer(result.codes, lam), result.codes)
        iterations += result.iterations
    certified = "minimum" if prior.rounds == 1 else "majorizer"
    return Inference(result.codes, iterations, result.gap, result.converged, certified)
