"""Find the circles of a network that adds modulo a prime: block features, beside a sparse autoencoder of directions.

    python examples/modular_addition.py [--store FOLDER]

A network with one hidden layer is trained on pairs of residues. Its solution is known: the weights of a neuron over the
residues are a cosine, of one frequency and any phase. So the tuning curves of its neurons over the residues lie on
circles, one for each frequency, in planes spanned by a cosine and a sine. (The embedding of a residue is the sum of all
circles at once; there is nothing sparse in it.) Block features of two dimensions should have one group for each
frequency; directions can only tile a circle by several of them. Printed for each seed and written as a table and a
picture into docs/measured. About two minutes on 2 cores. With `--store`, one network is trained and its tuning curves
are captured into a store, for `gramian features`; `make features` does both.
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from evidence import options, spread, write_table
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from gramian.activations import Batch, capture
from gramian.coding import SubspaceSparseCoding, block_omp, block_recovery, match

PRIME, WIDTH, STEPS, LR, DECAY, SEEN = 31, 256, 2000, 3e-3, 1.0, 0.8
FREQUENCIES = (PRIME - 1) // 2
GROUPS, SIZE = 3 * FREQUENCIES, 2
SAME, RARE = 0.8, 0.02
"""Groups of a larger mean squared cosine are one; groups of a smaller share of the samples are left out."""
PURE = 0.9
"""A group or a direction belongs to a frequency that has this share of its Fourier power."""


@dataclass(frozen=True)
class Network:
    """A trained network."""

    curves: Tensor
    """Tuning curves of all neurons over the first and the second residue, [2·WIDTH, PRIME]: mean 0, variance 1."""
    accuracy: float
    """Share of right answers for pairs that training never saw."""


def train(seed: int) -> Network:
    """Train on some of all pairs of residues: (u_a + v_b)² W, by AdamW with weight decay."""
    generator = torch.Generator().manual_seed(seed)
    target = ((torch.arange(PRIME)[:, None] + torch.arange(PRIME)) % PRIME).flatten()
    seen = torch.rand(PRIME**2, generator=generator) < SEEN
    u, v = (nn.Parameter(torch.randn(PRIME, WIDTH, generator=generator) / WIDTH**0.5) for _ in range(2))
    w = nn.Parameter(torch.randn(WIDTH, PRIME, generator=generator) / WIDTH**0.5)
    optimizer = torch.optim.AdamW([u, v, w], lr=LR, weight_decay=DECAY, betas=(0.9, 0.98))
    logits = torch.zeros(PRIME**2, PRIME)
    for _ in range(STEPS):
        logits = (u[:, None] + v).square().flatten(0, 1) @ w
        optimizer.zero_grad()
        cross_entropy(logits[seen], target[seen]).backward()
        optimizer.step()
    right = logits.argmax(dim=1) == target
    curves = torch.cat([u.detach().mT, v.detach().mT])
    curves = normalize(curves - curves.mean(dim=1, keepdim=True), dim=1) * PRIME**0.5
    return Network(curves, right[~seen].double().mean().item())


def fourier_power(vectors: Tensor) -> Tensor:
    """Compute the power at frequencies 1 … (p − 1)/2 of functions of the residue, [PRIME, …] → [FREQUENCIES, …]."""
    return torch.fft.rfft(vectors.double(), dim=0).abs().square()[1:]


def planes() -> Tensor:
    """Return the plane of each frequency, spanned by a cosine and a sine, [PRIME, FREQUENCIES, 2]."""
    angles = math.tau * torch.arange(PRIME)[:, None] * torch.arange(1, FREQUENCIES + 1) / PRIME
    return torch.stack([angles.cos(), angles.sin()], dim=2) * (2 / PRIME) ** 0.5


def block_features(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Learn groups of two directions, one of which is active; return Φ[l, m, 2] and codes [samples, m, 2]."""
    model = SubspaceSparseCoding(
        n_groups=GROUPS, group_size=SIZE, prior="group_l0", infer=partial(block_omp, active=1), steps=1000,
        random_state=seed,
    ).fit(x)  # fmt: skip
    phi = distinct(model.phi_, block_omp(x, model.phi_, active=1).codes)
    codes = block_omp(x, phi, active=1).codes
    often = (codes != 0).any(dim=2).double().mean(dim=0) > RARE
    return phi[:, often], block_omp(x, phi[:, often], active=1).codes


def distinct(phi: Tensor, codes: Tensor) -> Tensor:
    """Keep of groups that span nearly the same plane only the one of the largest codes."""
    overlap = torch.einsum("lmi,lkj->mkij", phi, phi).square().sum(dim=(2, 3)) / SIZE
    kept: list[int] = []
    for group in codes.square().sum(dim=(0, 2)).argsort(descending=True).tolist():
        if not kept or float(overlap[group, kept].max()) < SAME:
            kept.append(group)
    return phi[:, kept]


