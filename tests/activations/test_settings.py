"""The settings of a run on activations: checked when they are made, and when they are read."""

import json

import pytest

from gramian.activations.settings import FeatureSettings, read_settings, settings_text
from gramian.errors import OptionError, RunError


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"store": None}, "store and layer must be text; got None and None"),
        ({"layer": 3}, "store and layer must be text"),
        ({"centre": 1}, "centre must be True or False; got 1"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"groups": 8, "active": 9}, "must be at most that of groups, 8; got 9"),
        ({"active": 1.5}, "active must be a whole number; got 1.5"),
        ({"batch": True}, "batch must be a whole number"),
        ({"seed": 2**80}, "seed must be at most 63 bits; got 81"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"beta": -1.0}, "beta must be 0 or positive"),
        ({"rate": 1.0}, "rate must be less than 1"),
        ({"encoder": "none"}, "encoder must be one of"),
        ({"select": ["topk"]}, r"select must be a name; got \['topk'\]"),
        ({"encoder": "iterative", "select": "batch_topk"}, "must come with a one-pass encoder"),
        ({"encoder": "iterative", "infer": "fista"}, "infer must be one of 'block_omp', 'block_iht'"),
        ({"infer": 3}, "infer must be a name, or None; got 3"),
        ({"warm_up": -1}, "warm_up must be at least 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"device": "meta"}, "device must be available to torch"),
        ({"device": 3.5}, "device must be available to torch"),
    ],
)
def test_wrong_values(changed, words) -> None:
    with pytest.raises(OptionError, match=words):
        FeatureSettings(**{"store": "x", **changed})


def test_files(tmp_path) -> None:
    path = tmp_path / "settings.json"
    settings = FeatureSettings(store="/a", layer="b", groups=32, patience=None, warm_up=5)
    path.write_text(settings_text(settings))
    assert read_settings(path) == settings
    content = json.loads(path.read_text())
    for text, words in (
        ("{", "as JSON; got"),
        ("[]", "and no others; got no object"),
        (json.dumps({**content, "patch": 16}), "and no others; got other names: 'patch'"),
        (json.dumps({**content, "groups": -1}), "groups must be at least 1"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=words):
            read_settings(path)
    with pytest.raises(RunError, match=r"there must be settings at .*; got no such file"):
        read_settings(tmp_path / "missing")
