"""Denoise pictures with groups, with single atoms, and with the methods of scikit-image.

    python examples/denoising.py

learns dictionaries from clean pictures, denoises parts of two others, and writes denoising.md and denoising.png into
docs/measured; it takes about 10 minutes on 2 cores. Every method has one parameter, tuned on a picture of the training
set; λ is in units of the noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from evidence import options, spread, write_table
from matplotlib.figure import Figure
from rich.progress import track
from skimage import metrics, restoration

from gramian.coding import Learner, LearningOptions, cosine_decay, initial_dictionary, reconstruct
from gramian.coding.inference import fista
from gramian.images.samples import Preparation, shipped_images, split_held_out
from gramian.typing import Phi

SIZE, ATOMS, STRIDE, BATCH, LR, BETA = 8, 128, 2, 128, 0.5, 1.0
SPARSITY = 0.5
"""λ of learning for single atoms, √n times that for groups of n."""
NOISES = (0.05, 0.1, 0.2)
SIDE, TUNED_ON = 256, "chelsea"
GRID = tuple(0.7 * 2 ** (step / 4) for step in range(12))

Image = torch.Tensor
Denoiser = Callable[[Image, float, float], Image]
"""A function of a noisy picture, the standard deviation of its noise, and the parameter."""


@dataclass(frozen=True)
class Method:
    """A denoising method; `make` returns it for a seed."""

    name: str
    grid: Sequence[float]
    make: Callable[[int], Denoiser]


class Dictionaries:
    """Dictionaries learned from the clean training pictures, each of them once."""

    def __init__(self, steps: int) -> None:
        self.split = split_held_out(shipped_images(), min_side=2 * SIZE)
        clean = [image.pixels for image in self.split.train]
        self.preparation, self.sampler = Preparation.fit(clean, size=SIZE, whiten="none")
        self.steps = steps
        self._learned: dict[tuple[int, bool, int], Phi] = {}

    def learned(self, size: int, seed: int, *, penalised: bool = True) -> Phi:
        """Return a dictionary with groups of a size, learned on the first call."""
        key = size, penalised, seed
        if key not in self._learned:
            learner = Learner(
                initial_dictionary(SIZE**2, ATOMS // size, size, seed=seed),
                LearningOptions(
                    lam=SPARSITY * math.sqrt(size), beta=BETA, rule="proximal" if penalised else None, patience=200
                ),
            )
            for step in range(self.steps):
                batch, lr = self.sampler.sample(BATCH, seed=seed, step=step), cosine_decay(LR, step, self.steps)
                learner.step(batch, lr=lr, replace_silent=step < self.steps * 3 // 4)
            self._learned[key] = learner.phi
        return self._learned[key]

    def random_groups(self, size: int, seed: int) -> Phi:
        """Group single atoms at random."""
        atoms = self.learned(1, seed)[:, torch.randperm(ATOMS, generator=torch.Generator().manual_seed(seed)), 0]
        return atoms.unflatten(1, (-1, size)).contiguous()

    def denoiser(self, phi: Phi) -> Denoiser:
        """Return a denoiser that replaces every patch by its reconstruction, with λ in units of the noise."""

        def denoise(noisy: Image, noise: float, parameter: float) -> Image:
            samples = self.preparation.samples(noisy, stride=STRIDE)
            lam = parameter * noise / self.preparation.scale
            codes = [fista(x, phi, lam=lam, tol=1e-3).codes for x in samples.x.split(4096)]
            return self.preparation.picture(reconstruct(phi, torch.cat(codes)), samples)

        return denoise


def of_scikit_image(name: str) -> Denoiser:
    """Return a denoiser of scikit-image as a function of tensors."""

    def denoise(noisy: Image, noise: float, parameter: float) -> Image:
        array: Any = noisy.numpy()
        if name == "wavelet":
            cleaned = restoration.denoise_wavelet(
                array, sigma=parameter * noise, method="BayesShrink", mode="soft", wavelet="db2", rescale_sigma=True
            )
        elif name == "tv":
            cleaned = restoration.denoise_tv_chambolle(array, weight=parameter * noise)
        else:
            cleaned = restoration.denoise_nl_means(
                array, h=parameter * noise, sigma=noise, patch_size=5, patch_distance=11, fast_mode=True
            )
        return torch.from_numpy(np.ascontiguousarray(cleaned, dtype=np.float32)).clamp(0, 1)

    return denoise


def methods(dictionaries: Dictionaries) -> tuple[Method, ...]:
    """Return all methods."""

    def coded(size: int, seed: int, *, penalised: bool = True) -> Denoiser:
        return dictionaries.denoiser(dictionaries.learned(size, seed, penalised=penalised))

    return (
        Method("single atoms", GRID, partial(coded, 1)),
        Method("groups of 2", GRID, partial(coded, 2)),
        Method("groups of 4", GRID, partial(coded, 4)),
        Method("groups of 4, no penalty", GRID, partial(coded, 4, penalised=False)),
        Method(
            "random groups of 4 single atoms",
            GRID,
            lambda seed: dictionaries.denoiser(dictionaries.random_groups(4, seed)),
        ),
        Method("wavelets (BayesShrink)", (0.5, 0.7, 0.85, 1.0, 1.2), lambda _: of_scikit_image("wavelet")),
        Method("total variation", (0.5, 0.7, 0.85, 1.0, 1.2, 1.5), lambda _: of_scikit_image("tv")),
        Method("non-local means", (0.4, 0.5, 0.6, 0.7, 0.8, 1.0), lambda _: of_scikit_image("nlm")),
    )


def middle(pixels: Image, side: int) -> Image:
    """Crop the middle of a picture."""
    top, left = ((length - side) // 2 for length in pixels.shape)
    return pixels[top : top + side, left : left + side].contiguous()


def noisy(clean: Image, noise: float, seed: int) -> Image:
    """Add white noise without clipping."""
    return clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def psnr(clean: Image, denoised: Image) -> float:
    """Return the peak signal-to-noise ratio, dB."""
    return float(metrics.peak_signal_noise_ratio(clean.numpy(), denoised.numpy(), data_range=1))


def ssim(clean: Image, denoised: Image) -> float:
    """Return the structural similarity."""
    return float(metrics.structural_similarity(clean.numpy(), denoised.numpy(), data_range=1))


def best_parameter(method: Method, clean: Image, noise: float) -> float:
    """Return the parameter with the highest PSNR on a picture of the training set."""
    denoise, noisy_picture = method.make(0), noisy(clean, noise, seed=1000)
    return max(method.grid, key=lambda parameter: psnr(clean, denoise(noisy_picture, noise, parameter)))


def show(clean: Image, noisy_picture: Image, denoised: dict[str, Image]) -> Figure:
    """Draw a part of a picture: clean, noisy and denoised."""
    shown = {"clean": clean, "noisy": noisy_picture, **denoised}
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    axes = figure.subplots(2, math.ceil(len(shown) / 2))
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, picture) in zip(axes.flat, shown.items(), strict=False):
        axis.imshow(picture[:128, 64:192].clamp(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        title = name if name == "clean" else f"{name}\n{psnr(clean, picture.clamp(0, 1)):.1f} dB"
        axis.set_title(title, fontsize=9)
    return figure


def main() -> None:
    chosen = options(__doc__, steps=4000)
    dictionaries = Dictionaries(chosen.steps)
    denoisers = methods(dictionaries)
    clean = [middle(image.pixels, SIDE) for image in dictionaries.split.held_out]
    tuned_on = next(middle(image.pixels, SIDE) for image in dictionaries.split.train if image.name == TUNED_ON)
    parameters = {
        (method.name, noise): best_parameter(method, tuned_on, noise)
        for method in track(denoisers, "choosing")
        for noise in NOISES
    }
    scores: dict[tuple[str, float], list[tuple[float, float]]] = {}
    pictures: dict[str, Image] = {}
    for seed in track(range(chosen.seeds), "denoising"):
        for noise in NOISES:
            noisy_picture = [noisy(picture, noise, seed * len(clean) + i) for i, picture in enumerate(clean)]
            none = [picture.clamp(0, 1) for picture in noisy_picture]
            denoised = {"nothing": none}
            for method in denoisers:
                denoise, parameter = method.make(seed), parameters[method.name, noise]
                denoised[method.name] = [denoise(picture, noise, parameter) for picture in noisy_picture]
            for name, each in denoised.items():
                pairs = list(zip(clean, each, strict=True))
                score = mean(psnr(*pair) for pair in pairs), mean(ssim(*pair) for pair in pairs)
                scores.setdefault((name, noise), []).append(score)
            if seed == 0 and noise == NOISES[1]:
                pictures = {
                    "noisy": noisy_picture[0],
                    **{method.name: denoised[method.name][0] for method in denoisers},
                }

    def cells(name: str) -> list[str]:
        row = [name]
        for noise in NOISES:
            psnrs, ssims = zip(*scores[name, noise], strict=True)
            parameter = f", {parameters[name, noise]:.2g}" if (name, noise) in parameters else ""
            row.append(f"{spread(psnrs, '.2f')} / {spread(ssims, '.3f')}{parameter}")
        return row

    header = ("method", *(f"noise {noise:g}: PSNR, dB / SSIM, parameter" for noise in NOISES))
    held_out = " and ".join(image.name for image in dictionaries.split.held_out)
    note = (
        f"The middle {SIDE} × {SIDE} pixels of {held_out}, in [0, 1], with white noise of known standard deviation; "
        f"mean ± standard deviation of {chosen.seeds} seeds, of the noise and, where there is one, of the dictionary. "
        f"Dictionaries: {ATOMS} atoms of {SIZE} × {SIZE}, learned from the other pictures without noise in "
        f"{chosen.steps} steps of {BATCH} patches less their mean, λ = {SPARSITY:g}·√n, β = {BETA:g}; patches {STRIDE} "
        "pixels apart are coded and averaged. The parameter (λ, the threshold, weight or h, in units of the noise) is "
        f"the best of a grid for {TUNED_ON}, a picture of the training set. Non-local means: patches of 5 × 5, up to "
        "11 pixels away; wavelets: db2."
    )
    write_table(
        "denoising",
        chosen.out,
        header,
        [cells(name) for name in ("nothing", *(each.name for each in denoisers))],
        note,
    )
    show(clean[0], pictures.pop("noisy"), pictures).savefig(chosen.out / "denoising.png", dpi=120)
    print(f"written to {chosen.out / 'denoising.png'}")


if __name__ == "__main__":
    main()