class SparseAutoencoder(nn.Module):
    """A TopK autoencoder of as many directions as the block features have, of which as many are active."""

    def __init__(self, x: Tensor, seed: int) -> None:
        super().__init__()
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: GROUPS * SIZE]
        self.decoder = nn.Parameter(normalize(x[rows], dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.bias = nn.Parameter(torch.zeros(len(rows)))

    def encode(self, x: Tensor) -> Tensor:
        """Return codes [samples, directions], all but the SIZE largest 0."""
        codes = torch.addmm(self.bias, x, self.encoder.mT).relu()
        largest = codes.topk(SIZE, dim=1)
        return torch.zeros_like(codes).scatter(1, largest.indices, largest.values)

    def fit(self, x: Tensor, steps: int = 2000) -> "SparseAutoencoder":
        """Train by Adam on all samples at once, with directions of length 1."""
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            (self.encode(x) @ self.decoder - x).square().sum(dim=1).mean().backward()
            optimizer.step()
            with torch.no_grad():
                self.decoder /= torch.linalg.vector_norm(self.decoder, dim=1, keepdim=True)
        return self


def directions_of(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Learn directions that some sample uses; return them as groups of one, [l, m, 1], and codes [samples, m, 1]."""
    model = SparseAutoencoder(x, seed).fit(x)
    codes = model.encode(x).detach()
    used = (codes > 0).any(dim=0)
    return model.decoder.detach().mT[:, used, None], codes[:, used, None]


@dataclass(frozen=True)
class Outcome:
    """What was learned from one network."""

    used: int
    """Number of groups or directions that some sample uses."""
    found: float
    """Share of the frequencies of the network with a group, or a direction, of their own."""
    each: float
    """Mean number of groups or directions of a frequency that has some."""
    purity: float
    """Median share of the Fourier power at the largest frequency."""
    r2: float
    """Block R²: how well one group, or the best two directions, give the contribution of a frequency."""
    unexplained: float
    """Share of the variance of the curves that is not reconstructed."""
    returned: float
    """Share of the groups or directions that come back when they are learned with another seed."""
    overlap: float
    """Their mean squared cosine with those."""


def judge(phi: Tensor, codes: Tensor, x: Tensor, again: Tensor) -> Outcome:
    """Measure groups [l, m, n], beside those learned with another seed; a group of one vector is a direction."""
    live = (codes != 0).any(dim=2).any(dim=0)
    phi, codes = phi[:, live], codes[:, live]
    stability = match(phi, again)
    power = fourier_power(phi * codes.square().mean(dim=0).sqrt()).sum(dim=2)
    purity = power.amax(dim=0) / power.sum(dim=0)
    counts = torch.bincount(power.argmax(dim=0)[purity > PURE], minlength=FREQUENCIES)
    error = x - codes.flatten(1) @ phi.flatten(1).mT

    truth = planes()
    active = frequency_of(x)[:, None] == torch.arange(FREQUENCIES)
    true_codes = torch.einsum("bl,lfj->bfj", x, truth) * active[..., None]
    if phi.shape[2] == 1:
        phi, codes = best_pairs(phi[:, :, 0], codes[:, :, 0], active)
    used = active.any(dim=0)
    return Outcome(
        used=int(live.sum()),
        found=(counts[used] > 0).double().mean().item(),
        each=counts[counts > 0].double().mean().item() if bool(counts.any()) else math.nan,
        purity=purity.median().item(),
        r2=block_recovery(phi, codes, truth, true_codes, active).r2[used].mean().item(),
        unexplained=(error.square().sum() / x.square().sum()).item(),
        returned=stability.share,
        overlap=stability.overlap.mean().item(),
    )


def frequency_of(x: Tensor) -> Tensor:
    """Return the place of the largest frequency of each curve."""
    return fourier_power(x.mT).argmax(dim=0)


def best_pairs(directions: Tensor, codes: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Group, for each frequency, the two directions whose activity predicts it best, by the F1 score."""
    fires = (codes > 0).double()
    both = active.mT.double() @ fires
    f1 = 2 * both / (active.sum(dim=0)[:, None] + fires.sum(dim=0)).clamp_min(1)
    best = f1.topk(2, dim=1).indices
    return directions[:, best], codes[:, best]


def picture(x: Tensor, codes: Tensor, latents: Tensor, columns: int = 5) -> Figure:
    """Draw the neurons in the planes of some frequencies, coloured by the group or the direction that codes them."""
    drawing = Figure(figsize=(2.1 * columns, 4.6), layout="constrained", dpi=110)
    axes = drawing.subplots(2, columns, sharex=True, sharey=True)
    frequency, truth = frequency_of(x), planes()
    strongest = (codes.square().sum(dim=2).argmax(dim=1), latents.argmax(dim=1))
    chosen = torch.bincount(frequency, minlength=FREQUENCIES).argsort(descending=True)[:columns].sort().values.tolist()
    for column, f in enumerate(chosen):
        neurons = frequency == f
        points = (x[neurons] @ truth[:, f]).numpy()
        for axis, groups, what in zip(axes[:, column], strongest, ("group", "direction"), strict=True):
            ids, labels = np.unique(groups[neurons].numpy(), return_inverse=True)
            axis.scatter(*points.T, c=labels, cmap="tab20", vmin=0, vmax=19, s=12)
            axis.set_title(f"frequency {f + 1}: {len(ids)} {what}{'s' if len(ids) > 1 else ''}", fontsize=9)
            axis.set(aspect="equal", xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], ("block features", "TopK autoencoder"), strict=True):
        axis.set_ylabel(name)
    return drawing


def store(path: Path) -> None:
    """Train a network and capture the tuning curves of its neurons, with the frequency of each; keep a whole store."""
    network = train(0)
    curves = nn.Embedding.from_pretrained(network.curves)
    names = [
        f"frequency {f + 1}: neuron {i % WIDTH}, {'second' if i >= WIDTH else 'first'} residue"
        for i, f in enumerate(frequency_of(network.curves).tolist())
    ]
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0))
    batch = Batch(order, contexts=[names[i] for i in order.tolist()])
    manifest = capture(nn.Sequential(curves), [batch], layer="0", store=path, name="addition", resume=path.exists())
    print(f"right on {network.accuracy:.1%} of unseen pairs; {manifest.samples} tuning curves are in {path}")


