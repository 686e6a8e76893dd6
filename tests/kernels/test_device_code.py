"""The device code compiles for a GPU where there is none; its numbers are checked in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cases import HAS_TRITON

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="needs Triton 3.3")


@pytest.mark.parametrize(
    ("options", "count"), [([], 5), pytest.param(["--all"], 138, marks=pytest.mark.slow)], ids=["one each", "all"]
)
def test_it_compiles(options, count, tmp_path) -> None:
    # In a process of its own, for the interpreter is chosen when Triton is imported.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compile_device_code", *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{count} compiled\n"
