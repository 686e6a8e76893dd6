"""Where `torch.compile` cannot trace the package, its tests are skipped."""

from pathlib import Path

import pytest
import torch

from tests.shapes import CHECKED

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder on old versions, and where functions are wrapped to check shapes."""
    if torch.__version__ < "2.8":
        reason = "the compilers of torch 2.6 and 2.7 cannot trace all of `loss`"
    elif CHECKED:
        reason = "torch.compile cannot trace through the check of shapes"
    else:
        return
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.skip(reason=reason))