def main() -> None:
    chosen = options(__doc__, paths=("store",))
    if chosen.store is not None:
        store(chosen.store)
        return
    outcomes: dict[str, list[Outcome]] = {"block features": [], "TopK autoencoder": []}
    networks: list[Network] = []
    for seed in range(chosen.seeds):
        began = time.perf_counter()
        network = train(seed)
        x = network.curves
        trained = time.perf_counter()
        phi, codes = block_features(x, seed)
        groups_again, _ = block_features(x, seed + 1000)
        learned = time.perf_counter()
        directions, latents = directions_of(x, seed)
        directions_again, _ = directions_of(x, seed + 1000)
        if seed == 0:
            drawn = picture(x, codes, latents[..., 0])
        networks.append(network)
        outcomes["block features"].append(judge(phi, codes, x, groups_again))
        outcomes["TopK autoencoder"].append(judge(directions, latents, x, directions_again))
        ended = time.perf_counter()
        print(f"seed {seed}: network {trained - began:.0f} s, right on {network.accuracy:.1%} of unseen pairs; "
              f"groups {learned - trained:.0f} s, directions {ended - learned:.0f} s", flush=True)  # fmt: skip
        for name, results in outcomes.items():
            print(f"  {name}: {results[-1]}", flush=True)
    rows = [
        [
            name,
            spread([each.used for each in results], ".0f"),
            spread([100 * each.found for each in results], ".0f") + " %",
            spread([each.each for each in results], ".1f"),
            spread([each.purity for each in results], ".3f"),
            spread([each.r2 for each in results], ".3f"),
            spread([100 * each.unexplained for each in results], ".1f") + " %",
            spread([100 * each.returned for each in results], ".0f") + " %",
            spread([each.overlap for each in results], ".2f"),
        ]
        for name, results in outcomes.items()
    ]
    header = ("features", "used", "frequencies found", "groups or directions of each", "Fourier share, median",
              "block R²", "variance unexplained", "come back with another seed", "overlap with these")  # fmt: skip
    used = [len(frequency_of(network.curves).unique()) for network in networks]
    between = "–".join(map(str, sorted({min(used), max(used)})))
    note = (
        f"Addition modulo {PRIME}: {WIDTH} neurons with the square as activation, {STEPS} steps of AdamW on "
        f"{100 * SEEN:.0f} % of all pairs, right on {spread([100 * n.accuracy for n in networks], '.1f')} % of the "
        f"others; {between} of {FREQUENCIES} frequencies used. {2 * WIDTH} tuning curves; "
        f"{GROUPS} groups of {SIZE}, of which one is active, learned with `group_l0` and `block_omp`, without those "
        f"that span the same plane as another (overlap above {SAME:g}) or are used by less than {100 * RARE:.0f} % of "
        f"the curves; {GROUPS * SIZE} directions of which {SIZE} are active. A frequency is found if a group or a "
        f"direction has {100 * PURE:.0f} % of its Fourier power there. Block R²: for directions, of the best two. Come "
        "back: above the 99th percentile of random subspaces that are matched as well, `gramian.coding.match`. Mean "
        "± standard deviation over seeds: "
        f"{chosen.seeds}."
    )
    write_table("modular_addition", chosen.out, header, rows, note)
    drawn.savefig(chosen.out / "modular_addition.png")


if __name__ == "__main__":
    main()
