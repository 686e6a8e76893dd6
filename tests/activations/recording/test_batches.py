"""Outputs become samples: every kind of axes, padding, and places."""

import pytest
import torch

from gramian.activations.recording.batches import Batch, as_batch, check_axes, run_model, samples_of
from gramian.errors import OptionError, ShapeError


def test_padding_is_left_out() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = as_batch({"attention_mask": mask})
    x = torch.arange(12.0).view(2, 3, 2)
    samples, places, documents = samples_of({"a": [x]}, batch, first_document=10)
    assert samples["a"].tolist() == [[0, 1], [2, 3], [6, 7]]
    assert (places.document.tolist(), places.position.tolist(), documents) == ([10, 10, 11], [0, 1, 0], 2)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [(None, (2, 5, 3, 4)), ("b h w l", (2, 3, 4, 5)), ("l b w h", (5, 2, 4, 3)), ("b p l", (2, 12, 5))],
)
def test_axes(axes, shape) -> None:
    x = torch.randn(2, 3, 4, 5)  # b h w l
    names = (axes or "b l h w").split()
    given = x.reshape(2, 12, 5) if "p" in names else x.permute(["bhwl".index(name) for name in names])
    assert given.shape == shape
    patches = (3, 4) if "p" in names else None
    batch = Batch(torch.empty(2, 3), contexts=["a", "b"], patches=patches)
    samples, places, _ = samples_of({"a": [given]}, batch, first_document=0, axes=axes)
    assert torch.equal(samples["a"], x.reshape(24, 5))
    place = places.places()[12 + 7]
    assert (place.context, place.patch, place.grid) == ("b", (1, 3), (3, 4))


def test_one_sample_for_each_document() -> None:
    batch = Batch(None, keep=torch.ones(2, 3, dtype=torch.bool), contexts=["x", "y"], spans=torch.zeros(2, 3, 2).long())
    samples, places, _ = samples_of({"a": [torch.ones(2, 4)]}, batch, first_document=0)
    assert samples["a"].shape == (2, 4)
    assert [place.span for place in places.places()] == [None, None]


def test_a_class_token_is_no_patch() -> None:
    x = torch.arange(14.0).view(1, 7, 2)
    for only_patches, first in ((False, None), (True, (0, 0))):
        batch = Batch(None, patches=(2, 3), only_patches=only_patches)
        samples, places, _ = samples_of({"a": [x]}, batch, first_document=0)
        assert len(samples["a"]) == (6 if only_patches else 7)
        assert places.places()[0].patch == first
        assert places.places()[-1].patch == (1, 2)
    merged, places, _ = samples_of({"a": [x[:, :3]]}, Batch(None, patches=(2, 3)), first_document=0)
    assert len(merged["a"]) == 3
    assert places.grid is None


def test_what_does_not_fit() -> None:
    batch = as_batch({"attention_mask": torch.ones(2, 3)})
    x = torch.ones(2, 3, 4)
    for outputs, words in (
        ({"a": []}, "'a' must be called for each batch; got no call"),
        ({"a": [x, x]}, "'a' must be called once for each batch; got 2 calls"),
        ({"a": [x[:, :2]]}, r"'a' must have the positions of its inputs, \[2, 3\]; got \[2, 2\]"),
        ({"a": [x], "b": [x[:, 0]]}, "must have the same positions; got 6 of 'a' and 2 of 'b'"),
        ({"a": [torch.ones(3)]}, "'a' must have the axes 'b l' or 'b p l' or 'b l h w' and real numbers"),
        ({"a": [x.long()]}, r"real numbers; got torch.int64 \[2, 3, 4\]"),
        ({}, "at least one module must be recorded"),
    ):
        with pytest.raises(ShapeError, match=words):
            samples_of(outputs, batch, first_document=0)
    for axes in ("b", "b l l", "b p h w l", "batch l"):
        with pytest.raises(OptionError, match="axes must name each axis once"):
            check_axes(axes)


def test_inputs_of_every_kind() -> None:
    calls = []
    model = torch.nn.Module()
    model.forward = lambda *positional, **named: calls.append((positional, named))
    x = torch.ones(2)
    for inputs in (x, (x, 1), {"a": x, "b": [x, None]}):
        run_model(model, Batch(inputs), device=torch.device("cpu"))
    assert [len(positional) for positional, _ in calls] == [1, 2, 0]
    assert calls[2][1].keys() == {"a", "b"}
    with pytest.raises(OptionError, match=r"a batch must be a tensor, .* or a Batch; got str"):
        run_model(model, Batch("text"), device=None)
