"""Recompute the statistic that a selection tracks, from many samples, after training."""

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.coding.encoders import Discoveries, IterativeEncoder, Threshold, weighted_sum
from gramian.coding.features.module import BlockSparseAutoencoder
from gramian.coding.learning.calibration import calibrated_lam
from gramian.coding.priors import as_prior

__all__ = ["calibrate_"]

_PART = 1024
_INFERRED = 4096
_ROUNDS = 20
_CLOSE = 1e-3


@torch.no_grad()
def calibrate_(model: BlockSparseAutoencoder, x: Float[Tensor, "batch l"]) -> None:
    """Compute the threshold, λ or noise level of a selection from samples.

    The threshold is set so that `active` groups of these samples are active on average; λ of inference so that their
    number is within 1 % of it. The noise level is set to what the kept groups leave unexplained: it starts at the
    variance of the samples and falls until it no longer changes.

    Args:
        model: The model; its selection is written to.
        x: Samples, some thousands.
    """
    training = model.training
    model.eval()
    encoder, select = model.encoder, model.select
    if isinstance(encoder, IterativeEncoder) and encoder.rule in ("threshold", "soft"):
        lam = calibrated_lam(
            x, model.phi, lam=float(encoder.lam), prior=as_prior(encoder.prior), infer=encoder.method(training=False),
            target=model.active, max_iter=encoder.max_iter, tol=1e-4, most=_INFERRED,
        )  # fmt: skip
        encoder.lam.fill_(lam)
    elif isinstance(encoder, IterativeEncoder) and encoder.rule == "fdr":
        encoder.noise.zero_()
        codes = model.encode(x[:_INFERRED])
        error = x[:_INFERRED] - model.decode(codes)
        freedom = error.numel() - int(codes.active.sum()) * codes.values.shape[2]
        encoder.noise.fill_((float(error.double().square().sum()) / max(1, freedom)) ** 0.5)
    elif isinstance(select, Threshold):
        norms = torch.cat([model.candidates(part).norms for part in x.split(_PART)])
        select.threshold.copy_(select.batch_threshold(norms))
        select.seen.clamp_(min=1)
    elif isinstance(select, Discoveries):
        _measure_noise_(model, select, x)
    model.train(training)


def _measure_noise_(model: BlockSparseAutoencoder, select: Discoveries, x: Tensor) -> None:
    select.variance.fill_(float(x.square().mean()))
    for _ in range(_ROUNDS):
        power, freedom = 0.0, 0
        for part in x.split(_PART):
            candidates = model.candidates(part)
            codes = select(candidates, part, model.frames)
            error = part - weighted_sum(codes, model.frames, candidates.groups)
            fitted = (codes != 0).any(dim=2).sum() * codes.shape[2]
            power += float(error.double().square().sum())
            freedom += error.numel() - int(fitted)
        before = float(select.variance)
        # It never rises again: one kept group more would otherwise be dropped in the next round.
        select.variance.fill_(min(before, power / max(1, freedom)))
        if float(select.variance) > (1 - _CLOSE) * before:
            break
