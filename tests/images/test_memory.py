"""Memory: what a run needs at least, and what there is."""

import pytest

from gramian.errors import OptionError
from gramian.images import memory
from gramian.images.run import LearningRun
from gramian.images.settings import RunSettings


@pytest.mark.parametrize("changed", [{"groups": 10**12}, {"batch": 10**12}, {"groups": 10**7, "update": "online"}])
def test_what_cannot_fit_is_refused_before_pictures_are_loaded(changed) -> None:
    settings = RunSettings(images="nowhere", **changed)
    with pytest.raises(
        OptionError, match=r"must fit into memory; .* need at least .* GB, and .* GB are free; try fewer"
    ):
        LearningRun(settings)


def test_what_each_process_needs() -> None:
    assert sum(memory.least_memory(RunSettings())) < 5e6
    alone, shared = (sum(memory.least_memory(RunSettings(batch=1 << 20), sharing=share)) for share in (1, 4))
    assert 2 < alone / shared < 4  # all draw the whole batch
