"""Mutated files of weights through everything that reads them: nothing but a clear error may come out.

    python -m tests.faults.fuzz_files --seconds 60 --seed 0

Each case is decided by its seed, which is printed when it fails, with its files; the same seed makes them again.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from gramian.errors import GramianError, NotConvergedWarning
from gramian.weights import inspect_file, open_weights, orthogonalize_file


def _tensors(draw: random.Random) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    dtype = draw.choice((torch.float32, torch.float64, torch.float16, torch.bfloat16))
    return {
        "a.weight": torch.randn(2, 3, generator=generator).to(dtype),
        "a.bias": torch.randn(2, generator=generator),
        "count": torch.tensor(3),
        "mask": torch.ones(2, 2, dtype=torch.bool),
    }


def _safetensors(folder: Path, draw: random.Random) -> tuple[Path, Path]:
    path = folder / "w.safetensors"
    save_file(_tensors(draw), path, {"format": "pt"})
    return path, path


def _sharded(folder: Path, draw: random.Random) -> tuple[Path, Path]:
    held = _tensors(draw)
    names = list(held)
    for number, part in enumerate((names[:1], names[1:])):
        save_file({name: held[name] for name in part}, folder / f"m-{number}.safetensors")
    index = folder / "m.safetensors.index.json"
    placed = {name: f"m-{min(number, 1)}.safetensors" for number, name in enumerate(names)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index, draw.choice((index, index, folder / "m-0.safetensors"))


def _archive(folder: Path, draw: random.Random) -> tuple[Path, Path]:
    path = folder / "w.npz"
    held = {
        name: each.float().numpy() if each.is_floating_point() else each.numpy()
        for name, each in _tensors(draw).items()
    }
    held["text"] = np.array(["one", "two"])
    held["columns"] = np.asfortranarray(held["a.weight"]).astype(">f4")
    (np.savez if draw.random() < 0.6 else np.savez_compressed)(path, **held)
    return path, path


def _checkpoint(folder: Path, draw: random.Random) -> tuple[Path, Path]:
    path = folder / f"w{draw.choice(('.pt', '.pth', '.bin', '.ckpt'))}"
    held: dict[str, object] = dict(_tensors(draw))
    if draw.random() < 0.5:
        parameter = torch.nn.Parameter(torch.zeros(2, 2))
        optimiser = torch.optim.Adam([parameter])
        parameter.grad = torch.ones(2, 2)
        optimiser.step()
        held = {"model": held, "optimizer": optimiser.state_dict(), "epoch": 3}
    if draw.random() < 0.2:
        held["sparse"] = torch.eye(2).to_sparse()
    torch.save(held, path, _use_new_zipfile_serialization=draw.random() < 0.7)
    return path, path


KINDS = (_safetensors, _sharded, _archive, _checkpoint)

_NUMBERS = (0, 1, 2, 127, 128, 255)


def _mutate(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4))):
        if not changed:
            break
        # Mostly where the structure is: at the beginning, and at the end of archives.
        at = draw.choice((
            draw.randrange(len(changed)), draw.randrange(min(400, len(changed))),
            max(0, len(changed) - 1 - draw.randrange(400)),
        ))  # fmt: skip
        match draw.randrange(8):
            case 0 | 1:
                changed[at] = draw.randrange(256)
            case 2:
                changed[at] ^= 1 << draw.randrange(8)
            case 3:
                changed[at] = draw.choice(_NUMBERS)
            case 4:
                del changed[at : at + draw.randrange(1, 20)]
            case 5:
                changed[at:at] = changed[at : at + draw.randrange(1, 20)]
            case 6:
                del changed[at:]
            case _:
                digits = [place for place, each in enumerate(changed) if 48 <= each <= 57]
                if digits:
                    changed[draw.choice(digits)] = draw.choice(b"0123456789-e.")
    return bytes(changed)


def case(seed: int, folder: Path) -> Path:
    """Make the mutated file of a seed, and read, inspect and orthogonalize it.

    Raises:
        Exception: Anything but a GramianError that comes out; and AssertionError for a warning beside, or a trace.
    """
    draw = random.Random(seed)
    path, victim = draw.choice(KINDS)(folder, draw)
    victim.write_bytes(_mutate(victim.read_bytes(), draw))
    there = {each.name: each.read_bytes() for each in folder.iterdir()}
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for action in (_read, _inspect, _orthogonalize):
            try:
                action(path)
            except GramianError as error:
                messages.append(str(error))
    assert all(each.isprintable() for each in messages), f"more than a line, or colours: {messages}"
    beside = [str(each.message) for each in caught if not issubclass(each.category, NotConvergedWarning)]
    assert not beside, f"warnings beside: {beside}"
    now = {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}
    assert now.items() >= there.items(), "a source was changed"
    assert not any(name.endswith(".tmp") for name in now), "a temporary was left"
    return path


def _read(path: Path) -> None:
    weights = open_weights(path)
    for name in weights.entries:
        weights.read(name)


def _inspect(path: Path) -> None:
    inspect_file(path).as_dict()


def _orthogonalize(path: Path) -> None:
    target = path.parent / ("out" if path.suffix == ".json" else f"out{path.suffix}")
    orthogonalize_file(path, target, max_steps=2)
    weights = open_weights(target)
    for name in weights.entries:
        weights.read(name)


def run(seconds: float, seed: int, show: Callable[[str], None] = print) -> int:
    """Try cases one after the other for some seconds.

    Args:
        seconds: How long.
        seed: Of the first case; each next one has the next.
        show: Prints the seed of a case that fails.

    Returns:
        How many cases were tried.
    """
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-files-"))
        try:
            case(seed + count, folder)
        except BaseException as error:
            if isinstance(error, Exception):
                show(f"fuzz_files: seed {seed + count} fails with {type(error).__name__}; its files are in {folder}")
                raise
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
        count += 1
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Mutated files of weights; nothing but a clear error may come out.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"fuzz_files: seed {arguments.seed}")
    print(f"fuzz_files: {run(arguments.seconds, arguments.seed)} cases, no failure")
