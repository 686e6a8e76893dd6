"""A network whose embedding has weekdays and months on circles, texts about them, and pictures with known patches."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gramian.activations import Activations, Batch, capture, open_activations
from gramian.coding import SparseCodes

LENGTH = 16
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
NAMES = ("Ada", "Grace", "Emmy", "Sofia", "Hedy", "Rosalind")
DEEDS = ("opened", "visited", "painted", "measured", "left", "found")
PLACES = ("harbour", "library", "station", "garden", "market", "bridge", "museum")
SMALL = ("On", "in", "the", "and", "while", "slowly")
KINDS = (DAYS, MONTHS, NAMES, DEEDS, PLACES, SMALL)


class Noise(nn.Module):
    """Adds noise, another one in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.12 * torch.randn(x.shape, generator=self.generator)


class Clocks(nn.Module):
    """Embeds each kind of word in a plane: weekdays and months on circles, the others on short arcs."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.basis = torch.linalg.qr(torch.randn(LENGTH, LENGTH, generator=generator)).Q
        rows: list[Tensor] = []
        self.number: dict[str, int] = {}
        for plane, kind in enumerate(KINDS):
            turn = 1.0 if plane < 2 else 0.15
            for place, word in enumerate(kind):
                angle = torch.tensor(2 * torch.pi * turn * place / len(kind))
                x, y = self.basis[:, 2 * plane], self.basis[:, 2 * plane + 1]
                rows.append(2.0 * (angle.cos() * x + angle.sin() * y))
                self.number[word] = len(self.number)
        self.embedding = nn.Embedding.from_pretrained(torch.stack(rows))
        self.noise = Noise()

    def forward(self, ids: Tensor) -> Tensor:
        return self.noise(self.embedding(ids))

    def phi(self) -> Tensor:
        """The planes of the six kinds of words, two that no word uses, and two near the first one."""
        planes = self.basis.view(LENGTH, 8, 2)
        near = torch.linalg.qr(planes[:, 0] + 0.3 * planes[:, 7]).Q
        return torch.cat([planes, near[:, None], near.flip(1)[:, None]], dim=1).contiguous()


def sentences(count: int) -> list[list[str]]:
    draw = np.random.default_rng(5)

    def one(kind: Sequence[str]) -> str:
        return str(draw.choice(kind))

    return [
        ["On", one(DAYS), "in", one(MONTHS), one(NAMES), one(DEEDS), "the", one(PLACES), "and", one(DEEDS), "the"]
        for _ in range(count)
    ]


def top_group(phi: Tensor, usable: int) -> Callable[[Tensor], SparseCodes]:
    """Encode by the group of largest projection, of the first few groups."""

    def encode(x: Tensor) -> SparseCodes:
        u = torch.einsum("lmn,bl->bmn", phi, x)
        groups = u[:, :usable].norm(dim=2).argmax(dim=1, keepdim=True)
        return SparseCodes(groups, u.gather(1, groups[..., None].expand(-1, -1, phi.shape[2])), phi.shape[1])

    return encode


def word_store(folder: Path, texts: Sequence[Sequence[str]], *, before: str = "") -> tuple[Activations, Tensor]:
    """Capture texts; `before` is put before every text. Returns the activations and the dictionary."""
    network = Clocks()
    batches = []
    for words in texts:
        spans, text = [], before
        for word in words:
            spans.append((len(text), len(text) + len(word)))
            text += word + " "
        ids = torch.tensor([[network.number[word] for word in words]])
        batches.append(Batch(ids, contexts=[text], spans=torch.tensor([spans])))
    capture(network, batches, layer="noise", store=folder, places="tokens", name="clocks")
    return open_activations(folder), network.phi()


class Colours(nn.Module):
    """Returns for each of 4 × 4 patches its mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x)


def picture_store(store: Path, folder: Path, count: int = 6) -> Activations:
    """Write pictures of coloured squares and capture their patches, 4 × 4 of 8 pixels."""
    draw = np.random.default_rng(1)
    names, tensors = [], []
    (folder / "sub").mkdir(parents=True)
    for number in range(count):
        pixels = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        names.append(f"sub/{number}.png")
        Image.fromarray(pixels).save(folder / names[-1])
        tensors.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    names[-1] = "../outside.png"
    Image.fromarray(pixels).save(folder.parent / "outside.png")
    batch = Batch(torch.stack(tensors), contexts=names, patches=(4, 4))
    settings = {"inputs": str(folder)}
    capture(Colours(), [batch], layer="mean", store=store, places="patches", settings=settings, name="colours")
    return open_activations(store)
