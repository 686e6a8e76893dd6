"""Learn tasks one after the other by LoRA, and measure how much of the earlier ones is forgotten.

    python examples/continual_lora.py [--seeds 5] [--minutes 3]     # saves, stops, and continues when called again

Each task gets a new pair of factors BA, which is added to the weight and frozen afterwards, and a head of two classes.
The rows of A of a new task are kept orthogonal to frozen vectors: to the rows of earlier A, as in O-LoRA, or to the
principal directions of the inputs that the layer had in earlier tasks, as in gradient projection memory. Ways to do it:

- the loss of O-LoRA, λΣ|A_old A_newᵀ| in the loss of the task,
- gradient projection: the part of ∂loss/∂A along the frozen vectors is removed before Adam's step,
- `gramian.attach(..., against=...)` with one β for all ranks and data.

Digits: scikit-learn's 8 × 8 digits, five tasks of two digits. A network of two hidden layers of 512 is trained on the
mirrored pictures of all ten before, and its second and third layer are adapted. Sentences: five tasks of two Python
packages, to which of the two a paragraph of its docstrings belongs; the last layer of all-MiniLM-L6-v2 is adapted (its
query, its value and its first dense layer), which `make examples` installs. Accuracies are among
the two classes of a task.
"""

import argparse
import importlib.util
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from evidence import FOLDER, spread, write_table
from sentence_encoder import model_folder
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import gramian
from gramian.files import replace_file
from gramian.frozen import FrozenBasis

RANKS, BETA, LAMBDA, ENERGY = (4, 16, 64), 30.0, 0.5, 0.95
TASKS = 5
STEPS = {"digits": 120, "sentences": 30}
BATCH = {"digits": 64, "sentences": 8}
LR, ALPHA = 5e-3, 16
PACKAGES = ("matplotlib", "numpy", "scipy", "sklearn", "torch", "transformers", "skimage", "PIL", "pip", "hypothesis")
PARAGRAPHS, HELD_OUT, TOKENS, RECORDED = 120, 60, 16, 128


@dataclass(frozen=True)
class Variant:
    """One way to protect earlier tasks."""

    name: str
    way: str = "none"
    vectors: str = "A"
    """Which frozen vectors: the A of earlier tasks, or directions of their inputs."""
    strength: float = 0.0


VARIANTS = (
    Variant("no protection"),
    Variant("A random and not trained", "fixed"),
    Variant("O-LoRA's loss", "loss", "A", LAMBDA),
    Variant("gradient projection", "projection", "A"),
    Variant("against, β = 1", "gramian", "A", 1.0),
    Variant("against, β = 30", "gramian", "A", BETA),
    Variant("gradient projection, inputs", "projection", "inputs"),
    Variant("against inputs, β = 30", "gramian", "inputs", BETA),
)
FEW = ("no protection", "O-LoRA's loss", "against, β = 30")
"""What is measured for every rank; all variants only for the middle one, because it takes long."""


@dataclass(frozen=True)
class Task:
    """Samples to learn from and to test with; a sample is one tensor or several."""

    x: tuple[Tensor, ...]
    y: Tensor
    x_test: tuple[Tensor, ...]
    y_test: Tensor


