"""One process of two with cases of all scripts of this folder: `torchrun tests/distributed/several.py FOLDER`.

To start processes takes longer than the cases.
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed

from gramian.distributed import ProcessGrid
from tests.distributed import features, learning, sharded


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
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    try:
        main(Path(sys.argv[1]))
        distributed.barrier()  # a process that leaves while another still talks to it may take that one down
    finally:
        distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # all was checked; at exit torch now and then ends a thread of gloo's that still runs, and aborts
