"""Measure how much longer a training step takes with `gramian.attach`.

    python benchmarks/training_step.py [--quick]

Two networks of the same weights are trained on the same batches in turn, one of them with an attachment; the ratio of
their steps is taken batch by batch. Writes benchmarks/results/training_step.md; two and a half minutes on an otherwise
idle machine, with --quick 20 seconds and no file.
"""

import argparse
import copy
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from record import commit, machine, table, write
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gramian
from gramian.training import Attachment

BETA, WARM, LEAST = 1.0, 3, 5
BATCH = 64
LAYERS, WIDTH, HEADS, SENTENCES, TOKENS, VOCABULARY = 6, 256, 8, 16, 128, 1000


class Block(nn.Module):
    """Two convolutions and a shortcut without weights, as the networks for CIFAR have."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        missing = y.shape[1] - shortcut.shape[1]
        return (y + nn.functional.pad(shortcut, (0, 0, 0, 0, missing // 2, missing - missing // 2))).relu()


def resnet20() -> nn.Module:
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    widths = [(16, 16)] * 3 + [(16, 32)] + [(32, 32)] * 2 + [(32, 64)] + [(64, 64)] * 2
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*stem, *(Block(*pair) for pair in widths), *head)


class Transformer(nn.Module):
    """Predicts the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        return self.head(self.layers(self.embedding(tokens), mask=mask, is_causal=True))


@dataclass(frozen=True)
class Training:
    """A network, its optimiser and its batches."""

    name: str
    network: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]


def images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, 3, 32, 32, generator=generator), torch.randint(10, (BATCH,), generator=generator)


def sentences(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (SENTENCES, TOKENS + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


TRAININGS = (
    Training(
        f"ResNet-20, batch {BATCH}",
        resnet20,
        lambda network: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
        images,
    ),
    Training(
        f"transformer, {LAYERS} layers, {WIDTH} wide, batch {SENTENCES} × {TOKENS}",
        Transformer,
        lambda network: torch.optim.AdamW(network.parameters(), lr=1e-3),
        sentences,
    ),
)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step_seconds(network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> float:
    inputs, targets = batch
    synchronize(inputs.device.type)
    start = time.perf_counter()
    optimizer.zero_grad()
    scores = network(inputs)
    cross_entropy(scores.flatten(0, -2), targets.flatten()).backward()
    optimizer.step()
    synchronize(inputs.device.type)
    return time.perf_counter() - start


def check_update(plain: nn.Module, attachment: Attachment, optimizer: torch.optim.Optimizer) -> None:
    """After the first step the weights are those without an attachment, after one update."""
    lr = optimizer.param_groups[0]["lr"]
    for target in attachment.targets:
        expected = plain.get_parameter(target.name).detach().clone()
        gramian.step_(expected, lr=lr, beta=BETA, layout=target.layout)
        torch.testing.assert_close(target.parameter.detach(), expected, rtol=1e-3, atol=1e-5)


def update_seconds(network: nn.Module, device: str, rounds: int) -> float:
    """Time the update alone: the step of an optimiser with gradients of zero that changes nothing else."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    attachment = gramian.attach(optimizer, network, beta=BETA)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for attached in (True, False):
            attachment.paused = not attached
            synchronize(device)
            start = time.perf_counter()
            optimizer.step()
            synchronize(device)
            times[attached].append(time.perf_counter() - start)
    attachment.remove()
    return median(times[True]) - median(times[False])


def row(training: Training, seconds: float, device: str) -> list[str]:
    """Time both networks in turn, in an order that changes, so that a disturbance affects both."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    plain = training.network().to(device)
    attached = copy.deepcopy(plain)
    optimizers = training.optimizer(plain), training.optimizer(attached)
    attachment = gramian.attach(optimizers[1], attached, beta=BETA)
    runs = list(zip((plain, attached), optimizers, strict=True))
    times: list[tuple[float, float]] = []
    end = math.inf
    for step in itertools.count():
        if step == WARM:
            end = time.perf_counter() + seconds
        if time.perf_counter() > end and len(times) >= LEAST:
            break
        inputs, targets = training.batch(generator)
        batch = inputs.to(device), targets.to(device)
        pair = [0.0, 0.0]
        for which in (0, 1) if step % 2 else (1, 0):
            pair[which] = step_seconds(*runs[which], batch)
        if step == 0:
            check_update(plain, attachment, optimizers[1])
        if step >= WARM:
            times.append((pair[0], pair[1]))
    assert attachment.steps == WARM + len(times)
    ratios = [100 * (with_it / without - 1) for without, with_it in times]
    low, _, high = quantiles(ratios, n=4)
    update = update_seconds(attached, device, rounds=50)
    without = median(without for without, _ in times)
    return [
        training.name,
        f"{len(attachment.targets)}",
        f"{len(times)}",
        f"{1e3 * without:.1f} ms",
        f"{1e3 * median(with_it for _, with_it in times):.1f} ms",
        f"{median(ratios):+.1f} % ({low:+.1f} to {high:+.1f})",
        f"{1e3 * update:.2f} ms, {100 * update / without:.1f} %",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds; writes no file")
    parser.add_argument("--seconds", type=float, default=70, help="time for each network (default 70)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to train (default cpu)")
    options = parser.parse_args()
    seconds = 5 if options.quick else options.seconds
    header = ["network", "weights", "pairs", "step", "with `attach`", "longer (quartiles)", "the update alone"]
    rows = [row(training, seconds, options.device) for training in TRAININGS]
    where = torch.cuda.get_device_name() if options.device == "cuda" else "the CPU"
    text = (
        table(header, rows)
        + "\nPairs of training steps (forward, backward, optimizer) of two copies on the same batches, in turn, on "
        f"{where} in float32; medians. The update alone: the median of a step of SGD with the attachment minus that of "
        "one while it is paused.\n\n"
        f"Measured by `python benchmarks/training_step.py` on {machine()}; commit {commit()}.\n"
    )
    if options.quick:
        print(text)
    else:
        write("training_step.md" if options.device == "cpu" else "training_step_gpu.md", text)


if __name__ == "__main__":
    main()
