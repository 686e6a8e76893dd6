r"""Inference: the codes that minimise ½‖x − Σ Φ_i a_i‖² − log p(a), with a certificate."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.coding.options import real_number, whole_number
from gramian.coding.prior import PRIORS, Codes, GroupLaplace, Prior, as_prior
from gramian.coding.synthesis import Samples, Synthesis, as_synthesis
from gramian.errors import ShapeError
from gramian.typing import Phi

__all__ = ["Inference", "InferenceMethod", "Steps", "check_stop", "duality_gap", "in_rounds", "until_certified"]

Steps = Generator[Codes, Int[Tensor, " kept"] | None, None]
"""Codes after each step of a method. Sent the numbers of some samples, it keeps these alone, and gives their codes."""

_CHECK_EVERY = 10
_ROUNDING = 4.0
"""By how many units of rounding a sum may be off; what is met is one or two."""
_PLAIN = PRIORS["group_laplace"]


@dataclass(frozen=True)
class Inference:
    """Codes, and how good they are certified to be.

    Attributes:
        codes: Coefficients [batch, m, n].
        iterations: How many iterations were made.
        gap: For each sample, an upper bound on its energy above the smallest possible, its own rounding included;
            infinite where none was asked for or none is known. With a prior that is not log-concave, of the last
            round's energy.
        converged: Whether the gap of every sample is at most the tolerance times its energy, or at the rounding of it.
    """

    codes: Codes
    iterations: int
    gap: Float[Tensor, " batch"]
    converged: bool


def check_stop(max_iter: int, tol: float | None) -> None:
    """Check when inference is to stop.

    Raises:
        OptionError: If there is no such number of iterations, or no such tolerance.
    """
    whole_number(max_iter, name="max_iter", least=0)
    if tol is not None:
        real_number(tol, name="tol", zero=True, attempt="1e-4")


@runtime_checkable
class InferenceMethod(Protocol):
    """A way to find the codes; every method has this signature and the same answer."""

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
    x: Samples, phi: Phi | Synthesis, codes: Codes, lam: float, prior: Prior = _PLAIN
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    r"""Bound how far the energy of codes is above its minimum.

    The dual problem is max ½‖x‖² − ½‖x − u‖² over all u with ‖Φ_iᵀu‖₂ ≤ λw_i. The residual r = x − Σ Φ_i a_i, scaled
    into that set, is such a u, and the difference between the two values bounds the error.

    Args:
        x: Samples.
        phi: Dictionary Φ[l, m, n].
        codes: Any codes.
        lam: Sparsity λ > 0.
        prior: The prior; one that is not log-concave is taken as it looks from these codes.

    Returns:
        The gap and the energy, for each sample. The gap holds its own rounding: it is a bound in the numbers of `x`,
        never 0 where something is left. It is infinite where nothing is known: for samples that are not finite, or
        codes that the prior does not allow.

    Raises:
        OptionError: If λ is not positive.

    Cost:
        Two products with the dictionary.

    Examples:
        >>> import torch
        >>> phi, x = torch.eye(2)[:, None, :], torch.tensor([[3.0, 4.0]])
        >>> gap, energy = duality_gap(x, phi, torch.tensor([[[1.8, 2.4]]]), lam=2.0)  # the optimum: shorter by λ
        >>> 0 < gap.item() < 1e-4, energy.item()
        (True, 8.0)
    """
    lam = real_number(lam, name="lam")
    synthesis = as_synthesis(phi)
    found = _certificate(x, synthesis, codes, lam, prior.around(codes, lam), synthesis.longest(x))
    return found.gap, found.energy


@dataclass(frozen=True)
class _Certificate:
    """What is known of codes: a bound of what their energy is above its minimum, and what of it is but rounding."""

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
    # The rounding of a product is that of its terms: of atoms, all no longer than the longest, times coefficients.
    unit = _ROUNDING * synthesis.roundoff(x)
    terms = power.sqrt() + longest * synthesis.total(codes.abs().flatten(1).sum(dim=1))
    slack = unit * longest * codes.shape[2] ** 0.5 * square.sqrt()
    rounding = unit * (primal + power + terms * square.sqrt() + unit * terms.square())
    plain, safe = (
        primal - (shrink * inner - 0.5 * shrink.square() * square)
        for shrink in (
            _into_the_set(lam, synthesis.largest(bound.steepest(correlations, each))) for each in (0 * slack, slack)
        )
    )
    gap = torch.maximum(plain, safe) + rounding
    unknown = ~(gap.isfinite() & primal.isfinite())
    gap = torch.where(unknown, torch.inf, gap.clamp_min(0))
    return _Certificate(gap, primal, torch.where(unknown, 0, gap - plain))


def _into_the_set(lam: float, steepest: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return (lam / steepest.clamp_min(torch.finfo(steepest.dtype).tiny)).clamp_max(1)


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
    """Take codes from a method, one step after the other, until every sample's gap is small enough.

    The codes of a sample are those of the first look at which its own gap was small enough: they do not depend on the
    other samples. When half of the samples are done, the method goes on with the rest alone.

    Args:
        steps: The codes after each step, without end; sent the numbers of some samples, it keeps these alone.
        x: Samples.
        synthesis: What they are synthesised by.
        prior: A log-concave prior.
        lam: Sparsity λ.
        start: Codes before the first step.
        max_iter: Most steps; none leaves the codes to start from.
        tol: Relative gap at which to stop; 0 takes all steps, and None does so without a certificate.

    Returns:
        The codes, with their certificate.
    """
    codes = start
    if tol is None:
        for _ in range(max_iter):
            codes = next(steps)
        return Inference(codes, max_iter, x.new_full((len(x),), torch.inf), converged=False)
    longest = synthesis.longest(x)
    found, gaps = codes.clone(), x.new_full((len(x),), torch.inf)
    done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    iterations = 0
    for iterations in range(min(1, max_iter), max_iter + 1):
        if iterations > 0:
            codes = next(steps)
        last = iterations == max_iter
        if not (last or (tol > 0 and iterations % _CHECK_EVERY == 0)):
            continue
        seen = _certificate(x[rows], synthesis, codes, lam, prior.take(rows), longest)
        gap = seen.gap
        # No gap is smaller than its rounding: as small as it can be told is small enough.
        enough = (gap <= tol * seen.energy + (2 * seen.rounding if tol > 0 else 0)) & gap.isfinite()
        new = (enough | last) & ~done[rows]
        found[rows[new]], gaps[rows[new]] = codes[new], gap[new]
        done[rows] |= enough
        if last or bool(done.all()):
            break
        left = ~done[rows]
        if 2 * int(left.sum()) <= len(rows):
            keep = left.nonzero()[:, 0]
            rows = rows[keep]
            codes = steps.send(keep)
    return Inference(found, iterations, gaps, converged=bool(done.all()))


def in_rounds(
    one: Callable[[GroupLaplace, Codes], Inference],
    x: Samples,
    synthesis: Synthesis,
    *,
    lam: float,
    prior: str | Prior,
    start: Codes | None,
) -> Inference:
    """Infer with any prior by a method for log-concave ones: round after round, each around the codes of the last.

    Args:
        one: A round: from a log-concave prior and codes to start from.
        x: Samples.
        synthesis: What they are synthesised by.
        lam: Sparsity λ.
        prior: Name or `Prior`.
        start: Codes to start from; default 0.

    Returns:
        The inference of the last round, with the iterations of all.

    Raises:
        ShapeError: If samples, codes to start from or weights do not fit the dictionary.
        OptionError: If λ is not positive.
    """
    zeros = synthesis.zeros(x)
    lam = real_number(lam, name="lam")
    prior = as_prior(prior)
    if start is not None and start.shape != zeros.shape:
        raise ShapeError(f"codes to start from must have shape {list(zeros.shape)}; got {list(start.shape)}")
    if isinstance(prior, GroupLaplace):
        prior.check(zeros)
    # The first round of several has the scale of the prior's mean, as where every group is of middling strength.
    codes = zeros if start is None else start.to(zeros)
    bound = GroupLaplace() if prior.rounds > 1 and start is None else prior.around(codes, lam)
    found = one(bound, codes)
    iterations = found.iterations
    for _ in range(prior.rounds - 1):
        found = one(prior.around(found.codes, lam), found.codes)
        iterations += found.iterations
    return Inference(found.codes, iterations, found.gap, found.converged)
