"""Hostile files of runs: settings, metrics, dictionaries and codes with bytes or values changed.

Whatever is read from them, either it is answered, or a `GramianError` says what must hold: nothing else may come out.
"""

import argparse
import json
import random
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gramian.errors import GramianError
from gramian.images import Dictionary, load_codes, load_dictionary, save_codes
from gramian.images.encoding import EncodedPicture, decode_picture, encode_picture
from gramian.images.run import LearningRun, RunSettings
from gramian.images.samples import Picture
from tests.crops import save_crops

__all__ = ["Victim", "changed", "run"]

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2.5, -0.0, 1e300, 1e-300, float("nan"), float("inf"), 10**30, -(2**70), 2**63),
    *("", "a", "0.1", "\0", "\udcff", "meta", "cuda:9", "/", "/dev/null", "a" * 5000, [], [1], {}, {"a": [None]}),
)


class Victim:
    """A small run, its files, and a picture coded with its dictionary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pictures = save_crops(folder / "pictures", count=3, side=32)
        settings = RunSettings(groups=4, size=2, patch=4, batch=4, iterations=2, steps=9, images=str(pictures))
        learned = LearningRun(settings)
        learned.log_metrics(seconds=0.0)
        learned.advance()
        learned.log_metrics(seconds=1.0)
        self.run = folder / "run"
        learned.save(self.run)
        self.dictionary: Dictionary = load_dictionary(self.run / "dictionary.safetensors")
        pixels = torch.rand(12, 14, generator=torch.Generator().manual_seed(0))
        self.encoded: EncodedPicture = encode_picture(Picture("a.png", pixels), self.dictionary)
        self.codes = folder / "a.codes.safetensors"
        save_codes(self.codes, self.encoded)
        self.whole = {path: path.read_bytes() for path in (*sorted(self.run.iterdir()), self.codes)}

    def read(self, path: Path) -> None:
        """Read what was changed, as the commands do."""
        if path == self.codes:
            decode_picture(load_codes(path), self.dictionary)
        else:
            if path.suffix == ".safetensors":
                load_dictionary(path)
            LearningRun.resume(self.run).advance()


def changed(content: bytes, draw: random.Random) -> bytes:
    """Change some bytes: flipped, replaced, cut out, doubled, or the end cut off."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        place = draw.randrange(len(damaged) or 1)
        if draw.random() < 0.3:  # the header of safetensors, where most can go wrong
            place = min(place, draw.randrange(600))
        size = draw.choice((1, 1, 1, 2, 8, 100))
        kind = draw.choice(("flip", "flip", "replace", "remove", "double", "end"))
        if kind == "flip" and damaged:
            damaged[place] ^= 1 << draw.randrange(8)
        elif kind == "replace":
            damaged[place : place + size] = draw.randbytes(size)
        elif kind == "remove":
            del damaged[place : place + size]
        elif kind == "double":
            damaged[place:place] = damaged[place : place + size]
        elif kind == "end":
            del damaged[place:]
    return bytes(damaged)


def run(seconds: float, seed: int) -> None:
    """Change files for as long as asked.

    Raises:
        AssertionError: At the first file that is answered by anything but a `GramianError`.
    """
    draw = random.Random(seed)
    folder = Path(tempfile.mkdtemp())
    ends = time.monotonic() + seconds
    try:
        victim = Victim(folder)
        count = 0
        while time.monotonic() < ends:
            count += 1
            path = draw.choice(list(victim.whole))
            how = draw.choice((_bytes, _value))
            content = how(path, victim.whole[path], draw)
            path.write_bytes(content)
            message = "read"
            try:
                victim.read(path)
            except GramianError as error:
                message = str(error)
            except Exception as error:
                raise AssertionError(f"{path.name}, file {count} of seed {seed}: {type(error).__name__}") from error
            assert 0 < len(message) < 3000, f"{path.name}, file {count}: a message of {len(message)} letters"
            path.write_bytes(victim.whole[path])
        print(f"{count} files of runs")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bytes(_: Path, content: bytes, draw: random.Random) -> bytes:
    return changed(content, draw)


def _value(path: Path, content: bytes, draw: random.Random) -> bytes:
    """Change one value among settings, metrics or metadata, or leave it out, or add one."""
    if path.suffix == ".safetensors":
        return _header(content, draw)
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        row = draw.randrange(len(rows))
        rows[row] = _with_another(rows[row], draw)
        return "".join(json.dumps(each) + "\n" for each in rows).encode()
    return json.dumps(_with_another(json.loads(content), draw)).encode()


def _header(content: bytes, draw: random.Random) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    if draw.random() < 0.7:
        as_text: Callable[[Any], str] = draw.choice((json.dumps, str))
        metadata = _with_another(header["__metadata__"], draw)
        if draw.random() < 0.8:  # as before there were checksums
            metadata.pop("checksum", None)
        header["__metadata__"] = {k: v if isinstance(v, str) else as_text(v) for k, v in metadata.items()}
    else:
        name = draw.choice([name for name in header if name != "__metadata__"])
        header[name]["dtype"] = draw.choice(("F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL", "C64", "F8_E5M2"))
        if draw.random() < 0.5:
            header[name]["shape"] = draw.choice(([], [0], [1, 1], [2**40], header[name]["shape"][::-1]))
        header["__metadata__"].pop("checksum", None)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _with_another(values: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    values = dict(values)
    name = draw.choice([*values, "magic"])
    if draw.random() < 0.2:
        values.pop(name, None)
    else:
        values[name] = draw.choice(_VALUES)
    return values


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run(given.seconds, given.seed)
