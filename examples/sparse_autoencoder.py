"""A sparse autoencoder with 16,384 features, whose decoder is kept apart in random chunks.

    python examples/sparse_autoencoder.py

A TopK autoencoder of whitened 16 × 16 patches of natural images, that starts from patches. Every fourth step the
decoder's features are drawn into chunks anew, and those that meet are pushed apart. Writes a table into docs/measured.
About fifteen minutes.
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
from gramian.data import FourierWhitening, PatchSampler, shipped_images, split_held_out

SIDE, FEATURES, ACTIVE, BATCH, LR, CHUNK, EVERY = 16, 16384, 32, 512, 1e-3, 64, 4


@dataclass(frozen=True)
class Way:
    """What is done to the decoder."""

    name: str
    beta: float
    penalty: str = "l1"


WAYS = (
    Way("none", 0.0),
    Way("l1, β = 0.3", 0.3),
    Way("l1, β = 2", 2.0),
    Way("coherence, β = 10", 10.0, "coherence"),
    Way("coherence, β = 100", 100.0, "coherence"),
)


class Autoencoder(nn.Module):
    """Reconstructs from the `ACTIVE` features that respond most."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.decoder = nn.Parameter(normalize(features, dim=1))
        self.encoder = nn.Parameter(0.1 * self.decoder.detach())  # for those that are active together are alike
        self.bias = nn.Parameter(torch.zeros(FEATURES))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give values and places of the strongest features."""
        strongest = torch.addmm(self.bias, x, self.encoder.mT).topk(ACTIVE, dim=1)
        return strongest.values.relu(), strongest.indices

    def forward(self, x: Tensor) -> Tensor:
        """Give the reconstruction."""
        values, features = self.encode(x)
        return embedding_bag(features, self.decoder, per_sample_weights=values, mode="sum")


@dataclass(frozen=True)
class Outcome:
    """What one autoencoder came to."""

    unexplained: float
    """Fraction of the variance of held-out patches."""
    live: float
    """Share of features that respond on held-out patches."""
    near: float
    """Mean over live features of the largest cosine with another."""
    copies: float
    """Share of live features that have another within a cosine of 0.7."""


def run(way: Way, seed: int, steps: int, train: PatchSampler, held: Tensor) -> tuple[Outcome, list[float], list[float]]:
    """Give what it came to, the seconds of each step, and those of them that the chunks took."""
    torch.manual_seed(seed)
    model = Autoencoder(train.sample(FEATURES, seed=seed, step=steps))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    whole, chunks = [], []
    for step in range(steps):
        x = train.sample(BATCH, seed=seed, step=step)
        began = time.perf_counter()
        optimizer.zero_grad()
        (model(x) - x).square().sum(dim=1).mean().backward()
        optimizer.step()
        middle = time.perf_counter()
        if way.beta and step % EVERY == 0:
            training.step_chunks_(
                model.decoder, CHUNK, lr=EVERY * LR, beta=way.beta, penalty=way.penalty,
                layout="feature pixel -> pixel feature ()",
            )  # fmt: skip
        ended = time.perf_counter()
        with torch.no_grad():  # lengths are the encoder's matter
            model.decoder /= torch.linalg.vector_norm(model.decoder, dim=1, keepdim=True)
        whole.append(ended - began)
        chunks.append(ended - middle)
    return judge(model, held), whole, chunks


@torch.no_grad()
def judge(model: Autoencoder, held: Tensor) -> Outcome:
    left = (model(held) - held).square().sum() / held.square().sum()
    values, features = model.encode(held)
    live = torch.unique(features[values > 0])
    vectors = normalize(model.decoder[live], dim=1)
    cosines = torch.cat([(part @ vectors.mT).abs().topk(2, dim=1).values[:, 1] for part in vectors.split(1024)])
    return Outcome(
        unexplained=left.item(),
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
    held = PatchSampler(pictures, size=SIDE, scale=train.scale).sample(8192, seed=1, step=0)
    found: dict[str, list[Outcome]] = {}
    costs: dict[str, list[float]] = {}
    for seed, way in track([(seed, way) for seed in range(chosen.seeds) for way in WAYS], "training"):
        outcome, whole, chunks = run(way, seed, chosen.steps, train, held)
        found.setdefault(way.name, []).append(outcome)
        costs.setdefault(way.name, []).append(
            median(c / (w - c) for w, c in list(zip(whole, chunks, strict=True))[::EVERY]) / EVERY
        )
    rows = [
        [
            way.name,
            spread([o.unexplained for o in found[way.name]], ".3f"),
            spread([100 * o.live for o in found[way.name]], ".0f"),
            spread([o.near for o in found[way.name]], ".3f"),
            spread([100 * o.copies for o in found[way.name]], ".1f"),
            f"+{100 * median(costs[way.name]):.0f} %" if way.beta else "",
        ]
        for way in WAYS
    ]
    note = (
        f"{FEATURES} features of {SIDE} × {SIDE} pixels, {ACTIVE} active, {chosen.steps} steps of {BATCH} patches, "
        f"Adam, lr {LR:g}, chunks of {CHUNK}, decoder vectors scaled to length 1 after each step; mean ± standard "
        f"deviation of {chosen.seeds} seeds, on {len(held)} patches of pictures that learning never saw. A pair of "
        f"features meets once in {EVERY * FEATURES // CHUNK} steps. The cost is the time of "
        f"the chunks over that of the rest of the same step, divided by {EVERY}."
    )
    header = ("decoder", "variance unexplained", "live features, %", "largest \\|cos\\| with another, mean",
              "features with a near-copy (\\|cos\\| > 0.7), %", "cost of a step")  # fmt: skip
    write_table("sparse_autoencoder", chosen.out, header, rows, note)


if __name__ == "__main__":
    main()
