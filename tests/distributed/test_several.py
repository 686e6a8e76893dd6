"""Sharded weights, learning and features in two processes; the other tests of this folder have all cases."""

from pathlib import Path

import pytest
from torch import distributed

from tests.torchrun import torchrun


@pytest.mark.dist
@pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed")
def test_some_cases_of_all(tmp_path) -> None:
    torchrun(2, Path(__file__).with_name("several.py"), tmp_path)