class Adapted(nn.Module):
    """A linear layer with frozen weights and the factors of the present task."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.register_buffer("weight", base.weight.detach().clone())
        self.register_buffer("bias", base.bias.detach().clone())
        self.A = nn.Parameter(torch.empty(rank, base.in_features))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = ALPHA / rank
        self.frozen: dict[str, list[Tensor]] = {"A": [], "inputs": []}
        self.seen: list[Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; record the inputs if asked."""
        if self.seen is not None:
            self.seen.append(x.detach().reshape(-1, x.shape[-1]))
        return functional.linear(x, self.weight, self.bias) + self.scale * (x @ self.A.mT) @ self.B.mT

    @torch.no_grad()
    def restart(self) -> None:
        """Begin a task."""
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.B.zero_()

    @torch.no_grad()
    def merge(self) -> None:
        """End a task: add BA to the weight, and keep the rows of A and new directions of the inputs."""
        self.frozen["A"].append(self.A.detach().clone())
        x = torch.cat(self.seen or [])
        known = torch.cat(self.frozen["inputs"] or [x[:0]])
        rest = x - x @ known.mT @ known
        _, values, rows = torch.linalg.svd(rest, full_matrices=False)
        share = 1 - (rest.square().sum() - values.square().cumsum(0)) / x.square().sum()
        self.frozen["inputs"].append(rows[: int((share < ENERGY).sum()) + 1])
        self.seen = None
        self.weight += self.scale * self.B @ self.A
        self.B.zero_()


class Digits(nn.Module):
    """A pretrained network of pictures, without its head."""

    def __init__(self, base: nn.Sequential, rank: int) -> None:
        super().__init__()
        self.first = base[0].requires_grad_(False)
        self.adapted = nn.ModuleList([Adapted(base[2], rank), Adapted(base[4], rank)])
        self.width = base[4].out_features

    def forward(self, x: Tensor) -> Tensor:
        """Compute the features of pictures."""
        x = functional.relu(self.first(x))
        for layer in self.adapted:
            x = functional.relu(layer(x))
        return x


