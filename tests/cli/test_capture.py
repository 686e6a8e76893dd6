"""`gramian capture`: activations of texts and pictures, from the command line."""

import importlib

import pytest

from gramian.activations import open_activations
from tests.tiny_networks import save_picture_network, save_pictures, save_text_network

recording = importlib.import_module("gramian.activations.recording.capture")  # the package has a function of this name

TEXTS = "Monday is before Tuesday\nmarch\n\none two three and unknown\n" * 8


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return save_text_network(tmp_path_factory.mktemp("text"))


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "a.txt").write_text(TEXTS)
    return tmp_path / "a.txt"


def test_texts(command, text_folder, texts, tmp_path) -> None:
    done = command("capture", text_folder, texts, "--layer", "encoder.layer.1", "-o", "store", "--batch", 5)
    assert (done.code, done.err) == (0, "")
    assert "capturing encoder.layer.1" in done.out
    assert "80 samples of 24 documents" in done.out
    assert done.out.endswith("in 1 shard are in store\n")
    activations = open_activations(tmp_path / "store")
    assert activations.places([4])[0].text == "march"
    assert activations.manifest.places == "tokens"


def test_every_option(command, text_folder, texts, tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one two"}\n')
    texts.unlink()
    done = command(
        "capture", text_folder, tmp_path / "a.jsonl", "--layer", "encoder.layer.*.output", "--layer", "embeddings",
        "--field", "body", "--special", "--tokens", 3, "--dtype", "bfloat16", "--max-samples", 2, "--axes", "b p l",
        "--device", "cpu", "-o", "store",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    with pytest.raises(ValueError, match=r"must be selected; got 5: 'embeddings', 'encoder.layer.0.attention"):
        open_activations(tmp_path / "store")
    activations = open_activations(tmp_path / "store", layer="embeddings")
    assert activations.manifest.dtype == "bfloat16"
    assert [place.text for place in activations.places([0, 1])] == ["", "one"]


def test_pictures(command, tmp_path) -> None:
    network = save_picture_network(tmp_path / "network")
    save_pictures(tmp_path / "pictures")
    done = command("capture", network, "pictures", "--layer", "*layer*.1", "-o", "store", "--batch", 2)
    assert (done.code, done.err) == (0, "")
    assert "skipped, not readable: 1 pictures: broken.png" in done.out
    assert open_activations(tmp_path / "store").places([16])[0].context == "1.png"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_keeps_whole_shards(command, text_folder, texts, tmp_path, monkeypatch, error) -> None:
    arguments = ("capture", text_folder, texts, "--layer", "encoder.layer.0", "--batch", 3)
    monkeypatch.setattr(recording, "SHARD_BYTES", 1500)
    assert command(*arguments, "-o", "whole").code == 0
    calls = []
    run_model = recording.run_model

    def interrupted(*positional, **named) -> None:
        calls.append(1)
        if len(calls) == at:
            raise error(143) if error is SystemExit else error
        run_model(*positional, **named)

    monkeypatch.setattr(recording, "run_model", interrupted)
    at = 1
    done = command(*arguments, "-o", "store")
    assert done.code == (143 if error is SystemExit else 130)
    assert "interrupted before the first whole shard; nothing is kept" in done.out
    assert not (tmp_path / "store").exists()
    at = len(calls) + 7
    done = command(*arguments, "-o", "store")
    assert done.code == (143 if error is SystemExit else 130)
    assert "in 1 shard are in store\nto continue: the same command with --resume" in done.out.replace(
        "2 shards", "1 shard"
    )
    at = 0
    done = command(*arguments, "-o", "store")
    assert done.code == 2
    assert "--resume to continue it, or --force to replace it" in done.err
    done = command(*arguments, "-o", "store", "--resume")
    assert (done.code, done.err) == (0, "")
    assert "continuing after" in done.out
    store, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("store", "whole")
    )
    assert store == whole
    assert command(*arguments, "-o", "store", "--resume").code == 0
    assert command(*arguments, "-o", "store", "--force").code == 0
    assert command(*arguments, "-o", "store", "--resume", "--special").code == 2


def test_errors_are_one_line(command, text_folder, texts, tmp_path) -> None:
    save_pictures(tmp_path / "mixed")
    (tmp_path / "mixed" / "a.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank.txt").write_text("\n\n")
    before = sorted(tmp_path.rglob("*"))
    layer = ("--layer", "encoder.layer.0", "-o", "store")
    for arguments, words in (
        (
            (text_folder, texts, "--layer", "none.*", "-o", "store"),
            "layer must match a module of BertModel; got 'none.*'",
        ),
        ((text_folder, "mixed", *layer), "inputs must be texts or pictures; got 1 texts and 6 pictures"),
        ((text_folder, "empty", *layer), "inputs must be texts or pictures (.txt, .jsonl, .parquet, .bmp"),
        ((text_folder, "missing", *layer), "inputs must be texts or pictures"),
        (("empty", texts, *layer), "must be a folder of the transformers library"),
        ((text_folder, texts, *layer, "--arch", "timm:a"), "--arch is for networks that see pictures"),
        (
            (text_folder, texts, *layer, "--device", "meta"),
            "device must be available to torch and have storage; got 'meta'",
        ),
        ((text_folder, texts, *layer, "--dtype", "int8"), "dtype must be one of 'float32', 'bfloat16'; got 'int8'"),
        ((text_folder, texts, *layer, "--batch", 0), "--batch must be at least 1; got 0"),
        ((text_folder, texts, *layer, "--resume"), "must hold a store, to be continued; got no manifest.json"),
        ((text_folder, tmp_path / "blank.txt", *layer), "the inputs must give at least one sample; got none"),
        ((text_folder, texts, "--layer", "pooler", "-o", tmp_path / "no" / "store"), "must exist; got none"),
    ):
        done = command("capture", *arguments)
        assert done.code == 2, words
        assert words in done.err
        assert done.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
