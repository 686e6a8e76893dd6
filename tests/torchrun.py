"""Start processes by torchrun, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["ENVIRONMENT", "TORCHRUN", "torchrun"]

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
