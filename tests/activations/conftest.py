"""Small networks and stores."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gramian.activations import Manifest, capture

LENGTH = 6


class Encoder(nn.Module):
    """A network with a module that returns a tuple, one with positions, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, LENGTH)
        self.block = Block()
        self.head = nn.Linear(LENGTH, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        del attention_mask
        hidden, _ = self.block(self.embedding(input_ids))
        return self.head(hidden.mean(dim=1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(LENGTH, LENGTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return self.dropout(torch.tanh(self.linear(x))), "state"


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def batches() -> list[dict[str, Tensor]]:
    """Five batches of texts of different lengths, with padding."""
    batches = []
    for _ in range(5):
        lengths = torch.randint(1, 8, (4,))
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        batches.append({"input_ids": torch.randint(50, mask.shape), "attention_mask": mask})
    return batches


@pytest.fixture
def captured(encoder, batches, tmp_path) -> Callable[..., tuple[Path, Manifest]]:
    """Capture the block of the encoder in shards of about 15 samples."""

    def run(name: str = "store", **options) -> tuple[Path, Manifest]:
        options = {"layer": "block", "shard_bytes": 15 * LENGTH * 4, "places": "tokens", **options}
        return tmp_path / name, capture(encoder, batches, store=tmp_path / name, **options)

    return run
