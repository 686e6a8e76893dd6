"""Encoding by inference: iterations for every sample instead of a learned encoder."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.coding.encoders.codes import SparseCodes
from gramian.coding.encoders.products import LARGEST, Rows
from gramian.coding.inference import METHODS, Inference, InferenceMethod, as_method, block_omp
from gramian.coding.priors import Prior
from gramian.distributed.mean import mean_over_processes
from gramian.errors import OptionError

__all__ = ["IterativeEncoder", "inferred"]

_FITTING = {
    "topk": ("block_omp", "block_iht"),
    "fdr": ("block_omp",),
    "threshold": ("block_omp", "block_iht"),
    "soft": ("fista", "coordinate_descent", "lca"),
}
"""The inference methods for each rule; the first is the default."""

_GAIN = 0.05
"""Largest relative change of λ in a step of training."""


class IterativeEncoder(nn.Module):
    r"""Codes by inference, with a rule for how many groups are active.

    Args:
        rule: 'topk' for block orthogonal matching pursuit of `active` groups; 'fdr' for the same in training, and
            otherwise the groups that noise does not explain; 'threshold' or 'soft' for inference with λ, which follows
            the number of active groups.
        active: Number of active groups to aim at.
        rate: False discovery rate α, for 'fdr'.
        infer: Name or `InferenceMethod`: 'block_omp' (the default) or 'block_iht' for 'topk' and 'threshold', where λ
            is the price of a group; 'block_omp' for 'fdr'; 'fista' (the default), 'coordinate_descent' or 'lca' for
            'soft'.
        iterations: Iterations of inference in training.
        max_iter: Iterations of inference outside training.

    Attributes:
        lam: λ; it changes in training.
        noise: Standard deviation σ of the noise in each entry of a sample, for 'fdr'; 0 to measure it from the samples
            of each call.

    Raises:
        OptionError: If the inference method does not support the rule.
    """

    lam: Tensor
    noise: Tensor

    def __init__(
        self,
        rule: str,
        active: int,
        *,
        rate: float = 0.1,
        infer: str | InferenceMethod | None = None,
        iterations: int = 10,
        max_iter: int = 500,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.active = active
        self.rate = rate
        self.infer = as_method(_FITTING[rule][0] if infer is None else infer)
        name = next((name for name, method in METHODS.items() if method is self.infer), None)
        if name is not None and name not in _FITTING[rule]:
            raise OptionError(
                f"infer must be one of {', '.join(map(repr, _FITTING[rule]))} with select={rule!r}; got {name!r}; try "
                f"infer={_FITTING[rule][0]!r}"
            )
        self.iterations = iterations
        self.max_iter = max_iter
        self.register_buffer("lam", torch.ones(()))
        self.register_buffer("noise", torch.zeros(()))

    def method(self, *, training: bool) -> InferenceMethod:
        """Return the inference method, with its rule."""
        if self.rule == "fdr" and not training:
            return partial(block_omp, fdr=self.rate, noise=float(self.noise) or None)
        counting: Any = self.infer
        return partial(counting, active=self.active) if self.rule in ("topk", "fdr") else self.infer

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
            active = mean_over_processes(codes.active_groups.to(self.lam.dtype).mean())
            excess = active / self.active - 1
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
    """Infer codes in parts of the batch, so that only one part of the dense codes is in memory."""
    m, n, _ = frames.shape
    phi = frames.detach().permute(2, 0, 1)
    parts: list[SparseCodes] = []
    for part in x.split(max(1, LARGEST // (m * n))):
        result: Inference = infer(part, phi, lam=lam, prior=prior, max_iter=max_iter, tol=tol)
        parts.append(SparseCodes.of(result.codes))
    return SparseCodes.join(parts) if parts else SparseCodes.of(x.new_zeros(0, m, n))
