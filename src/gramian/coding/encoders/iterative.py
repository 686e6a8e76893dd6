"""Encoding by inference: no learned encoder, but iterations for every sample."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.coding.encoders.codes import SparseCodes
from gramian.coding.encoders.products import LARGEST, Rows
from gramian.coding.inference import Inference, InferenceMethod, block_omp, fista
from gramian.coding.priors import Prior

__all__ = ["IterativeEncoder", "inferred"]

_GAIN = 0.05
"""Largest relative change of λ in a step of training."""


class IterativeEncoder(nn.Module):
    r"""Codes by inference, which ends by one of three rules.

    Args:
        rule: 'topk' for block orthogonal matching pursuit of `active` groups; 'fdr' for the same in training, and in
            use the groups that noise does not explain; 'threshold' or 'soft' for inference with λ, which
            follows the number of active groups.
        active: Number of active groups to aim at.
        rate: False discovery rate α, for 'fdr'.
        infer: The inference method of 'threshold' and 'soft'; default `block_omp` with a price for every active group,
            and `fista`.
        iterations: Iterations of inference in training.
        max_iter: Iterations of inference in use.

    Attributes:
        lam: λ in training.
    """

    lam: Tensor

    def __init__(
        self,
        rule: str,
        active: int,
        *,
        rate: float = 0.1,
        infer: InferenceMethod | None = None,
        iterations: int = 10,
        max_iter: int = 500,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.active = active
        self.rate = rate
        self.infer = infer
        self.iterations = iterations
        self.max_iter = max_iter
        self.register_buffer("lam", torch.ones(()))

    def method(self, *, training: bool) -> InferenceMethod:
        """Return the inference method, with its rule."""
        if self.rule == "topk" or (self.rule == "fdr" and training):
            return partial(block_omp, active=self.active)
        if self.rule == "fdr":
            return partial(block_omp, fdr=self.rate)
        if self.infer is not None:
            return self.infer
        return fista if self.rule == "soft" else block_omp

    @property
    def prior(self) -> str:
        """The prior of the rule."""
        return "group_laplace" if self.rule == "soft" else "group_l0"

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "batch l"], frames: Rows) -> SparseCodes:
        """Infer codes, without a gradient."""
        iterations, tol = (self.iterations, None) if self.training else (self.max_iter, 1e-4)
        codes = inferred(
            x, frames, self.method(training=self.training), lam=float(self.lam), prior=self.prior,
            max_iter=iterations, tol=tol,
        )  # fmt: skip
        if self.training and self.rule in ("threshold", "soft"):
            excess = codes.active_groups.to(self.lam.dtype).mean() / self.active - 1
            self.lam *= (_GAIN * excess.clamp(-1, 1)).exp()
        return codes


@torch.no_grad()
def inferred(
    x: Float[Tensor, "batch l"],
    frames: Rows,
    infer: InferenceMethod,
    *,
    lam: float,
    prior: str | Prior,
    max_iter: int,
    tol: float | None,
) -> SparseCodes:
    """Infer codes in parts of the batch, so that dense codes of one part at a time are in memory."""
    m, n, _ = frames.shape
    phi = frames.detach().permute(2, 0, 1)
    parts: list[SparseCodes] = []
    for part in x.split(max(1, LARGEST // (m * n))):
        result: Inference = infer(part, phi, lam=lam, prior=prior, max_iter=max_iter, tol=tol)
        parts.append(SparseCodes.of(result.codes))
    return SparseCodes.join(parts) if parts else SparseCodes.of(x.new_zeros(0, m, n))
