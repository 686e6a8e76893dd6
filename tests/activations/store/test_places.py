"""Places: the origin of each sample, stored and read again."""

import numpy as np
import pytest
import torch

from gramian.activations.store.places import Place, Places, place_tensors, read_places
from gramian.errors import ShapeError

TEXTS = {3: "naïve café", 5: "", 9: "日曜日 Sunday"}


def tokens() -> Places:
    return Places(
        torch.tensor([3, 3, 5, 9, 9]),
        torch.tensor([1, 2, 1, 1, 2]),
        torch.tensor([[0, 5], [6, 10], [0, 0], [0, 3], [4, 10]]),
        contexts=TEXTS,
    )


def stored(places: Places, rows: list[int]) -> Places:
    arrays = {name: tensor.numpy() for name, tensor in place_tensors(places).items()}
    return read_places(arrays, np.array(rows))


def test_tokens_there_and_back() -> None:
    places = stored(tokens(), [4, 0, 1, 2]).places()
    assert [place.text for place in places] == ["Sunday", "naïve", "café", ""]
    assert places[0] == Place(9, 2, TEXTS[9], (4, 10))
    assert places[3] == Place(5, 1)


def test_patches_have_rows_and_columns() -> None:
    places = Places(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 6]), grid=(2, 3, 1), contexts={0: "a.png"})
    kept = stored(places, [0, 1, 2]).places()
    assert [place.patch for place in kept] == [None, (0, 0), (1, 2)]
    assert [place.context for place in kept] == ["a.png", "a.png", ""]
    assert kept[2].grid == (2, 3)
    assert kept[0].text == ""


def test_selected_places_hold_only_their_contexts() -> None:
    assert tokens()[2:].contexts == {5: "", 9: TEXTS[9]}


def test_texts_that_are_no_unicode_are_stored() -> None:
    places = Places(torch.tensor([0]), torch.tensor([0]), contexts={0: "caf\udce9"})
    assert stored(places, [0]).places()[0].context == "caf?"


def test_wrong_places_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"one document, position and span for each sample; got \[1, 2\]"):
        Places(torch.tensor([0, 1]), torch.tensor([0]))
    part = Places(torch.tensor([0]), torch.tensor([0]), grid=(2, 2, 0))
    with pytest.raises(ShapeError, match=r"must have the same grid of patches.*got 2 grids.*try pictures of one size"):
        Places.concatenated([part, Places(torch.tensor([0]), torch.tensor([0]), grid=(3, 2, 0))])
    with pytest.raises(ShapeError, match="1 of 2 parts with spans"):
        Places.concatenated([tokens(), Places(torch.tensor([0]), torch.tensor([0]))])
