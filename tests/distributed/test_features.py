"""Block-sparse features train in several processes as in one: DDP, FSDP2, and runs on activations."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.torchrun import torchrun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dist,
    pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed"),
]

SCRIPT = Path(__file__).with_name("features.py")
fsdp = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP2 of torch 2.6 does not run on the CPU"
)


@pytest.mark.parametrize("case", ["ddp", pytest.param("fsdp", marks=fsdp)])
def test_with_two_processes(case) -> None:
    torchrun(2, SCRIPT, case)
