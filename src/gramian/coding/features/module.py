r"""The model of block-sparse features as a module that trains in any loop: x = Σ_{i ∈ S} Φ_i a_i + ε, Φ_iᵀΦ_i = I."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian import foreach
from gramian.coding.encoders import (
    BatchTopK,
    Candidates,
    Discoveries,
    IterativeEncoder,
    LinearEncoder,
    Selection,
    SoftThreshold,
    SparseCodes,
    Threshold,
    TiedEncoder,
    TopK,
    weighted_sum,
)
from gramian.coding.encoders.products import largest_products
from gramian.coding.inference import InferenceMethod
from gramian.distributed.mean import mean_over_processes
from gramian.errors import OptionError, ShapeError
from gramian.options import real_number, whole_number
from gramian.training import Attachment, attach
from gramian.typing import Phi

__all__ = ["ENCODERS", "FRAMES_LAYOUT", "SELECTIONS", "BlockSparseAutoencoder", "FeatureOutput"]

ENCODERS = ("linear", "tied", "iterative")
"""The encoders by name."""

SELECTIONS = ("topk", "batch_topk", "threshold", "fdr", "soft")
"""The selections by name."""

FRAMES_LAYOUT = "m n l -> l m n"
"""The layout of the parameter `frames`."""

_PART = 1024
"""Samples that are encoded at once."""


class FeatureOutput(NamedTuple):
    """The result of a forward pass.

    Attributes:
        loss: The mean over samples and entries of (x − Σ_i Φ_i a_i)²; in training with the price of a soft threshold.
        reconstruction: Σ_i Φ_i a_i, [batch, l].
        codes: The codes a.
    """

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, "batch l"]
    codes: SparseCodes

    def __repr__(self) -> str:
        return f"FeatureOutput(loss={float(self.loss.detach()):.4g}, codes={self.codes})"


class BlockSparseAutoencoder(nn.Module):
    r"""Encode samples by a few groups of features, and decode them by orthonormal frames.

    Samples should be scaled so that E‖x‖ = √l. The frames are orthonormal at first. To keep them so, call
    `keep_orthonormal` once with the optimiser, or `gramian.step_` after each of its steps.

    In training mode, a forward pass also updates the statistic that the selection tracks, and counts for how many
    batches each group has been idle; if torch.distributed is initialised, these are averaged over all processes. In
    evaluation mode, the code of a sample does not depend on its batch.

    Args:
        n_features: Length l of a sample.
        n_groups: Number of groups m.
        group_size: Dimension n of a group, n ≤ l.
        active: Number of active groups to aim at; with 'fdr' only in training.
        encoder: 'linear' (free weights), 'tied' (the frames and one gain) or 'iterative' (inference).
        select: 'topk', 'batch_topk', 'threshold', 'fdr' or 'soft'.
        rate: False discovery rate α of 'fdr'.
        infer: Inference method of the iterative encoder, a name or an `InferenceMethod`; by default `block_omp`, or
            `fista` for 'soft'.
        seed: Seed of the initial frames.

    Attributes:
        frames: The frames as rows, [m, n, l]; Φ[l, m, n] is `phi`.
        encoder: The encoder.
        select: The selection; None with the iterative encoder.
        idle: Number of training batches since a group was last active, [m].

    Raises:
        OptionError: If an option is out of range.

    Cost:
        A forward pass computes all pre-codes, 2·batch·l·m·n flops. If they are more than 2²⁴ numbers, they are computed
        in chunks, and the gradient is that of the candidates only; dense codes are never in memory.

    Examples:
        >>> import torch
        >>> model = BlockSparseAutoencoder(16, n_groups=8, group_size=2, active=2)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        >>> attachment = model.keep_orthonormal(optimizer)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(64, 16)).loss.backward()
        ...     optimizer.step()
        >>> model.eval()(torch.randn(10, 16)).codes
        SparseCodes(samples=10, m=8, n=2, active=2)

    References:
        "Block-Sparse Featurizers", arXiv 2606.25234; Gao et al., "Scaling and evaluating sparse autoencoders", arXiv
        2406.04093, 2024.
    """

    idle: Tensor

    def __init__(
        self,
        n_features: int,
        *,
        n_groups: int,
        group_size: int,
        active: int,
        encoder: str = "linear",
        select: str = "topk",
        rate: float = 0.1,
        infer: str | InferenceMethod | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        length, m, n, k = (
            whole_number(value, name=name)
            for name, value in (
                ("n_features", n_features), ("n_groups", n_groups), ("group_size", group_size), ("active", active),
            )
        )  # fmt: skip
        check_architecture(encoder, select)
        if n > length:
            raise OptionError(
                f"group_size must be at most the length of a sample; got {n} and {length}; try group_size={length}"
            )
        if k > m:
            raise OptionError(f"active must be at most the number of groups; got {k} of {m}; try active={m}")
        if not real_number(rate, name="rate", attempt="0.1") < 1:
            raise OptionError(f"rate must be less than 1; got {rate!r}; try rate=0.1")
        self.active = k
        generator = torch.Generator().manual_seed(whole_number(seed, name="seed", least=None) % 2**63)
        frames = torch.randn(m, n, length, generator=generator, device="cpu") / length**0.5
        foreach.restore_([frames], layouts=[FRAMES_LAYOUT])
        self.frames = nn.Parameter(frames)
        self.select: Selection | None = None
        if encoder == "iterative":
            self.encoder: nn.Module = IterativeEncoder(select, k, rate=rate, infer=infer)
        else:
            self.encoder = LinearEncoder(frames) if encoder == "linear" else TiedEncoder(frames)
            self.select = _selection(select, m, k, rate)
        self.register_buffer("idle", torch.zeros(m, dtype=torch.int64))

    @property
    def phi(self) -> Phi:
        """The dictionary Φ[l, m, n], a view of the frames without a gradient."""
        return self.frames.detach().permute(2, 0, 1)

    def keep_orthonormal(self, optimizer: Any, *, beta: float = math.inf) -> Attachment:
        """Keep the frames orthonormal after every step of an optimiser, by `gramian.attach`.

        Args:
            optimizer: The optimiser of the parameters.
            beta: Strength of the penalty; infinite for a hard constraint.

        Returns:
            The attachment.
        """
        return attach(optimizer, self, beta=beta, select="frames", layouts=FRAMES_LAYOUT)

    def forward(self, x: Float[Tensor, "batch l"]) -> FeatureOutput:
        """Encode and decode samples."""
        codes, candidates = self._encode(x)
        reconstruction = weighted_sum(codes.values, self.frames, codes.groups)
        error = x - reconstruction
        loss = error.square().mean()
        if self.training:
            statistic = error.new_zeros(())
            if self.select is not None and candidates is not None:
                statistic = self.select.observed(candidates, codes.values.detach(), error.detach())
                price = self.select.price(codes.values, statistic)
                loss = loss if price is None else loss + price.mean() / x.shape[1]
            self._track(codes, statistic)
        return FeatureOutput(loss, reconstruction, codes)

    def encode(self, x: Float[Tensor, "batch l"]) -> SparseCodes:
        """Encode samples."""
        return self._encode(x)[0]

    @torch.no_grad()
    def encode_all(self, x: Float[Tensor, "samples l"]) -> SparseCodes:
        """Encode any number of samples as in evaluation, part by part, without a gradient."""
        training = self.training
        self.eval()
        codes = SparseCodes.join([self.encode(part).trimmed() for part in x.split(_PART)])
        self.train(training)
        return codes

    def decode(self, codes: SparseCodes) -> Float[Tensor, "batch l"]:
        """Compute Σ_i Φ_i a_i."""
        return weighted_sum(codes.values, self.frames, codes.groups)

    def candidates(self, x: Float[Tensor, "batch l"]) -> Candidates:
        """Return the groups of largest pre-codes of each sample, of which the selection keeps some.

        Raises:
            OptionError: If the encoder is iterative, because it has none.
        """
        if self.select is None:
            raise OptionError("candidates must come from a one-pass encoder; got encoder='iterative'")
        inputs, rows, bias = self.encoder(x, self.frames)
        count = min(self.select.slots, len(rows))
        return Candidates(*largest_products(inputs, rows, bias, count, scale=self.select.scale))

    def extra_repr(self) -> str:
        """Describe the sizes."""
        m, n, length = self.frames.shape
        return f"n_features={length}, n_groups={m}, group_size={n}, active={self.active}"

    def _encode(self, x: Tensor) -> tuple[SparseCodes, Candidates | None]:
        m, _, length = self.frames.shape
        if x.ndim != 2 or x.shape[1] != length:
            raise ShapeError(f"samples must have shape [batch, {length}]; got {list(x.shape)}")
        if self.select is None:
            return self.encoder(x, self.frames), None
        candidates = self.candidates(x)
        return SparseCodes(candidates.groups, self.select(candidates, x, self.frames), m), candidates

    @torch.no_grad()
    def _track(self, codes: SparseCodes, statistic: Float[Tensor, ""]) -> None:
        used = statistic.new_zeros(len(self.idle))
        used.index_add_(0, codes.groups.flatten(), codes.active.flatten().to(used))
        averaged = mean_over_processes(torch.cat([statistic[None], used]))
        if self.select is not None:
            self.select.track_(averaged[0])
        self.idle.copy_(torch.where(averaged[1:] > 0, 0, self.idle + 1))


def check_architecture(encoder: Any, select: Any) -> None:
    """Check the names of encoder and selection.

    Raises:
        OptionError: If there is no such encoder or selection, or the two are incompatible.
    """
    if encoder not in ENCODERS:
        raise OptionError(f"encoder must be one of {', '.join(map(repr, ENCODERS))}; got {encoder!r}")
    if select not in SELECTIONS:
        raise OptionError(f"select must be one of {', '.join(map(repr, SELECTIONS))}; got {select!r}")
    if encoder == "iterative" and select == "batch_topk":
        raise OptionError(
            "select='batch_topk' must come with a one-pass encoder, because inference selects for each sample; got "
            "encoder='iterative'; try select='topk' or 'threshold'"
        )


def _selection(name: str, m: int, active: int, rate: float) -> Selection:
    if name == "fdr":
        return Discoveries(m, active, rate=rate)
    kinds: dict[str, type[TopK | BatchTopK | Threshold | SoftThreshold]] = {
        "topk": TopK, "batch_topk": BatchTopK, "threshold": Threshold, "soft": SoftThreshold,
    }  # fmt: skip
    return kinds[name](m, active)
