"""Networks of the transformers library: tokens with their texts, patches with their pictures, and what is refused."""

import json

import pytest
import torch

from gramian.activations import capture, open_activations
from gramian.activations.recording.hugging_face import load_picture_network, load_text_network
from gramian.activations.recording.texts import files_of
from gramian.errors import DataError
from tests.tiny_networks import save_picture_network, save_pictures, save_text_network

TEXTS = ["Monday is before Tuesday", "march", "one  two three and unknown " + "a " * 20]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return save_text_network(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def picture_folder(tmp_path_factory):
    return save_picture_network(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("special", [False, True])
def test_tokens_in_context(text_folder, tmp_path, special) -> None:
    network = load_text_network(text_folder)
    batches = network.batches(TEXTS, size=2, special=special)
    capture(network.model, batches, layer="encoder.layer.1", store=tmp_path / "store", places="tokens")
    activations = open_activations(tmp_path / "store")
    places = activations.places(slice(None))
    if special:
        assert [place.text for place in places[:6]] == ["", "Monday", "is", "before", "Tuesday", ""]
    else:
        assert [place.text for place in places[:6]] == ["Monday", "is", "before", "Tuesday", "march", "one"]
    assert [place.position for place in places[:3]] == ([0, 1, 2] if special else [1, 2, 3])
    assert {place.document for place in places} == {0, 1, 2}
    assert len([place for place in places if place.document == 2]) == (12 if special else 10)
    assert places[-1].context == "one  two three and unknown a a a a a"
    alone = next(load_text_network(text_folder).batches(TEXTS[1:2], size=1))
    with torch.no_grad():
        expected = network.model(**alone.inputs).last_hidden_state[0, 1]
    row = next(row for row, place in enumerate(places) if place.text == "march")
    torch.testing.assert_close(activations[[row]][0], expected, atol=1e-5, rtol=1e-5)


def test_fewer_tokens(text_folder) -> None:
    (batch,) = load_text_network(text_folder).batches(TEXTS, size=5, tokens=4)
    assert batch.inputs["input_ids"].shape == (3, 4)
    assert batch.contexts == ["Monday is", "march", "one  two"]


@pytest.mark.parametrize("special", [False, True])
def test_patches_of_pictures(picture_folder, tmp_path, special) -> None:
    network = load_picture_network(picture_folder)
    root = save_pictures(tmp_path / "pictures")
    files = files_of(root, (".png",), kind="pictures")
    batches = network.batches(files, size=3, root=root, special=special)
    name = next(name for name, _ in network.model.named_modules() if name.endswith("layer.1") or name == "layers.1")
    capture(network.model, batches, layer=name, store=tmp_path / "store", places="patches")
    activations = open_activations(tmp_path / "store")
    assert (len(activations), activations.length) == (5 * (17 if special else 16), 16)
    places = activations.places(slice(None))
    assert places[-1].context == "4.png"
    assert (places[-1].patch, places[-1].grid) == ((3, 3), (4, 4))
    assert places[0].patch == (None if special else (0, 0))
    assert [path.name for path in network.skipped] == ["broken.png"]


def test_what_is_no_network(text_folder, picture_folder, tmp_path) -> None:
    for load in (load_text_network, load_picture_network):
        with pytest.raises(DataError, match=r"must be a folder of the transformers library.*try --arch timm:NAME"):
            load(tmp_path / "missing")
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(DataError, match=r"must hold .*, without code to run; got") as error:
            load(tmp_path)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="must hold a network and its tokenizer"):
        load_text_network(picture_folder)
    with pytest.raises(DataError, match="must hold a network and the preparation of its pictures"):
        load_picture_network(text_folder)


def test_code_in_a_folder_is_not_executed(tmp_path) -> None:
    folder = save_text_network(tmp_path / "network")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Config"}, "model_type": "evil"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass Evil: ...\nclass Config: ...\n")
    with pytest.raises(DataError, match="without code to run"):
        load_text_network(folder)
    assert not (tmp_path / "executed").exists()


def test_weights_that_are_missing(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_text_network(tmp_path / "network")
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: x for name, x in weights.items() if "layer.1" not in name}, path, {"format": "pt"})
    with pytest.warns(UserWarning, match=r"lacks 16 weights of its network, which are random: encoder.layer.1"):
        load_text_network(folder)
    save_file({"other": torch.ones(2)}, path, {"format": "pt"})
    with pytest.raises(DataError, match="must hold the weights of its network; got none that belong to it"):
        load_text_network(folder)
    path.write_bytes(b"no weights")
    with pytest.raises(DataError, match="without code to run; got"):
        load_text_network(folder)
