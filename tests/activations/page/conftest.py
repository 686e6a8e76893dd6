"""One page of words, for all tests of a page."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from gramian.activations import Activations, Preparation
from gramian.activations.evaluation import FeatureRecord
from gramian.activations.page import write_features_page
from tests.activations.page.clocks import LENGTH, sentences, top_group, word_store

METRICS = [{"step": float(step), "unexplained": 1 / (1 + step), "active_groups": 1.0} for step in range(0, 500, 100)]


class Written(NamedTuple):
    path: Path
    record: FeatureRecord
    activations: Activations
    phi: torch.Tensor


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Written:
    folder = tmp_path_factory.mktemp("features")
    activations, phi = word_store(folder / "store", sentences(150))
    plain = Preparation(torch.zeros(LENGTH), 1.0)
    path = folder / "features.html"
    record = write_features_page(
        path, phi, top_group(phi, 6), activations, preparation=plain, metrics=METRICS, settings={"groups": 10},
        title="Words about time",
    )  # fmt: skip
    return Written(path, record, activations, phi)
