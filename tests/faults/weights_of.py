"""Folders with weights of each kind, what stands beside them, and a command that rewrites them."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from gramian.orthogonalize import Orthogonalization, orthogonalize
from gramian.weights import orthogonalize_file, rewriting

KINDS = ("safetensors", "npz", "pt", "sharded")

BESIDE = {"thesis.tex": b"precious", "config.json": b"{}", "optimizer.pt": b"moments", ".hidden": b"x"}
"""What stands in the folder of the target and is none of the command's business."""


def make(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write weights of a kind into a folder and return what to open."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    held = {name: torch.randn(4, 8, generator=draw) for name in ("a.weight", "b.weight", "c.weight")}
    held["bias"] = torch.randn(4, generator=draw)
    if kind == "safetensors":
        save_file(held, folder / "w.safetensors")
        return folder / "w.safetensors"
    if kind == "npz":
        np.savez(folder / "w.npz", **{name: each.numpy() for name, each in held.items()})
        return folder / "w.npz"
    if kind == "pt":
        torch.save(held, folder / "w.pt")
        return folder / "w.pt"
    names = list(held)
    for number, part in enumerate((names[:1], names[1:2], names[2:])):
        save_file({name: held[name] for name in part}, folder / f"m-{number}.safetensors")
    index = folder / "m.safetensors.index.json"
    placed = {name: f"m-{min(number, 2)}.safetensors" for number, name in enumerate(names)}
    index.write_text(json.dumps({"metadata": {"seed": seed}, "weight_map": placed}))
    return index


def target_of(folder: Path, kind: str) -> Path:
    """The output of the command in a folder."""
    return folder if kind == "sharded" else folder / f"out.{kind}"


def run(source: Path, target: Path) -> None:
    """The command, which remembers what it has computed before."""
    kept = rewriting.orthogonalize
    rewriting.orthogonalize = _remembered
    try:
        orthogonalize_file(source, target, force=True)
    finally:
        rewriting.orthogonalize = kept


_RESULTS: dict[bytes, Orthogonalization] = {}


def _remembered(tensor: torch.Tensor, **options) -> Orthogonalization:
    key = tensor.numpy().tobytes()
    if key not in _RESULTS:
        _RESULTS[key] = orthogonalize(tensor, **options)
    return _RESULTS[key]


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that stands in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
