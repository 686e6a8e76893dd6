"""Capture: what is stored, what is left as it was, and what an interruption leaves."""

import json
from itertools import islice

import pytest
import torch
from torch import nn

from gramian.activations import capture, open_activations
from gramian.activations.store.manifest import MANIFEST
from gramian.errors import DataError, OptionError, RunError, ShapeError


def contents(path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_several_layers_have_the_same_places(captured) -> None:
    path, manifest = captured(layer=["embedding", "block*dropout"])
    assert list(manifest.layers) == ["embedding", "block.dropout"]
    with pytest.raises(OptionError, match=r"one layer of the store .* must be selected; got 2: 'embedding', 'block"):
        open_activations(path)
    first, second = (open_activations(path, layer=name) for name in manifest.layers)
    assert len(first) == len(second) == manifest.samples
    assert first.places([5]) == second.places([5])
    assert not torch.equal(first[:], second[:])


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float32])
def test_dtypes(captured, dtype) -> None:
    path, manifest = captured(dtype=dtype)
    plain, _ = captured("plain")
    assert manifest.dtype == str(dtype).removeprefix("torch.")
    close = {"rtol": 2**-8, "atol": 1e-6} if manifest.dtype == "bfloat16" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(open_activations(path)[:], open_activations(plain)[:], **close)
    assert open_activations(path).statistics.samples == manifest.samples


@pytest.mark.parametrize("limit", [1, 15, 16, 40])
def test_max_samples(captured, limit) -> None:
    path, manifest = captured(max_samples=limit)
    whole, _ = captured("whole")
    expected = open_activations(whole)[:]
    count = min(limit, len(expected))
    assert manifest.samples == count
    assert torch.equal(open_activations(path)[:], expected[:count])


def test_the_network_is_left_as_it_was(encoder, captured) -> None:
    encoder.train()
    encoder.head.eval()
    captured()
    assert encoder.training
    assert encoder.block.dropout.training
    assert not encoder.head.training
    assert not any(module._forward_hooks for module in encoder.modules())


class Interrupted:
    """Batches with an interruption before one of them."""

    def __init__(self, batches: list, at: int, error: type[BaseException]) -> None:
        self.batches, self.at, self.error = batches, at, error

    def __iter__(self):
        yield from islice(self.batches, self.at)
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_an_interrupted_capture_continues_to_the_same_bytes(encoder, batches, captured, tmp_path, at, error) -> None:
    whole, _ = captured("whole")
    options = {"layer": "block", "shard_bytes": 15 * 6 * 4, "places": "tokens", "store": tmp_path / "part"}
    with pytest.raises(error):
        capture(encoder, Interrupted(batches, at, error), **options)
    before = open_activations(tmp_path / "part")
    assert before.manifest is not None
    assert not before.manifest.complete
    assert torch.equal(before[:], open_activations(whole)[: len(before)])
    capture(encoder, batches, **options, resume=True)
    assert contents(tmp_path / "part") == contents(whole)
    capture(encoder, Interrupted(batches, 0, error), **options, resume=True)  # it is complete: nothing runs
    assert contents(tmp_path / "part") == contents(whole)


