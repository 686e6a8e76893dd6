"""A file of weights of every kind."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

FIRST = {"a.weight": (4, 12), "conv": (6, 3, 3, 3), "bias": (7,), "embed.weight": (20, 4)}


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in FIRST.items()}
    return made | {"count": torch.arange(5)}


def sharded(folder: Path) -> Path:
    held = tensors()
    first, second = (
        {name: held[name] for name in names} for names in (("a.weight", "count"), ("conv", "bias", "embed.weight"))
    )
    save_file(first, folder / "model-1.safetensors", {"format": "pt"})
    save_file(second, folder / "model-2.safetensors")
    placed = {name: f"model-{1 + (name in second)}.safetensors" for name in held}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}, indent=3))
    return index


def write(folder: Path, kind: str) -> Path:
    if kind == "sharded":
        return sharded(folder)
    path = folder / f"weights.{kind}"
    if kind == "safetensors":
        save_file(tensors(), path, {"trained": "by me", "step": "7"})
    elif kind == "npz":
        np.savez_compressed(path, **{name: each.numpy() for name, each in tensors().items()})
    else:
        torch.save({"model": tensors(), "epoch": 3}, path)
    return path
