"""Parameters that are spread over processes are stepped as whole ones are: FSDP2, tensor parallelism, DDP, restarts."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from tests.torchrun import torchrun

pytestmark = [
    pytest.mark.dist,
    pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed"),
]

SCRIPT = Path(__file__).with_name("sharded.py")


slow = pytest.mark.slow
fsdp = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP2 of torch 2.6 does not run on the CPU"
)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("fsdp", marks=[slow, fsdp]),
        pytest.param("every_way", marks=slow),
        pytest.param("ddp", marks=slow),
        pytest.param("tensor_parallel", marks=slow),
        pytest.param("a_matrix_for_each_group", marks=slow),
        pytest.param("a_matrix_for_each_group_in_fsdp", marks=[slow, fsdp]),
        pytest.param("rules_and_restorations", marks=slow),
        pytest.param("against_frozen_vectors", marks=slow),
        pytest.param("against_in_fsdp", marks=[slow, fsdp]),
    ],
)
def test_with_two_processes(case, tmp_path) -> None:
    torchrun(2, SCRIPT, tmp_path, *case.split())


@slow
@pytest.mark.parametrize("case", [pytest.param("fsdp", marks=fsdp), "every_way", "a_matrix_for_each_group"])
def test_with_four_processes(case, tmp_path) -> None:
    torchrun(4, SCRIPT, tmp_path, case)


@slow
@fsdp
def test_a_job_that_died_goes_on_to_the_same_weights(tmp_path) -> None:
    torchrun(2, SCRIPT, tmp_path, "restart")
    assert (tmp_path / "checkpoint").exists()
    torchrun(2, SCRIPT, tmp_path, "restart")
