"""Learning on several processes gives the dictionary of one, to rounding."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from gramian.coding import Learner, Parallel, initial_dictionary
from gramian.errors import OptionError
from tests.torchrun import torchrun

SCRIPT = Path(__file__).with_name("spread.py")
several = [
    pytest.mark.dist,
    pytest.mark.skipif(not distributed.is_available(), reason="this torch has no torch.distributed"),
]


@pytest.mark.parametrize(
    ("processes", "groups", "cases"),
    [
        pytest.param(2, 1, ["sgd", "counted"], id="patches shared out", marks=several),
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
    parallel = Parallel.grid()
    assert parallel.alone
    assert parallel.first
    assert parallel.any(True)
    assert not parallel.any(False)
    assert parallel.slowest(3.5) == 3.5
    phi = torch.randn(4, 3, 2)
    assert parallel.share_of_groups(phi) is phi
    assert parallel.whole(phi) is phi
    assert parallel.share_of_patches(phi) is phi
    assert parallel.sent == 0


def test_groups_are_not_shared_out_among_no_processes() -> None:
    with pytest.raises(OptionError, match=r"groups can be shared out among 2 processes under torchrun only; got none"):
        Parallel.grid(2)


class TestThatDoNotComeOut:
    """As two processes would see it."""

    @pytest.fixture(autouse=True)
    def two(self, monkeypatch) -> None:
        monkeypatch.setattr(distributed, "get_world_size", lambda group: 2)

    def test_patches(self) -> None:
        with pytest.raises(OptionError, match=r"a batch must be a multiple of the 2 processes that share it; got 7"):
            Parallel(over_patches="some").share_of_patches(torch.randn(7, 4))

    def test_groups(self) -> None:
        with pytest.raises(OptionError, match=r"groups must be a multiple of the 2 processes .*; got 3"):
            Parallel(over_groups="some").share_of_groups(torch.randn(4, 3, 2))

    def test_the_online_update(self) -> None:
        with pytest.raises(OptionError, match=r"keeps moments of whole samples and of all groups.*try update='sgd'"):
            Learner(
                initial_dictionary(8, 4, 2, seed=0), lam=1.0, beta=0.1, update="online",
                parallel=Parallel(over_groups="some"),
            )  # fmt: skip
