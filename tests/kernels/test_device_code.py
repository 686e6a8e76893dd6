"""The device code compiles for GPUs where there is none; its numbers are checked in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cases import HAS_TRITON

pytestmark = pytest.mark.skipif(not HAS_TRITON, reason="needs Triton 3.3")


def compile_device_code(cache: Path, *options: str) -> str:
    # In a process of its own, for the interpreter is chosen when Triton is imported.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compile_device_code", *options]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment | {"TRITON_CACHE_DIR": str(cache)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_variants_of_every_function_compile_without_spilling(tmp_path) -> None:
    # And with 16-byte loads and matrix units, where they are meant: see Variant.faults.
    lines = compile_device_code(tmp_path).splitlines()
    assert lines[-1].endswith("compiled, 0 at fault")
    assert {line.split()[1] for line in lines[:-1]} == {
        "whole_groups", "fused_update", "fused_gram", "fused_factor", "fused_apply",
        "residual_tiles", "symmetric_tiles", "invalidate", "limit_step", "step_factor", "sign_product",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["registers", "fused", "products", "tiled"])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_all_variants(target, kernel, tmp_path) -> None:
    compile_device_code(tmp_path, "--all", "--quiet", "--targets", target, "--only", kernel)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["registers", "fused", "products", "tiled"])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_all_candidates(target, kernel, tmp_path) -> None:
    compile_device_code(tmp_path, "--candidates", "--quiet", "--targets", target, "--only", kernel)
