"""One process of two with cases of all scripts of this folder: `torchrun tests/distributed/several.py FOLDER`.

To start processes takes longer than the cases.
"""

import sys
from pathlib import Path

import torch
from torch import distributed

from gramian.distributed import ProcessGrid
from tests.distributed import features, learning, sharded
from tests.torchrun import in_process_group


def main(folder: Path) -> None:
    rank, world = distributed.get_rank(), distributed.get_world_size()
    sharded.a_matrix_for_each_group(folder, rank, world)
    if hasattr(torch.cpu.Stream, "record_event"):  # FSDP2 of torch 2.6 does not run on the CPU
        sharded.fsdp(folder, rank, world)
    for case in (learning.sgd, learning.counted):
        case(ProcessGrid.arrange(1))
    for case in (features.ddp, features.runs):
        case(rank, world)


if __name__ == "__main__":
    in_process_group(lambda: main(Path(sys.argv[1])))
