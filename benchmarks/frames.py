"""Measure what it costs to keep the frames of a block-sparse autoencoder orthonormal, beside QR and others.

    python benchmarks/frames.py [--quick]

A decoder of m groups of n vectors has just been moved by a step of Adam. Each method makes its groups orthonormal
again, in place: the step of gramian (soft or hard), QR, the polar factor by the eigenvalues of the Gram matrices, and
Cholesky-QR. Every result is checked first; then the methods and a whole training step of a one-pass block-sparse
autoencoder are timed in turn. Writes benchmarks/results/frames.md; about ten minutes on an otherwise idle machine.
"""

import argparse
import math
import time
from collections.abc import Callable
from statistics import median

import torch
from record import machine, table, write
from torch import Tensor, nn

import gramian
from gramian.layout import as_phi
from gramian.penalties import L1
from gramian.rules import proximal
from gramian.typing import Phi

SHAPES = ((768, 8192, 4), (768, 8192, 2), (768, 4096, 8), (768, 2048, 16), (384, 4096, 4), (2048, 2048, 4))
QUICK = ((96, 256, 4), (128, 64, 16))
STORAGE = {"vectors last": "(m n) l -> l m n", "vectors first": "l (m n) -> l m n"}
"""Layouts of a decoder as a matrix: each vector of a group is a row [m·n, l], or a column [l, m·n]."""
BATCH, ACTIVE, ROUNDS, LR, BETA = 1024, 16, 7, 1e-3, 1.0

HEADER = ["l, m, n", "decoder", "method", "ms", "relative", "share of a training step", "left", "training step, ms"]

Method = Callable[[Tensor, gramian.Layout], object]


def write_back(decoder: Tensor, layout: gramian.Layout, frames: Tensor) -> None:
    """Copy frames [m, l, n] into the decoder."""
    decoder.copy_(layout.from_phi(frames.permute(1, 0, 2), tuple(decoder.shape)))


def matrices(decoder: Tensor, layout: gramian.Layout) -> Tensor:
    return layout.to_phi(decoder).permute(1, 0, 2)


def soft(decoder: Tensor, layout: gramian.Layout) -> None:
    gramian.step_(decoder, lr=LR, beta=BETA, layout=layout)


def hard(decoder: Tensor, layout: gramian.Layout) -> None:
    gramian.step_(decoder, lr=math.inf, layout=layout)


def restored(decoder: Tensor, layout: gramian.Layout) -> None:
    gramian.foreach.restore_([decoder], layouts=layout)


def qr(decoder: Tensor, layout: gramian.Layout) -> None:
    Q, R = torch.linalg.qr(matrices(decoder, layout))
    # Without the signs of R, vectors would jump to their negatives.
    write_back(decoder, layout, Q * R.diagonal(dim1=1, dim2=2).sign()[:, None])


def polar(decoder: Tensor, layout: gramian.Layout) -> None:
    P = matrices(decoder, layout)
    values, vectors = torch.linalg.eigh(P.mT @ P)
    write_back(decoder, layout, P @ ((vectors * values.rsqrt()[:, None]) @ vectors.mT))


def cholesky_qr(decoder: Tensor, layout: gramian.Layout) -> None:
    P = matrices(decoder, layout)
    L = torch.linalg.cholesky(P.mT @ P)
    write_back(decoder, layout, torch.linalg.solve_triangular(L.mT, P, upper=True, left=False))


METHODS: dict[str, Method] = {
    "gramian, soft": soft,
    "gramian, hard, one step": hard,
    "gramian, hard, to rounding": restored,
    "QR": qr,
    "polar, by eigh": polar,
    "Cholesky-QR": cholesky_qr,
}
EXACT = tuple(METHODS)[2:]
"""Methods that end orthonormal up to rounding, whatever the start."""


