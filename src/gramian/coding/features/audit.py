"""Compare codes with those of inference, to measure what one pass misses."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.coding.encoders import SparseCodes
from gramian.coding.encoders.iterative import inferred
from gramian.coding.encoders.products import LARGEST, Rows, weighted_sum
from gramian.coding.inference import InferenceMethod, refit
from gramian.coding.priors import Prior

__all__ = ["FeatureAudit", "audit_codes"]


@dataclass(frozen=True)
class FeatureAudit:
    """Codes compared with those of inference with the same dictionary.

    Attributes:
        recall: Fraction of the groups that inference selects that the codes have too.
        precision: Fraction of the groups of the codes that inference selects too.
        unexplained: Fraction of Σ‖x‖² that the codes leave unexplained.
        unexplained_refit: The same after least squares on the support of the codes.
        unexplained_inference: The same for inference.
        active_groups: Mean number of active groups of the codes.
        active_groups_inference: The same for inference.
        missed: Number of samples in which inference selects a group that the codes do not have, [m].
    """

    recall: float
    precision: float
    unexplained: float
    unexplained_refit: float
    unexplained_inference: float
    active_groups: float
    active_groups_inference: float
    missed: Int[Tensor, " m"]

    def __repr__(self) -> str:
        return (
            f"FeatureAudit(recall={self.recall:.3f}, precision={self.precision:.3f}, unexplained: "
            f"{self.unexplained:.2%} in one pass, {self.unexplained_refit:.2%} refitted, "
            f"{self.unexplained_inference:.2%} by inference)"
        )


@torch.no_grad()
def audit_codes(
    x: Float[Tensor, "batch l"],
    frames: Rows,
    codes: SparseCodes,
    infer: InferenceMethod,
    *,
    lam: float = 1.0,
    prior: str | Prior = "group_l0",
    max_iter: int = 500,
    tol: float | None = 1e-4,
) -> FeatureAudit:
    """Compare codes with those of inference.

    Args:
        x: Samples [batch, l].
        frames: The frames of the dictionary, [m, n, l].
        codes: Codes of the samples.
        infer: The inference method.
        lam: λ of inference, for methods that use it.
        prior: Its prior.
        max_iter: Its largest number of iterations.
        tol: Its tolerance.

    Cost:
        Inference dominates. Dense codes of only a part of the samples are in memory.
    """
    m, n, _ = frames.shape
    phi = frames.permute(2, 0, 1)
    power = float(x.double().square().sum())
    hits = of_inference = of_codes = 0
    errors = [0.0, 0.0, 0.0]
    missed = torch.zeros(m, dtype=torch.int64, device=x.device)
    size = max(1, LARGEST // (m * n))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        part = codes.rows(rows)
        best = inferred(x[rows], frames, infer, lam=lam, prior=prior, max_iter=max_iter, tol=tol)
        support, truth = (each.dense().square().sum(dim=2) > 0 for each in (part, best))
        hits += int((support & truth).sum())
        of_codes += int(support.sum())
        of_inference += int(truth.sum())
        missed += (truth & ~support).sum(dim=0)
        fitted = SparseCodes.of(refit(x[rows], phi, part.dense()))
        for i, each in enumerate((part, fitted, best)):
            error = x[rows] - weighted_sum(each.values, frames, each.groups)
            errors[i] += float(error.double().square().sum())
    count = max(1, len(x))
    return FeatureAudit(
        recall=hits / max(1, of_inference),
        precision=hits / max(1, of_codes),
        unexplained=errors[0] / power if power else 0.0,
        unexplained_refit=errors[1] / power if power else 0.0,
        unexplained_inference=errors[2] / power if power else 0.0,
        active_groups=of_codes / count,
        active_groups_inference=of_inference / count,
        missed=missed,
    )
