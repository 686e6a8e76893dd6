"""Learning on several processes gives the dictionary of one, to rounding."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from gramian.coding import Learner, LearningOptions, initial_dictionary
from gramian.distributed import ProcessGrid
from gramian.errors import OptionError
from tests.torchrun import torchrun

SCRIPT = Path(__file__).with_name("learning.py")
several = [
    pytest.mark.dist,
    pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed"),
]


@pytest.mark.parametrize(
    ("processes", "groups", "cases"),
    [
        pytest.param(2, 1, ["sgd", "counted"], id="patches shared out", marks=[*several, pytest.mark.slow]),
        pytest.param(2, 1, ["online", "kernels"], id="patches shared out, more", marks=[*several, pytest.mark.slow]),
        pytest.param(2, 2, ["inference"], id="groups shared out", marks=[*several, pytest.mark.slow]),
        pytest.param(2, 2, ["sgd", "kernels"], id="groups shared out, learning", marks=[*several, pytest.mark.slow]),
        pytest.param(4, 1, ["sgd", "online", "kernels"], id="patches among four", marks=[*several, pytest.mark.slow]),
        pytest.param(4, 4, ["sgd", "kernels", "inference"], id="groups among four", marks=[*several, pytest.mark.slow]),
        pytest.param(4, 2, ["sgd", "kernels", "inference"], id="both", marks=[*several, pytest.mark.slow]),
    ],
)
def test_the_same_dictionary_as_one_process(processes, groups, cases) -> None:
    torchrun(processes, SCRIPT, groups, *cases)


def test_one_process_does_everything() -> None:
    grid = ProcessGrid.arrange()
    assert grid.is_single
    assert grid.is_main
    assert grid.any(True)
    assert not grid.any(False)
    assert grid.max_over_all(3.5) == 3.5
    phi = torch.randn(4, 3, 2)
    assert grid.local_groups(phi) is phi
    assert grid.gather_groups(phi) is phi
    assert grid.local_samples(phi) is phi
    assert grid.sent == 0


def test_dividing_groups_requires_a_process_group() -> None:
    with pytest.raises(
        OptionError, match=r"2 processes that divide the groups must be started by torchrun; got no process group"
    ):
        ProcessGrid.arrange(2)


class TestSizesThatDoNotDivide:
    """Errors on a grid of two processes."""

    @pytest.fixture(autouse=True)
    def two(self, monkeypatch) -> None:
        monkeypatch.setattr(distributed, "get_world_size", lambda group: 2)

    def test_samples(self) -> None:
        with pytest.raises(
            OptionError, match=r"the batch size must be a multiple of the 2 processes that divide it; got 7"
        ):
            ProcessGrid(over_samples="some").local_samples(torch.randn(7, 4))

    def test_groups(self) -> None:
        with pytest.raises(OptionError, match=r"the number of groups must be a multiple of the 2 processes .*; got 3"):
            ProcessGrid(over_groups="some").local_groups(torch.randn(4, 3, 2))

    def test_the_online_update(self) -> None:
        with pytest.raises(
            OptionError, match=r"and groups on one process that share no atoms; got .*; try update='sgd'"
        ):
            Learner(
                initial_dictionary(8, 4, 2, seed=0), LearningOptions(update="online"),
                grid=ProcessGrid(over_groups="some"),
            )  # fmt: skip