class Autoencoder(nn.Module):
    """A one-pass block-sparse autoencoder: a linear encoder, the groups of largest norm, a linear decoder."""

    def __init__(self, decoder: Tensor, layout: gramian.Layout) -> None:
        super().__init__()
        self.rows = layout.pattern.startswith("(m n)")
        self.size = dict(layout.sizes)["n"]
        self.decoder = nn.Parameter(decoder.clone())
        self.encoder = nn.Parameter((decoder if self.rows else decoder.mT).clone())
        self.bias = nn.Parameter(decoder.new_zeros(len(self.encoder)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction."""
        codes = torch.addmm(self.bias, x, self.encoder.mT).unflatten(1, (-1, self.size))
        strongest = codes.detach().square().sum(dim=2).topk(ACTIVE, dim=1).indices
        mask = torch.zeros(codes.shape[:2], device=x.device).scatter_(1, strongest, 1.0)
        codes = (codes * mask[..., None]).flatten(1)
        return codes @ (self.decoder if self.rows else self.decoder.mT)


def moved(shape: tuple[int, int, int], layout: gramian.Layout, device: str) -> Tensor:
    """Draw orthonormal frames, and move each entry by about a step of Adam."""
    length, m, n = shape
    generator = torch.Generator().manual_seed(0)
    frames = torch.linalg.qr(torch.randn(m, length, n, generator=generator)).Q
    frames += LR * torch.randn(frames.shape, generator=generator)
    size = (m * n, length) if layout.pattern.startswith("(m n)") else (length, m * n)
    return layout.from_phi(frames.permute(1, 0, 2), size).contiguous().to(device)


def check(method: Method, exact: bool, start: Tensor, layout: gramian.Layout) -> float:
    """Compare some hundred groups with the definition; return the largest |X_jk| that is left in them."""
    result = start.clone()
    method(result, layout)
    few = slice(None, None, max(1, layout.phi_shape(tuple(start.shape))[1] // 256))
    phi, before = as_phi(result, layout)[:, few], as_phi(start, layout)[:, few]
    left = gramian.residual(phi).abs().max().item()
    if method is soft or method is hard:
        rate = LR * BETA if method is soft else math.inf
        expected: Phi = before + proximal(before.double(), lr=rate, beta=1.0, penalty=L1()).change
        torch.testing.assert_close(phi.double(), expected, rtol=0, atol=2e-6)
    P, Q = before.permute(1, 0, 2), torch.linalg.qr(phi.permute(1, 0, 2)).Q  # a basis of the same span
    outside = (P - Q @ (Q.mT @ P)).abs().max().item()
    if (exact and left > 1e-5) or outside > 1e-5:
        raise SystemExit(f"{method.__name__} is wrong at {tuple(before.shape)}: |X| up to {left:.1e}, {outside:.1e}")
    return left


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def training_step(start: Tensor, layout: gramian.Layout) -> Callable[[], None]:
    """Prepare a training step: forward, backward and Adam, without frames."""
    model = Autoencoder(start, layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    length = start.shape[1] if model.rows else start.shape[0]
    x = torch.randn(BATCH, length, generator=torch.Generator().manual_seed(1)).to(start.device)

    def step() -> None:
        optimizer.zero_grad()
        (model(x) - x).square().sum(dim=1).mean().backward()
        optimizer.step()

    return step


def rows(shape: tuple[int, int, int], name: str, device: str, rounds: int) -> list[list[str]]:
    """Check all methods, then time them and the training step in turn."""
    layout = gramian.Layout(STORAGE[name], n=shape[2])
    start = moved(shape, layout, device)
    left = {key: check(method, key in EXACT, start, layout) for key, method in METHODS.items()}
    train = training_step(start, layout)
    train()  # allocates the moments of Adam
    whole: list[float] = []
    times: dict[str, list[float]] = {key: [] for key in METHODS}
    decoder = torch.empty_like(start)
    for _ in range(rounds):
        whole.append(seconds(train))
        for key, method in METHODS.items():
            decoder.copy_(start)
            times[key].append(seconds(lambda method=method: method(decoder, layout)))
    return [
        [
            ", ".join(map(str, shape)),
            name,
            key,
            f"{1e3 * median(times[key]):.1f}",
            f"{median(t / o for t, o in zip(times[key], times['gramian, hard, one step'], strict=True)):.1f}",
            f"{100 * median(t / w for t, w in zip(times[key], whole, strict=True)):.1f} %",
            f"{left[key]:.0e}",
            f"{1e3 * median(whole):.0f}",
        ]
        for key in METHODS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two small shapes; nothing is written")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    lines: list[list[str]] = []
    for shape in QUICK if chosen.quick else SHAPES:
        for name in STORAGE if shape == SHAPES[0] else tuple(STORAGE)[:1]:
            lines += rows(shape, name, chosen.device, ROUNDS)
            print(table(HEADER, lines[-len(METHODS) :]), flush=True)
    where = machine() if chosen.device == "cpu" else f"{torch.cuda.get_device_name()}; {machine()}"
    text = (
        f"{table(HEADER, lines)}\nStart: orthonormal frames in float32 whose entries have been moved by {LR:g} times a "
        f"normal variate. Soft: `step_(lr={LR:g}, beta={BETA:g})`; hard: `step_(lr=math.inf)`, one Newton–Schulz step, "
        "and `foreach.restore_`, as many as are needed. Times include reading the frames from the decoder and writing "
        f"them back. Relative: over the hard step, in the same round. Training step: batch {BATCH}, {ACTIVE} "
        f"active groups, dense products, Adam, without frames. Medians of {ROUNDS} interleaved rounds; largest |X_jk| "
        f"after one call, in 256 groups or more.\n\nMeasured by `python benchmarks/frames.py` on {where}.\n"
    )
    if chosen.quick:
        print(text)
    else:
        write("frames.md" if chosen.device == "cpu" else "frames_gpu.md", text)


if __name__ == "__main__":
    main()
