"""Start processes by torchrun, as a user does, and what each of them does around its cases."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed

__all__ = ["ENVIRONMENT", "TORCHRUN", "in_process_group", "torchrun"]

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
_ROOT = Path(__file__).parents[1]


def torchrun(processes: int, script: Path, *arguments: object) -> None:
    """Run a script of the tests in several processes; all must end well."""
    done = subprocess.run(
        [*TORCHRUN, f"--nproc-per-node={processes}", str(script), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=200,
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def in_process_group(cases: Callable[[], None]) -> None:
    """Run the cases of a script in the group of its processes, and end the process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    try:
        cases()
        distributed.barrier()  # a process that leaves while another still talks to it may take that one down
    finally:
        distributed.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # all was checked; at exit torch now and then ends a thread of gloo's that still runs, and aborts
