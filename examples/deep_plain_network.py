"""Train forty layers of weights and tanh, with and without a penalty.

    python examples/deep_plain_network.py

The network has no normalisation and no residual connections. It starts from several initialisations, with and without
a penalty in training. Writes a table into docs/measured. About five minutes.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from evidence import options, spread, write_table
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gramian

DEPTH, WIDTH, BATCH, STEPS, LEARN = 40, 64, 64, 400, 1200
RATES = (1e-4, 1e-3, 1e-2)
BETA = 1.0


@dataclass(frozen=True)
class Variant:
    """An initialisation, and the β of the penalty in training."""

    name: str
    start: str
    beta: float = 0.0


VARIANTS = (
    Variant("torch's default start", "default"),
    Variant("Xavier start", "xavier"),
    Variant("orthogonal start", "orthogonal"),
    Variant(f"default start, attached, β = {BETA:g}", "default", BETA),
    Variant(f"orthogonal start, attached, β = {BETA:g}", "orthogonal", BETA),
    Variant("default start, hard (β = ∞)", "default", math.inf),
)


def network(start: str) -> nn.Sequential:
    sizes = [64, *[WIDTH] * (DEPTH - 1)]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    for layer in model:
        if isinstance(layer, nn.Linear) and start != "default":
            nn.init.zeros_(layer.bias)
            (nn.init.orthogonal_ if start == "orthogonal" else nn.init.xavier_normal_)(layer.weight)
    return model


def run(variant: Variant, lr: float, seed: int, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the loss on the training set, and the accuracy on the test set."""
    torch.manual_seed(seed)
    order = torch.randperm(len(images))
    learn, judge = order[:LEARN], order[LEARN:]
    model = network(variant.start)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    if variant.beta:
        gramian.attach(optimizer, model, beta=variant.beta)
    for _ in range(STEPS):
        batch = learn[torch.randint(LEARN, (BATCH,))]
        optimizer.zero_grad()
        cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        loss = cross_entropy(model(images[learn]), labels[learn]).item()
        return loss, (model(images[judge]).argmax(dim=1) == labels[judge]).float().mean().item()


def main() -> None:
    chosen = options(__doc__)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32)
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(digits.target)
    jobs = [(variant, lr, seed) for seed in range(chosen.seeds) for variant in VARIANTS for lr in RATES]
    results: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for variant, lr, seed in track(jobs, "training"):
        results.setdefault((variant.name, lr), []).append(run(variant, lr, seed, images, labels))
    rows = [
        [
            variant.name,
            *(
                f"{spread([100 * accuracy for _, accuracy in results[variant.name, lr]], '.0f')} "
                f"({spread([loss for loss, _ in results[variant.name, lr]], '.2f')})"
                for lr in RATES
            ),
        ]
        for variant in VARIANTS
    ]
    note = (
        f"{DEPTH} linear layers of width {WIDTH} with tanh between, no normalisation, {STEPS} steps of Adam on {LEARN} "
        f"digits: accuracy on the other digits in % and, in brackets, the loss on those learned from, mean ± standard "
        f"deviation of {chosen.seeds} seeds. Guessing is 10 %, and a loss of 2.30."
    )
    write_table("deep_plain_network", chosen.out, ("weights", *(f"lr = {lr:g}" for lr in RATES)), rows, note)


if __name__ == "__main__":
    main()