class Sentences(nn.Module):
    """The last layer of the encoder, which gets what the layers before it compute, and the mean over tokens."""

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        attention = layer.attention.self
        self.adapted = nn.ModuleList(
            [Adapted(each, rank) for each in (attention.query, attention.value, layer.intermediate.dense)]
        )
        self.key = attention.key.requires_grad_(False)
        self.after = layer.attention.output.requires_grad_(False)
        self.output = layer.output.requires_grad_(False)
        self.heads = attention.num_attention_heads
        self.width = attention.query.in_features

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Compute sentence embeddings."""
        query, value, dense = self.adapted
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for each in (query(hidden), self.key(hidden), value(hidden)))  # fmt: skip
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None].bool())
        attended = self.after(mixed.transpose(1, 2).flatten(2), hidden)
        tokens = self.output(functional.gelu(dense(attended)), attended) * mask[:, :, None]
        return 4 * functional.normalize(tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True))


class Protection:
    """What a variant does during the steps of a task."""

    def __init__(self, variant: Variant, model: Any, optimizer: torch.optim.Optimizer) -> None:
        self.variant = variant
        self.old = {
            f"adapted.{i}.A": (layer, layer.frozen[variant.vectors])
            for i, layer in enumerate(model.adapted)
            if layer.frozen[variant.vectors]
        }
        if variant.way == "gramian" and self.old:
            against = {name: old for name, (_, old) in self.old.items()}
            gramian.attach(
                optimizer, model, beta=0.0, select=list(against), layouts="r i -> i () r", against=against,
                against_beta=variant.strength,
            )  # fmt: skip
        if variant.way == "projection":
            self.bases = [
                (layer, FrozenBasis([each.mT for each in old]).Q[:, 0].float()) for layer, old in self.old.values()
            ]
            with torch.no_grad():
                for layer, Q in self.bases:
                    layer.A -= layer.A @ Q @ Q.mT
        elif variant.way == "loss":
            self.rows = [(layer, torch.cat(old)) for layer, old in self.old.values()]

    def loss(self) -> Tensor | float:
        """Return what is added to the loss of the task."""
        if self.variant.way != "loss":
            return 0.0
        return self.variant.strength * sum((rows @ layer.A.mT).abs().sum() for layer, rows in self.rows)

    def change_gradients(self) -> None:
        """Change the gradients before the step of the optimiser."""
        if self.variant.way == "projection":
            for layer, Q in self.bases:
                layer.A.grad -= layer.A.grad @ Q @ Q.mT


class Stage:
    """The training of one task, step by step."""

    def __init__(self, variant: Variant, model: Any, task: Task, generator: torch.Generator, batch: int) -> None:
        self.model, self.task, self.generator, self.batch = model, task, generator, batch
        for layer in model.adapted:
            layer.restart()
        self.head = nn.Linear(model.width, 2)
        factors = [factor for layer in model.adapted for factor in (layer.A, layer.B)]
        self.optimizer = torch.optim.Adam([*factors, *self.head.parameters()], lr=LR)
        for layer in model.adapted:
            layer.A.requires_grad_(variant.way != "fixed")
        self.protection = Protection(variant, model, self.optimizer)
        with torch.no_grad():
            self.added = float(self.protection.loss())

    def step(self) -> float:
        """Make a step; return its seconds."""
        chosen = torch.randint(len(self.task.y), (self.batch,), generator=self.generator)
        x, y = [each[chosen] for each in self.task.x], self.task.y[chosen]
        start = time.perf_counter()
        self.optimizer.zero_grad()
        (functional.cross_entropy(self.head(self.model(*x)), y) + self.protection.loss()).backward()
        self.protection.change_gradients()
        self.optimizer.step()
        return time.perf_counter() - start

    @torch.no_grad()
    def end(self) -> nn.Linear:
        """Keep what later tasks need."""
        for layer in self.model.adapted:
            layer.seen = []
        self.model(*[each[:: max(1, len(each) // RECORDED)] for each in self.task.x])
        for layer in self.model.adapted:
            layer.merge()
        return self.head


@torch.no_grad()
def accuracy(model: nn.Module, head: nn.Linear, task: Task) -> float:
    """Return the accuracy of a task among its two classes, in per cent."""
    return 100 * (head(model(*task.x_test)).argmax(dim=1) == task.y_test).double().mean().item()


def overlap(model: Any, vectors: str) -> float:
    """Return the largest |q_jᵀa|/|a| over the rows a of A and the basis of frozen vectors."""
    largest = 0.0
    for layer in model.adapted:
        if layer.frozen[vectors]:
            Q = FrozenBasis([each.mT for each in layer.frozen[vectors]]).Q[:, 0].float()
            largest = max(largest, (functional.normalize(layer.A.detach()) @ Q).abs().max().item())
    return largest


def run(variant: Variant, model: Any, tasks: Sequence[Task], data: str, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    heads: list[nn.Linear] = []
    first: list[float] = []
    added, overlaps = 0.0, [0.0]
    for task in tasks:
        stage = Stage(variant, model, task, generator, BATCH[data])
        added = max(added, stage.added)
        for _ in range(STEPS[data]):
            stage.step()
        overlaps.append(overlap(model, variant.vectors))
        heads.append(stage.end())
        first.append(accuracy(model, heads[-1], task))
    last = [accuracy(model, head, task) for head, task in zip(heads, tasks, strict=True)]
    return {
        "new": mean(first[1:]),
        "forgetting": mean(before - after for before, after in zip(first[:-1], last[:-1], strict=True)),
        "known": mean(last),
        "overlap": max(overlaps),
        "added": added,
    }


def costs(build: Any, tasks: Sequence[Task], data: str, rank: int) -> dict[str, float]:
    """Measure the time of a step of the last task over that without protection: medians of steps in turn."""
    stages: dict[str, Stage] = {}
    for variant in variants_of(rank):
        model, generator = build(rank), torch.Generator().manual_seed(0)
        for task in tasks[:-1]:
            Stage(Variant("none"), model, task, generator, BATCH[data]).end()
        stages[variant.name] = Stage(variant, model, tasks[-1], generator, BATCH[data])
    ratios: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(30):
        times = {name: stage.step() for name, stage in stages.items()}
        for name, seconds in times.items():
            ratios[name].append(seconds / times[VARIANTS[0].name])
    return {name: median(values) for name, values in ratios.items()}


def digits_tasks(seed: int) -> tuple[list[Task], Any]:
    """Return the tasks, and a function from a rank to the pretrained network."""
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(seed)
    base = nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-3)
    mirrored = x.flip(2).flatten(1)
    for _ in range(200):
        chosen = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        functional.cross_entropy(base(mirrored[chosen]), y[chosen]).backward()
        optimizer.step()
    order = torch.randperm(len(x))
    tasks = []
    for number in range(TASKS):
        which = order[(y[order] // 2) == number]
        learn, test = which[:200], which[200:]
        pictures = x.flatten(1)
        tasks.append(Task((pictures[learn],), y[learn] % 2, (pictures[test],), y[test] % 2))
    return tasks, lambda rank: Digits(base, rank)


def paragraphs(folder: Path) -> dict[str, list[str]]:
    """Return paragraphs of the docstrings of each package, without its name; kept in a file."""
    cache = folder / "paragraphs.json"
    if not cache.exists():
        import ast

        texts: dict[str, dict[str, None]] = {name: {} for name in PACKAGES}
        for name in PACKAGES:
            spec = importlib.util.find_spec(name)
            for file in sorted(Path(spec.origin).parent.rglob("*.py")) if spec and spec.origin else []:
                if len(texts[name]) > 3 * (PARAGRAPHS + HELD_OUT) or "test" in file.name:
                    continue
                try:
                    tree = ast.parse(file.read_bytes())
                except (SyntaxError, ValueError):
                    continue
                nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
                for text in (ast.get_docstring(node) or "" for node in nodes):
                    line = " ".join(re.sub(r"[`*]", "", text.split("\n\n")[0]).split())
                    if line.endswith(".") and 5 <= len(line.split()) <= 12 and name not in line.lower():
                        texts[name][line] = None
        replace_file(cache, json.dumps({name: list(lines) for name, lines in texts.items()}).encode())
    return json.loads(cache.read_text())


def sentences_tasks(seed: int, folder: Path) -> tuple[list[Task], Any]:
    """Return the tasks, and a function from a rank to the encoder's last layer."""
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(model_folder()).eval()
    last = encoder.encoder.layer[-1]
    cache = folder / "hidden.pt"
    if not cache.exists():
        tokenizer = AutoTokenizer.from_pretrained(model_folder())
        kept: dict[str, tuple[Tensor, Tensor]] = {}
        for name, lines in paragraphs(folder).items():
            generator = torch.Generator().manual_seed(0)
            chosen = [lines[i] for i in torch.randperm(len(lines), generator=generator)[: PARAGRAPHS + HELD_OUT]]
            batch = tokenizer(chosen, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
            with torch.no_grad():
                hidden = encoder(**batch, output_hidden_states=True).hidden_states[-2]
            kept[name] = (hidden.half(), batch["attention_mask"])
        torch.save(kept, cache)
    kept = torch.load(cache)
    torch.manual_seed(seed)
    names = [PACKAGES[i] for i in torch.randperm(len(PACKAGES))]
    tasks = []
    for number in range(TASKS):
        parts: list[tuple[Tensor, ...]] = []
        for label, name in enumerate(names[2 * number : 2 * number + 2]):
            hidden, mask = kept[name]
            order = torch.randperm(len(hidden))
            hidden, mask = hidden[order].float(), mask[order].float()
            y = torch.full((len(hidden),), label)
            parts.append((hidden[:-HELD_OUT], mask[:-HELD_OUT], y[:-HELD_OUT],
                          hidden[-HELD_OUT:], mask[-HELD_OUT:], y[-HELD_OUT:]))  # fmt: skip
        h, m, y, h_test, m_test, y_test = (torch.cat(pair) for pair in zip(*parts, strict=True))
        tasks.append(Task((h, m), y, (h_test, m_test), y_test))
    return tasks, lambda rank: Sentences(last, rank)


def variants_of(rank: int) -> list[Variant]:
    return [variant for variant in VARIANTS if rank == RANKS[1] or variant.name in FEW]


def load(data: str, seed: int, folder: Path) -> tuple[list[Task], Any]:
    return digits_tasks(seed) if data == "digits" else sentences_tasks(seed, folder)


def table(data: str, results: dict[str, dict[str, float]], seeds: int, ranks: Sequence[int], folder: Path) -> None:
    rows = []
    for rank in ranks:
        cost = results[f"{data} {rank} costs"]
        for variant in variants_of(rank):
            each = [results[f"{data} {rank} {variant.name} {seed}"] for seed in range(seeds)]
            added = mean(one["added"] for one in each)
            rows.append([
                str(rank), variant.name, *(spread([one[key] for one in each], ".1f")
                                           for key in ("new", "forgetting", "known")),
                f"{max(one['overlap'] for one in each):.0e}", f"{added:.0f}" if added else "",
                f"{cost[variant.name]:.2f}",
            ])  # fmt: skip
    header = ("r", "earlier tasks are protected by", "accuracy of a new task, %", "forgetting, %",
              "accuracy at the end, %", "largest \\|cos\\|",
              "loss added at the start", "time of a step")  # fmt: skip
    what = {
        "digits": "Five tasks of two digits each, 200 pictures of a task to learn from, the others to test",
        "sentences": f"Five tasks of two packages each, {2 * PARAGRAPHS} paragraphs of a task to learn from, "
        f"{2 * HELD_OUT} to test; the pairs of packages differ between seeds",
    }[data]
    note = (
        f"{what}. LoRA with α = {ALPHA}, Adam, lr {LR:g}, {STEPS[data]} steps of {BATCH[data]} samples for each task; "
        f"λ = {LAMBDA:g}; inputs: the directions with {100 * ENERGY:.0f} % of their squared norm. Forgetting is "
        "the accuracy after a task minus that after all tasks, without the last one. |cos| is between rows of A and "
        f"the basis of the frozen vectors, the largest of all tasks and seeds. Mean ± standard deviation of {seeds} "
        "seeds; time of a step of the fifth task over that without protection, median of steps in turn."
    )
    write_table("continual_lora", folder, header, rows, note, part=data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="default 5")
    parser.add_argument("--ranks", type=int, nargs="*", default=RANKS, help="default 4 16 64")
    parser.add_argument("--data", choices=STEPS, nargs="*", default=list(STEPS), help="default both")
    parser.add_argument("--minutes", type=float, default=1e6, help="start nothing after this time; default no limit")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "continual_lora", help="results so far")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the tables")
    chosen = parser.parse_args()
    end = time.monotonic() + 60 * chosen.minutes
    chosen.runs.mkdir(parents=True, exist_ok=True)
    path = chosen.runs / "results.json"
    results: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}

    def keep(key: str, compute: Any) -> None:
        if key not in results:
            if time.monotonic() > end:
                sys.exit("not finished; the same command continues")
            results[key] = compute()
            print(key, {name: round(value, 3) for name, value in results[key].items()}, flush=True)
            replace_file(path, json.dumps(results).encode())

    for data in chosen.data:
        for seed in range(chosen.seeds):
            tasks, build = load(data, seed, chosen.runs)
            for rank in chosen.ranks:
                for variant in variants_of(rank):
                    keep(f"{data} {rank} {variant.name} {seed}",
                         lambda v=variant, r=rank, b=build, t=tasks, d=data, s=seed: run(v, b(r), t, d, s))  # fmt: skip
        tasks, build = load(data, 0, chosen.runs)
        for rank in chosen.ranks:
            keep(f"{data} {rank} costs", lambda r=rank, b=build, t=tasks, d=data: costs(b, t, d, r))
        table(data, results, chosen.seeds, chosen.ranks, chosen.out)


if __name__ == "__main__":
    main()
