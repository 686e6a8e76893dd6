"""Train a sparse autoencoder with 16,384 features, with a penalty on random chunks of its decoder.

    python examples/sparse_autoencoder.py

A TopK autoencoder of whitened 16 × 16 patches of natural images, initialised with patches. At every fourth step the
decoder's features are divided into new random chunks, and the penalty is applied to each chunk. Writes a table into
docs/measured. About fifteen minutes.
"""

import time
from dataclasses import dataclass
from statistics import median

import torch
from evidence import options, spread, write_table
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from gramian import training
from gramian.images.samples import FourierWhitening, PatchSampler, shipped_images, split_held_out

SIDE, FEATURES, ACTIVE, BATCH, LR, CHUNK, EVERY = 16, 16384, 32, 512, 1e-3, 64, 4


@dataclass(frozen=True)
class Variant:
    """The penalty on the decoder."""

    name: str
    beta: float
    penalty: str = "l1"


VARIANTS = (
    Variant("none", 0.0),
    Variant("l1, β = 0.3", 0.3),
    Variant("l1, β = 2", 2.0),
    Variant("coherence, β = 10", 10.0, "coherence"),
    Variant("coherence, β = 100", 100.0, "coherence"),
)


class Autoencoder(nn.Module):
    """Reconstructs from the `ACTIVE` features that respond most."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.decoder = nn.Parameter(normalize(features, dim=1))
        self.encoder = nn.Parameter(
            0.1 * self.decoder.detach()
        )  # small, because features that are active together are similar
        self.bias = nn.Parameter(torch.zeros(FEATURES))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and indices of the strongest features."""
        strongest = torch.addmm(self.bias, x, self.encoder.mT).topk(ACTIVE, dim=1)
        return strongest.values.relu(), strongest.indices

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction."""
        values, features = self.encode(x)
        return embedding_bag(features, self.decoder, per_sample_weights=values, mode="sum")


@dataclass(frozen=True)
class Outcome:
    """Measures of one autoencoder after training."""

    unexplained: float
    """Fraction of the variance of held_out-out patches."""
    live: float
    """Share of features that respond on held_out-out patches."""
    near: float
    """Mean over live features of the largest cosine with another."""
    copies: float
    """Share of live features that have another within a cosine of 0.7."""


def run(
    variant: Variant, seed: int, steps: int, train: PatchSampler, held_out: Tensor
) -> tuple[Outcome, list[float], list[float]]:
    """Train one autoencoder; return its measures, the seconds of each step, and the part of the chunks."""
    torch.manual_seed(seed)
    model = Autoencoder(train.sample(FEATURES, seed=seed, step=steps))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    totals, chunks = [], []
    for step in range(steps):
        x = train.sample(BATCH, seed=seed, step=step)
        start = time.perf_counter()
        optimizer.zero_grad()
        (model(x) - x).square().sum(dim=1).mean().backward()
        optimizer.step()
        middle = time.perf_counter()
        if variant.beta and step % EVERY == 0:
            training.step_chunks_(
                model.decoder, CHUNK, lr=EVERY * LR, beta=variant.beta, penalty=variant.penalty,
                layout="feature pixel -> pixel feature ()",
            )  # fmt: skip
        ended = time.perf_counter()
        with torch.no_grad():  # the encoder determines the lengths
            model.decoder /= torch.linalg.vector_norm(model.decoder, dim=1, keepdim=True)
        totals.append(ended - start)
        chunks.append(ended - middle)
    return judge(model, held_out), totals, chunks


@torch.no_grad()
def judge(model: Autoencoder, held_out: Tensor) -> Outcome:
    unexplained = (model(held_out) - held_out).square().sum() / held_out.square().sum()
    values, features = model.encode(held_out)
    live = torch.unique(features[values > 0])
    vectors = normalize(model.decoder[live], dim=1)
    cosines = torch.cat([(part @ vectors.mT).abs().topk(2, dim=1).values[:, 1] for part in vectors.split(1024)])
    return Outcome(
        unexplained=unexplained.item(),
        live=len(live) / FEATURES,
        near=cosines.mean().item(),
        copies=(cosines > 0.7).float().mean().item(),
    )


def main() -> None:
    chosen = options(__doc__, steps=250)
    split = split_held_out(shipped_images(), min_side=2 * SIDE)
    whitening = FourierWhitening()
    train = PatchSampler([whitening.whiten(image.pixels) for image in split.train], size=SIDE)
    pictures = [whitening.whiten(image.pixels) for image in split.held_out]
    held_out = PatchSampler(pictures, size=SIDE, scale=train.scale).sample(8192, seed=1, step=0)
    results: dict[str, list[Outcome]] = {}
    costs: dict[str, list[float]] = {}
    for seed, variant in track([(seed, variant) for seed in range(chosen.seeds) for variant in VARIANTS], "training"):
        outcome, totals, chunks = run(variant, seed, chosen.steps, train, held_out)
        results.setdefault(variant.name, []).append(outcome)
        costs.setdefault(variant.name, []).append(
            median(c / (w - c) for w, c in list(zip(totals, chunks, strict=True))[::EVERY]) / EVERY
        )
    rows = [
        [
            variant.name,
            spread([o.unexplained for o in results[variant.name]], ".3f"),
            spread([100 * o.live for o in results[variant.name]], ".0f"),
            spread([o.near for o in results[variant.name]], ".3f"),
            spread([100 * o.copies for o in results[variant.name]], ".1f"),
            f"+{100 * median(costs[variant.name]):.0f} %" if variant.beta else "",
        ]
        for variant in VARIANTS
    ]
    note = (
        f"{FEATURES} features of {SIDE} × {SIDE} pixels, {ACTIVE} active, {chosen.steps} steps of {BATCH} patches, "
        f"Adam, lr {LR:g}, chunks of {CHUNK}, decoder vectors scaled to length 1 after each step; mean ± standard "
        f"deviation of {chosen.seeds} seeds, on {len(held_out)} patches of pictures that learning never saw. A pair of "
        f"features meets once in {EVERY * FEATURES // CHUNK} steps. The cost is the time of "
        f"the chunks over that of the rest of the same step, divided by {EVERY}."
    )
    header = ("decoder", "variance unexplained", "live features, %", "largest \\|cos\\| with another, mean",
              "features with a near-copy (\\|cos\\| > 0.7), %", "cost of a step")  # fmt: skip
    write_table("sparse_autoencoder", chosen.out, header, rows, note)


if __name__ == "__main__":
    main()