def test_a_failure_before_the_first_shard_leaves_no_folder(encoder, batches, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        capture(encoder, Interrupted(batches, 1, KeyboardInterrupt), layer="block", store=tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(ShapeError, match="'unused' must be called for each batch; got no call"):
        capture(encoder, batches, layer="unused", store=tmp_path / "store")
    with pytest.raises(DataError, match="the inputs must give at least one sample; got none"):
        capture(encoder, [], layer="block", store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_nothing_is_overwritten(encoder, batches, captured, tmp_path) -> None:
    path, _ = captured()
    before = contents(path)
    with pytest.raises(RunError, match=r"already holds a store of \d+ samples; try another name, --resume"):
        captured()
    with pytest.raises(
        RunError, match=r"must be continued with its settings, layers .*; got .*head.*; try the command"
    ):
        captured(resume=True, layer="head")
    with pytest.raises(RunError, match="got --resume and --force; try one of them"):
        captured(resume=True, force=True)
    assert contents(path) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    for options in ({}, {"force": True}):
        with pytest.raises(RunError, match=r"must be a new or an empty folder; it already holds 'letter\.txt'"):
            captured("other", **options)
    with pytest.raises(RunError, match=r"other must hold a store, to be continued; got no manifest\.json"):
        captured("other", resume=True)
    assert contents(other) == {"letter.txt": b"mine"}
    (path / "letter.txt").write_text("mine")
    (path / "activations-00001.safetensors").rename(path / "kept.safetensors")
    (path / "activations-00001.safetensors").write_bytes(b"mine")
    captured(force=True, layer="head")
    after = contents(path)
    assert after["letter.txt"] == b"mine"
    assert after["kept.safetensors"] == before["activations-00001.safetensors"]
    assert list(open_activations(path).manifest.layers) == ["head"]
    assert len(after) == 2 + 1 + len(open_activations(path).manifest.shards)


def test_a_capture_that_fails_at_once_leaves_the_old_store(encoder, captured) -> None:
    path, _ = captured()
    before = contents(path)
    with pytest.raises(ShapeError, match="'unused' must be called"):
        captured(force=True, layer="unused")
    assert contents(path) == before


def test_a_shard_without_its_manifest_is_replaced_and_another_file_is_not(captured) -> None:
    path, manifest = captured()
    expected = contents(path)
    (path / MANIFEST).unlink()
    captured()
    assert contents(path) == expected
    (path / MANIFEST).unlink()
    (path / manifest.shards[0].file).write_bytes(b"a file of the user")
    with pytest.raises(RunError, match=r"it already holds 'activations-00000\.safetensors'"):
        captured()


def test_numbers_that_are_not_finite_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="the samples of '0' must be finite in float32; got NaN or infinite"):
        capture(nn.Sequential(nn.Identity()), [torch.tensor([[1.0, torch.nan]])], layer="0", store=tmp_path / "x")


def test_batches_may_be_functions_and_may_be_empty(encoder, batches, captured, tmp_path) -> None:
    expected = open_activations(captured()[0])[:]
    called = []

    def function(number):
        called.append(number)
        return None if number is None else batches[number]

    functions = [lambda number=number: function(number) for number in (None, 0, None, 1, 2, 3, 4)]
    options = {"layer": "block", "shard_bytes": 15 * 6 * 4, "places": "tokens", "store": tmp_path / "part"}
    with pytest.raises(KeyboardInterrupt):
        capture(encoder, Interrupted(functions, 6, KeyboardInterrupt), **options)
    called.clear()
    capture(encoder, functions, **options, resume=True)
    assert called
    assert 0 not in called
    assert torch.equal(open_activations(tmp_path / "part")[:], expected)


def test_lengths_may_not_change(tmp_path) -> None:
    batches = [torch.ones(2, 3), torch.ones(2, 4)]
    with pytest.raises(ShapeError, match=r"the layers and lengths of the first, \{'0': 3\}; got \{'0': 4\}"):
        capture(nn.Sequential(nn.Identity()), batches, layer="0", store=tmp_path / "x")


def test_options(encoder, tmp_path) -> None:
    for options, words in (
        ({"dtype": "float16"}, "dtype must be one of 'float32', 'bfloat16'; got 'float16'"),
        ({"places": "words"}, "places must be one of 'tokens', 'patches', 'rows'; got 'words'"),
        ({"max_samples": 0}, "max_samples must be at least 1"),
        ({"axes": "b"}, "axes must name each axis once"),
        ({"settings": {"seed": {1, 2}}}, "settings must be values of JSON; got"),
    ):
        with pytest.raises(OptionError, match=words):
            capture(encoder, [], layer="block", store=tmp_path / "x", **options)


def test_the_manifest_can_be_read_by_anybody(captured) -> None:
    path, manifest = captured(settings={"batch": 4, "sizes": (1, 2)})
    content = json.loads((path / MANIFEST).read_text())
    assert content["model"] == "Encoder"
    assert content["samples"] == manifest.samples == sum(shard["samples"] for shard in content["shards"])
    assert content["places"] == "tokens"
    assert content["settings"]["batch"] == 4
    captured(settings={"batch": 4, "sizes": (1, 2)}, resume=True)
    assert len(content["layers"]["block"]["mean"]) == 6
    assert content["complete"] is True
