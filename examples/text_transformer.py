"""Train a small transformer on Python's documentation; measure its loss, redundant heads and the cost of a step.

    python examples/text_transformer.py

It predicts the next character of the text of Python's `help()`. The penalty is on all weights, with one group for each
head; or on queries, keys and values only, with all heads of a layer in one group. The cost is measured in one run, with
interleaved steps on the same batches. Writes a table into docs/measured. About fifteen minutes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pydoc_data import topics
from statistics import median

import torch
from evidence import options, spread, write_table
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gramian

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, LR = 2, 128, 4, 128, 64, 2e-3
MEASURED = 40
"""Timed steps of each variant."""


class Transformer(nn.Module):
    """Predicts the next character."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, characters)

    def forward(self, text: Tensor) -> Tensor:
        """Return the scores of every next character."""
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        hidden = self.embedding(text) + self.position[: text.shape[1]]
        return self.head(self.norm(self.layers(hidden, mask=mask, is_causal=True)))


Attach = Callable[[torch.optim.Optimizer, nn.Module], object]


@dataclass(frozen=True)
class Variant:
    """The penalty, and its groups."""

    name: str
    attach: Attach


def per_head(beta: float) -> Attach:
    return lambda optimizer, model: gramian.attach(optimizer, model, beta=beta)


def across_heads(beta: float) -> Attach:
    layout = gramian.Layout("(three h d) i -> i three (h d)", three=3, h=HEADS)
    return lambda optimizer, model: gramian.attach(
        optimizer, model, beta=beta, select="*in_proj_weight", layouts={"*in_proj_weight": layout}
    )


VARIANTS = (
    Variant("none", lambda *_: None),
    Variant("all weights, each head by itself, β = 0.1", per_head(0.1)),
    Variant("q, k, v across heads, β = 0.01", across_heads(0.01)),
    Variant("q, k, v across heads, β = 1", across_heads(1.0)),
)


def redundancy(model: Transformer) -> float:
    """Return the mean overlap tr(PₐP_b)/d of the value subspaces of two heads of a layer."""
    overlaps = []
    for layer in model.layers.layers:
        values = layer.self_attn.in_proj_weight.detach()[2 * WIDTH :].unflatten(0, (HEADS, -1))
        bases = torch.linalg.qr(values.mT).Q
        products = torch.einsum("ald,blf->abdf", bases, bases).square().sum(dim=(2, 3)) / bases.shape[2]
        overlaps.append(products[~torch.eye(HEADS, dtype=torch.bool)].mean().item())
    return sum(overlaps) / len(overlaps)


def batch(text: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=generator)
    windows = text[starts[:, None] + torch.arange(CONTEXT + 1)]
    return windows[:, :-1], windows[:, 1:]


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, text: Tensor, generator: torch.Generator) -> None:
    inputs, targets = batch(text, generator)
    optimizer.zero_grad()
    cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
    optimizer.step()


def start(variant: Variant, characters: int, seed: int) -> tuple[Transformer, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Transformer(characters)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    variant.attach(optimizer, model)
    return model, optimizer


def run(variant: Variant, seed: int, steps: int, texts: tuple[Tensor, Tensor], characters: int) -> tuple[float, float]:
    """Return the loss on held-out text, in nats for a character, and the redundancy of the heads."""
    learn, judge = texts
    model, optimizer = start(variant, characters, seed)
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        advance(model, optimizer, learn, generator)
        schedule.step()
    model.eval()
    held = torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = [
            cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
            for x, y in (batch(judge, held) for _ in range(20))
        ]
    return sum(losses) / len(losses), redundancy(model)


def costs(text: Tensor, characters: int) -> dict[str, float]:
    """Return the time of a step relative to that without a penalty, interleaved, after a warm-up."""
    runs = {variant.name: (*start(variant, characters, 0), torch.Generator().manual_seed(0)) for variant in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(MEASURED + 5):
        for name in sorted(runs, key=lambda name: hash((name, round_))):  # in a new order in each round
            model, optimizer, generator = runs[name]
            start_time = time.perf_counter()
            advance(model, optimizer, text, generator)
            times[name].append(time.perf_counter() - start_time)
    plain = times[VARIANTS[0].name][5:]
    return {
        name: median(attached / bare for attached, bare in zip(each[5:], plain, strict=True))
        for name, each in times.items()
    }


def main() -> None:
    chosen = options(__doc__, steps=200)
    content = "".join(topics.topics[name] for name in sorted(topics.topics))
    characters = sorted(set(content))
    indices = {character: index for index, character in enumerate(characters)}
    text = torch.tensor([indices[character] for character in content])
    learn, judge = text[: 9 * len(text) // 10], text[9 * len(text) // 10 :]
    cost = costs(learn, len(characters))
    jobs = [(variant, seed) for seed in range(chosen.seeds) for variant in VARIANTS]
    results: dict[str, list[tuple[float, float]]] = {}
    for variant, seed in track(jobs, "training"):
        results.setdefault(variant.name, []).append(run(variant, seed, chosen.steps, (learn, judge), len(characters)))
    rows = [
        [
            variant.name,
            spread([loss for loss, _ in results[variant.name]], ".3f"),
            spread([shared for _, shared in results[variant.name]], ".3f"),
            f"{100 * (cost[variant.name] - 1):+.1f} %" if variant.name in cost and variant is not VARIANTS[0] else "",
        ]
        for variant in VARIANTS
    ]
    note = (
        f"{LAYERS} layers, width {WIDTH}, {HEADS} heads, {chosen.steps} steps of {BATCH} × {CONTEXT} characters, "
        f"AdamW, lr {LR:g} falling to 0; mean ± standard deviation of {chosen.seeds} seeds. Redundancy is the mean "
        f"overlap of the value subspaces of two heads of a layer, 0 for orthogonal ones and {WIDTH // HEADS}/{WIDTH} = "
        f"{1 / HEADS:.2f} for random ones. The cost is the median over {MEASURED} steps of the ratio of two steps in "
        "turn."
    )
    header = ("attached", "held-out loss", "redundancy of heads", "cost of a step")
    write_table("text_transformer", chosen.out, header, rows, note)


if __name__ == "__main__":
    main()
