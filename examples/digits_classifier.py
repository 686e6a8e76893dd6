"""Measure accuracy, calibration and cost of orthogonal weights in a small CNN trained on few digits.

    python examples/digits_classifier.py

Of scikit-learn's 8 × 8 digits 300 are for training, 100 for validation and 1397 for the test. Each method runs with
each β, over the same seeds; the β with the least mean validation loss is tested. Writes a table target docs/measured.
About seven minutes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, median

import torch
from evidence import options, spread, write_table
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

import gramian
from gramian import training
from gramian.selection import select_parameters

LEARN, CHOOSE, BATCH, EPOCHS, LR = 300, 100, 50, 60, 2e-3
BETAS = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Variant:
    """One method to keep weights orthogonal."""

    name: str
    begin: Callable[[nn.Module, torch.optim.Optimizer, float], Callable[[], Tensor | float]]
    """Prepares model and optimiser for β; returns a function whose value is added to the loss."""
    betas: tuple[float, ...] = BETAS


def nothing(model: nn.Module, optimizer: torch.optim.Optimizer, beta: float) -> Callable[[], float]:  # noqa: ARG001
    return lambda: 0.0


def coupled(penalty: str) -> Callable:
    def begin(model: nn.Module, optimizer: torch.optim.Optimizer, beta: float) -> Callable[[], Tensor]:  # noqa: ARG001
        targets, _ = select_parameters(model)
        return lambda: training.loss(targets, beta=beta, penalty=penalty)

    return begin


def decoupled(penalty: str) -> Callable:
    def begin(model: nn.Module, optimizer: torch.optim.Optimizer, beta: float) -> Callable[[], float]:
        gramian.attach(optimizer, model, beta=beta, penalty=penalty)
        return lambda: 0.0

    return begin


VARIANTS = (
    Variant("none", nothing, (0.0,)),
    Variant("l1, in the loss", coupled("l1")),
    Variant("squared Frobenius, in the loss", coupled("squared_frobenius")),
    Variant("spectral (SRIP), in the loss", coupled("spectral")),
    Variant("l1, decoupled", decoupled("l1")),
    Variant("squared Frobenius, decoupled", decoupled("squared_frobenius")),
    Variant("hard (β = ∞)", decoupled("l1"), (math.inf,)),
    Variant("torch's orthogonal parametrisation", nothing, (math.nan,)),
)


@dataclass(frozen=True)
class Outcome:
    """Measures of one network after training."""

    chosen_by: float
    accuracy: float
    loss: float
    calibration: float
    residual: float
    seconds: float


class Flat(nn.Module):
    """A 3 × 3 convolution whose filters are the rows of a matrix: torch's parametrisation is for matrices."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.filters = nn.utils.parametrizations.orthogonal(nn.Linear(9 * inputs, outputs))
        self.inputs = inputs

    @property
    def weight(self) -> Tensor:
        """Return the filters in the shape of a convolution."""
        return self.filters.weight.unflatten(1, (self.inputs, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return conv2d(x, self.weight, self.filters.bias, padding=1)


def network(*, parametrised: bool) -> nn.Sequential:
    def conv(inputs: int, outputs: int) -> nn.Module:
        return Flat(inputs, outputs) if parametrised else nn.Conv2d(inputs, outputs, 3, padding=1)

    last = nn.Linear(128, 10)
    return nn.Sequential(
        conv(1, 16), nn.ReLU(), conv(16, 32), nn.ReLU(), nn.MaxPool2d(2), conv(32, 32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.utils.parametrizations.orthogonal(last) if parametrised else last,
    )  # fmt: skip


def calibration(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error over 15 bins of confidence."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    bins = (confidence * 15).clamp_max(14.9).int()
    correct = (predicted == labels).float()
    gaps = [(bins == b).float().mean() * (confidence[bins == b].mean() - correct[bins == b].mean()).abs()
            for b in bins.unique()]  # fmt: skip
    return float(sum(gaps))


def run(variant: Variant, beta: float, seed: int, images: Tensor, labels: Tensor) -> Outcome:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    learn, choose, judge = order.split([LEARN, CHOOSE, len(images) - LEARN - CHOOSE])
    torch.manual_seed(seed)
    model = network(parametrised=math.isnan(beta))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    added = variant.begin(model, optimizer, beta)
    times = []
    for _ in range(EPOCHS):
        for batch in learn[torch.randperm(LEARN)].split(BATCH):
            start = time.perf_counter()
            optimizer.zero_grad()
            (cross_entropy(model(images[batch]), labels[batch]) + added()).backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
    with torch.no_grad():
        logits, validation_logits = model(images[judge]), model(images[choose])
        plain = network(parametrised=False)
        for layer, target in zip(model, plain, strict=True):
            if isinstance(layer, (Flat, nn.Conv2d, nn.Linear)):
                target.weight.copy_(layer.weight)
    return Outcome(
        chosen_by=cross_entropy(validation_logits, labels[choose]).item(),
        accuracy=(logits.argmax(dim=1) == labels[judge]).float().mean().item(),
        loss=cross_entropy(logits, labels[judge]).item(),
        calibration=calibration(logits, labels[judge]),
        residual=max(row.statistics.largest for row in gramian.inspect(plain).rows),
        seconds=median(times),
    )


def main() -> None:
    chosen = options(__doc__)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    jobs = [(variant, beta, seed) for seed in range(chosen.seeds) for variant in VARIANTS for beta in variant.betas]
    results: dict[tuple[str, float], list[Outcome]] = {}
    for variant, beta, seed in track(jobs, "training"):
        results.setdefault((variant.name, beta), []).append(run(variant, beta, seed, images, labels))
    plain = median(each.seconds for each in results["none", 0.0])
    rows = []
    for variant in VARIANTS:
        outcomes, beta = min(
            ((results[variant.name, beta], beta) for beta in variant.betas),
            key=lambda pair: mean(o.chosen_by for o in pair[0]),
        )
        rows.append([
            variant.name,
            f"{beta:g}" if 0 < beta < math.inf else "",
            spread([100 * o.accuracy for o in outcomes], ".1f"),
            spread([o.loss for o in outcomes], ".3f"),
            spread([100 * o.calibration for o in outcomes], ".1f"),
            f"{max(o.residual for o in outcomes):.0e}",
            f"{median(o.seconds for o in outcomes) / plain:.2f}",
        ])  # fmt: skip
    header = ("weights", "β", "accuracy, %", "loss", "calibration error, %", "largest \\|X_jk\\|", "time of a step")
    note = (
        f"Three convolutions and a linear layer, {LEARN} digits to learn from, Adam, lr {LR:g}, {EPOCHS} epochs; β is "
        f"the one of {', '.join(f'{b:g}' for b in BETAS)} with the least loss on {CHOOSE} others. Mean ± standard "
        f"deviation of {chosen.seeds} seeds on the remaining digits; time of a step over that without a penalty."
    )
    write_table("digits_classifier", chosen.out, header, rows, note)


if __name__ == "__main__":
    main()
