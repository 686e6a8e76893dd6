"""Dictionary files of activations."""

import pytest
import torch

from gramian.activations import Preparation
from gramian.activations.dictionary import Dictionary, load_dictionary, save_dictionary
from gramian.errors import RunError
from gramian.images import Dictionary as PictureDictionary
from gramian.images import save_dictionary as save_picture_dictionary
from gramian.images.samples import Preparation as PicturePreparation


def test_there_and_back(tmp_path) -> None:
    phi = torch.randn(6, 4, 2)
    mean = torch.randn(6)
    save_dictionary(tmp_path / "d", Dictionary(phi, phi + 1, Preparation(mean, 2.5), lam=0.75, infer="lca"))
    loaded = load_dictionary(tmp_path / "d")
    assert torch.equal(loaded.phi, phi)
    assert torch.equal(loaded.preparation.mean, mean)
    assert (loaded.preparation.scale, loaded.lam, loaded.infer) == (2.5, 0.75, "lca")


def test_a_dictionary_of_pictures_is_refused(tmp_path) -> None:
    phi = torch.randn(64, 4, 2)
    save_picture_dictionary(tmp_path / "d", PictureDictionary(phi, phi, PicturePreparation(size=8), lam=1.0))
    with pytest.raises(RunError, match=r"must hold the mean of activations \[l\]; got none; try a run of gramian feat"):
        load_dictionary(tmp_path / "d")
