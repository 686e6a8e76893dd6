"""Batches of pictures are read only when they run."""

import numpy as np
import torch
from torch import nn

from gramian.activations.recording.pictures import PictureNetwork
from gramian.activations.recording.texts import files_of
from tests.tiny_networks import save_pictures


def test_batches_are_read_when_they_run(tmp_path) -> None:
    root = save_pictures(tmp_path / "pictures")
    seen = []

    def transform(pictures):
        seen.extend(pictures)
        return torch.zeros(len(pictures), 3, 8, 8)

    network = PictureNetwork(nn.Identity(), transform, lambda inputs: (2, 2))
    files = files_of(root, (".png",), kind="pictures")
    functions = list(network.batches(files, size=2, root=root, special=False))
    assert not seen
    batches = [function() for function in functions]
    assert [batch.contexts for batch in batches] == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]]
    assert [path.name for path in network.skipped] == ["broken.png"]
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in seen)
    assert seen[1].shape == (41, 50, 3)
    assert batches[0].only_patches


def test_a_batch_without_a_readable_picture(tmp_path) -> None:
    root = save_pictures(tmp_path / "pictures", count=0)
    network = PictureNetwork(nn.Identity(), lambda pictures: None, lambda inputs: None)
    (function,) = network.batches([root / "broken.png"], size=2, root=root / "broken.png")
    assert function() is None
